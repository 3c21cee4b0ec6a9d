// Questions with known answers: how often the model is right, and how well it is calibrated.

import uPlot from "./vendor/uplot/uPlot.esm.js";
import { score } from "./api.js";
import { calibrate, judge, parseSet } from "./calibration.js";
import { csv, save } from "./files.js";
import { element } from "./dom.js";
import { labelled, modelSelect, RequestControls } from "./forms.js";
import { axis, Plot } from "./plots.js";
import { sampleSet } from "./sample_set.js";
import { counted, percent, visible } from "./tokens.js";

/** @import { Bin, Item, Measure, Verdict } from "./calibration.js" */
/** @import { Context } from "./forms.js" */
/** @import { ScoredItem } from "./types.js" */

/** @type {Measure[]} */
const MEASURES = ["sum", "mean", "per_byte", "per_character", "corrected"];

/** Errors that are listed one by one. */
const MOST_ERRORS = 5;

/**
 * @param {HTMLElement} place
 * @param {Context} context
 */
export function mountSet(place, { models, showError }) {
  const model = modelSelect(models, "set-model");
  const source = element("textarea", { id: "set-items", rows: 9, spellcheck: "false", required: true, wrap: "off" });
  source.placeholder = '{"stem": "The sky is", "choices": [" blue", " green"], "answer": 0}';
  const errors = element("div", { id: "set-errors", role: "alert", class: "form-errors" });
  const sample = element("button", { type: "button" }, "Load a sample set");
  sample.addEventListener("click", () => {
    source.value = sampleSet();
    errors.replaceChildren();
  });
  const controls = new RequestControls("Score the set", "set-status", "No set scored yet.", showError);
  const form = element(
    "form", { id: "set-form", class: "card stack" },
    element("h2", {}, "Questions with known answers"),
    labelled(
      "Items, one per line", source,
      "Each item is a JSON object with “stem”, “choices” (sent unchanged, spaces included) and “answer” (the right choice's index, from 0). A stem in “neutral” is optional.",
    ),
    errors,
    labelled("Model", model),
    element("div", { class: "buttons" }, ...controls.buttons, sample),
  );

  const measure = element("select", { id: "set-measure" }, ...MEASURES.map((name) => element("option", { value: name }, name)));
  const figures = element("dl", { id: "set-figures", class: "figures" });
  const plot = element("div", { id: "set-plot", class: "plot" });
  const tables = element("div", { class: "stack" });
  const exported = element("button", { type: "button", id: "set-csv" }, "CSV");
  const shown = element(
    "div", { class: "stack", hidden: true },
    labelled("Measure", measure, "The model's answer is the choice with the highest value. Its confidence is the softmax of the values of the item's choices."),
    figures,
    element(
      "details", {}, element("summary", {}, "What these numbers mean"),
      element("p", {}, "Accuracy: the share of items that the model answers correctly. Log-loss: the mean of −ln of the right choice's probability, in nats; 0 is perfect."),
      element(
        "p", {},
        "ECE (expected calibration error): items are grouped by confidence into 10 bins of equal width. ECE is the sum over the bins of (items in the bin ÷ all items) × |accuracy − mean confidence|; 0 means that accuracy equals confidence in every bin (",
        element("a", { href: "https://arxiv.org/abs/1706.04599", rel: "noreferrer" }, "Guo et al. 2017"),
        "). With few items per bin it means little.",
      ),
    ),
    element("h3", {}, "Reliability diagram"), plot, tables,
  );
  place.replaceChildren(
    form,
    element(
      "div", { class: "card stack" },
      element("div", { class: "bar-of-tools" }, element("h2", {}, "Calibration"), element("div", { class: "buttons" }, exported)),
      controls.statusLine, shown,
    ),
  );
  exported.disabled = true;

  /** @type {number[]} */
  let counts = [];
  const diagram = new Plot(plot, (colour) => reliability(colour, () => counts), 260);
  /** @type {{items: Item[], scored: ScoredItem[]}} */
  let set = { items: [], scored: [] };
  const verdicts = () => set.items.map((item, at) => judge(set.scored[at], item.answer, /** @type {Measure} */ (measure.value)));
  const show = () => {
    const judged = verdicts();
    const all = calibrate(judged);
    const right = judged.filter(({ isRight }) => isRight).length;
    figures.replaceChildren(
      ...figure("Accuracy", `${percent(all.accuracy)} (${right} of ${judged.length})`),
      ...figure("Mean confidence", percent(all.confidence)),
      ...figure("Log-loss", `${all.logLoss.toFixed(4)} nats`),
      ...figure("ECE", all.ece.toFixed(4)),
    );
    counts = all.bins.map(({ count }) => count);
    const centres = all.bins.map(({ from, to }) => (from + to) / 2);
    diagram.show([centres, all.bins.map(({ accuracy }) => accuracy), centres], describe(all.bins));
    tables.replaceChildren(tableOfBins(all.bins), tableOfItems(set.items, judged));
    return `${right} of ${judged.length} right, mean confidence ${percent(all.confidence)}: ${verdictOf(all)}.`;
  };

  measure.addEventListener("change", () => controls.setStatus(show()));
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    const parsed = parseSet(source.value);
    errors.replaceChildren(...parsed.errors.slice(0, MOST_ERRORS).map(({ line, message }) => element("p", {}, `Line ${line} ${message}`)));
    if (parsed.errors.length > MOST_ERRORS) errors.append(element("p", {}, `Errors in ${counted(parsed.errors.length - MOST_ERRORS, "more line")}.`));
    if (parsed.errors.length) return source.focus();
    if (!parsed.items.length) return errors.replaceChildren(element("p", {}, "Enter at least one item."));
    controls.run(async (signal) => {
      const sent = parsed.items.map(({ stem, choices, neutral }) => ({ stem, choices, neutral }));
      const { data } = await score({ model: model.value, items: sent }, signal);
      set = { items: parsed.items, scored: data };
      const corrected = /** @type {HTMLOptionElement} */ (measure.options[MEASURES.indexOf("corrected")]);
      corrected.disabled = !parsed.items.every((item) => item.neutral !== undefined);
      if (corrected.disabled && corrected.selected) measure.selectedIndex = 0;
      shown.hidden = false;
      exported.disabled = false;
      return show();
    });
  });
  exported.addEventListener("click", () => save("candor-calibration.csv", "text/csv", asCsv(set.items, verdicts(), measure.value)));
}

/** @param {{accuracy: number, confidence: number}} all */
function verdictOf({ accuracy, confidence }) {
  if (confidence === accuracy) return "neither over- nor underconfident";
  const points = Math.abs((confidence - accuracy) * 100).toFixed(1);
  return `${confidence > accuracy ? "over" : "under"}confident by ${points} percentage points`;
}

/**
 * @param {string} name
 * @param {string} value
 */
function figure(name, value) {
  return [element("dt", {}, name), element("dd", {}, value)];
}

/**
 * @param {(name: string) => string} colour
 * @param {() => number[]} counts items in each bin
 * @returns {Partial<uPlot.Options>}
 */
function reliability(colour, counts) {
  const share = (/** @type {unknown} */ _, /** @type {number | null} */ value) => (value === null ? "–" : value.toFixed(2));
  return {
    scales: { x: { time: false, range: [0, 1] }, y: { range: [0, 1.08] } },
    axes: [
      axis(colour, "confidence"),
      axis(colour, "accuracy", { splits: () => [0, 0.2, 0.4, 0.6, 0.8, 1] }),
    ],
    series: [
      { label: "bin centre", value: share },
      { label: "accuracy", value: share, stroke: colour("text"), fill: colour("after"), width: 1, points: { show: false }, paths: uPlot.paths.bars?.({ size: [0.9, 200] }) },
      { label: "perfect calibration", value: share, stroke: colour("second"), width: 2, dash: [6, 4], points: { show: false } },
    ],
    hooks: {
      draw: [(plot) => {
        const { ctx } = plot;
        ctx.save();
        ctx.fillStyle = colour("text");
        ctx.font = `${11 * devicePixelRatio}px system-ui`;
        ctx.textAlign = "center";
        counts().forEach((count, at) => {
          const accuracy = plot.data[1][at];
          if (count) ctx.fillText(String(count), plot.valToPos(plot.data[0][at], "x", true), plot.valToPos(accuracy ?? 0, "y", true) - 4 * devicePixelRatio);
        });
        ctx.restore();
      }],
    },
  };
}

/** The diagram in words, for screen readers. @param {Bin[]} bins */
function describe(bins) {
  const filled = bins.filter(({ count }) => count).map(({ from, to, count, accuracy }) => `confidence ${from} to ${to}: ${counted(count, "item")}, accuracy ${percent(accuracy ?? 0)}`);
  return `Accuracy by confidence. ${filled.join("; ")}.`;
}

/** @param {Bin[]} bins */
function tableOfBins(bins) {
  return element(
    "details", {}, element("summary", {}, "Bins in numbers"),
    table(
      "Bins", ["Confidence", "Items", "Mean confidence", "Accuracy"],
      bins.map(({ from, to, count, confidence, accuracy }) => [
        `${from} to ${to}`, String(count), confidence === null ? "–" : percent(confidence), accuracy === null ? "–" : percent(accuracy),
      ]),
    ),
  );
}

/**
 * @param {Item[]} items
 * @param {Verdict[]} verdicts
 */
function tableOfItems(items, verdicts) {
  return element("div", { class: "scrolled items", tabindex: 0, role: "region", "aria-label": "Items" }, table(
    "Items", ["Verdict", "Stem", "Right answer", "Model's answer", "Confi\u00ADdence"],
    items.map(({ stem, choices, answer }, at) => {
      const { chosen, isRight, confidence } = verdicts[at];
      return [isRight ? "right" : "wrong", stem, visible(choices[answer]), visible(choices[chosen]), percent(confidence)];
    }),
    [0, 1, 2, 3],
    (at) => (verdicts[at].isRight ? "" : "wrong"),
  ));
}

/**
 * @param {string} caption
 * @param {string[]} head
 * @param {string[][]} rows
 * @param {number[]} texts the columns that hold text
 * @param {(at: number) => string} [kind] a row's class
 */
function table(caption, head, rows, texts = [], kind = () => "") {
  return element(
    "table", {},
    element("caption", { class: "hidden" }, caption),
    element("thead", {}, element("tr", {}, ...head.map((text, column) => element("th", { scope: "col", class: texts.includes(column) ? null : "number" }, text)))),
    element("tbody", {}, ...rows.map((row, at) => element("tr", { class: kind(at) || null }, ...row.map((text, column) => element("td", { class: texts.includes(column) ? null : "number" }, text))))),
  );
}

/**
 * @param {Item[]} items
 * @param {Verdict[]} verdicts
 * @param {string} measure
 */
function asCsv(items, verdicts, measure) {
  const head = ["item", "stem", "answer", "answer_text", "chosen", "chosen_text", "right", "measure", "confidence", "answer_probability", "log_loss"];
  return csv([head, ...items.map(({ stem, choices, answer }, at) => {
    const { chosen, isRight, confidence, answerProbability, logLoss } = verdicts[at];
    return [at, stem, answer, choices[answer], chosen, choices[chosen], isRight, measure, confidence, answerProbability, logLoss];
  })]);
}
