// A set of questions whose answers are known: how often the model is right, and whether it is as right as it is sure.

import uPlot from "./vendor/uplot/uPlot.esm.js";
import { score } from "./api.js";
import { calibrate, judge, parseSet } from "./calibration.js";
import { csv, save } from "./files.js";
import { element } from "./dom.js";
import { Asking, labelled, modelSelect } from "./forms.js";
import { axis, Plot } from "./plots.js";
import { sampleSet } from "./sample_set.js";
import { percent, visible } from "./tokens.js";

/** @import { Bin, Item, Measure, Verdict } from "./calibration.js" */
/** @import { Context } from "./forms.js" */
/** @import { ScoredItem } from "./types.js" */

/** @type {Measure[]} */
const MEASURES = ["sum", "mean", "per_byte", "per_character", "corrected"];

/** Faults that are told one by one. */
const TOLD_FAULTS = 5;

/**
 * @param {HTMLElement} place
 * @param {Context} context
 */
export function mountSet(place, { models, trouble }) {
  const model = modelSelect(models, "set-model");
  const written = element("textarea", { id: "set-items", rows: 9, spellcheck: "false", required: true, wrap: "off" });
  written.placeholder = '{"stem": "The sky is", "choices": [" blue", " green"], "answer": 0}';
  const faults = element("div", { id: "set-faults", role: "alert", class: "faults" });
  const sample = element("button", { type: "button" }, "Load a sample set");
  sample.addEventListener("click", () => {
    written.value = sampleSet();
    faults.replaceChildren();
  });
  const asking = new Asking("Score the set", "set-status", "No set scored yet.", trouble);
  const form = element(
    "form", { id: "set-form", class: "card stack" },
    element("h2", {}, "A set with known answers"),
    labelled(
      "Items, one a line", written,
      "Each a JSON object: stem, choices (taken as they are, blanks too), and answer, the right choice's place from 0. It may have a neutral stem.",
    ),
    faults,
    labelled("Model", model),
    element("div", { class: "buttons" }, ...asking.buttons, sample),
  );

  const measure = element("select", { id: "set-measure" }, ...MEASURES.map((name) => element("option", { value: name }, name)));
  const figures = element("dl", { id: "set-figures", class: "figures" });
  const plot = element("div", { id: "set-plot", class: "plot" });
  const tables = element("div", { class: "stack" });
  const exported = element("button", { type: "button", id: "set-csv" }, "CSV");
  const shown = element(
    "div", { class: "stack", hidden: true },
    labelled("Choose, and be sure, by", measure, "The choice with the most of it is the model's; its softmax over the item's choices is the confidence."),
    figures,
    element(
      "details", {}, element("summary", {}, "What these are"),
      element("p", {}, "Accuracy: the share of items whose right choice the model chose. Log-loss: the mean of −ln of the right choice's probability, in nats; 0 is perfect."),
      element(
        "p", {},
        "ECE, the expected calibration error: items are put into 10 bins of equal width by confidence; the sum over the bins of (items in the bin ÷ all items) × |accuracy − mean confidence|. 0: as right as it is sure. ",
        element("a", { href: "https://arxiv.org/abs/1706.04599", rel: "noreferrer" }, "Guo et al. 2017"),
        ". With few items in a bin, it tells little.",
      ),
    ),
    element("h3", {}, "Reliability"), plot, tables,
  );
  place.replaceChildren(
    form,
    element(
      "div", { class: "card stack" },
      element("div", { class: "bar-of-tools" }, element("h2", {}, "Calibration"), element("div", { class: "buttons" }, exported)),
      asking.status, shown,
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
    diagram.show([centres, all.bins.map(({ accuracy }) => accuracy), centres], wordsOf(all.bins));
    tables.replaceChildren(tableOfBins(all.bins), tableOfItems(set.items, judged));
    return `${right} of ${judged.length} right, at a mean confidence of ${percent(all.confidence)}: ${verdictOf(all)}.`;
  };

  measure.addEventListener("change", () => asking.say(show()));
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    const read = parseSet(written.value);
    faults.replaceChildren(...read.faults.slice(0, TOLD_FAULTS).map(({ line, message }) => element("p", {}, `Line ${line} ${message}`)));
    if (read.faults.length > TOLD_FAULTS) faults.append(element("p", {}, `And ${read.faults.length - TOLD_FAULTS} more lines.`));
    if (read.faults.length) return written.focus();
    if (!read.items.length) return faults.replaceChildren(element("p", {}, "There is no item."));
    asking.run(async (signal) => {
      const sent = read.items.map(({ stem, choices, neutral }) => ({ stem, choices, neutral }));
      const { data } = await score({ model: model.value, items: sent }, signal);
      set = { items: read.items, scored: data };
      const corrected = /** @type {HTMLOptionElement} */ (measure.options[MEASURES.indexOf("corrected")]);
      corrected.disabled = !read.items.every((item) => item.neutral !== undefined);
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
  const distance = `${Math.abs((confidence - accuracy) * 100).toFixed(1)} percentage points`;
  if (confidence === accuracy) return "as right as it is sure";
  return confidence > accuracy ? `surer than it is right, by ${distance}` : `righter than it is sure, by ${distance}`;
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
      { label: "middle of bin", value: share },
      { label: "accuracy", value: share, stroke: colour("text"), fill: colour("after"), width: 1, points: { show: false }, paths: uPlot.paths.bars?.({ size: [0.9, 200] }) },
      { label: "as right as sure", value: share, stroke: colour("second"), width: 2, dash: [6, 4], points: { show: false } },
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

/** @param {Bin[]} bins */
function wordsOf(bins) {
  const told = bins.filter(({ count }) => count).map(({ from, to, count, accuracy }) => `confidence ${from} to ${to}: ${count} items, accuracy ${percent(accuracy ?? 0)}`);
  return `Accuracy by confidence. ${told.join("; ")}.`;
}

/** @param {Bin[]} bins */
function tableOfBins(bins) {
  return element(
    "details", {}, element("summary", {}, "The bins in numbers"),
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
    "Items", ["Verdict", "Stem", "Right answer", "The model's", "Confi\u00ADdence"],
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
 * @param {number[]} texts columns that are not numbers
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
