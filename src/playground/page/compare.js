// The Compare tab: one prompt with two settings or models, token by token.

import { align } from "./align.js";
import { complete } from "./api.js";
import { csv, save } from "./files.js";
import { element } from "./dom.js";
import { labelled, modelSelect, RequestControls } from "./forms.js";
import { legend } from "./legend.js";
import { Settings } from "./settings.js";
import { TextView } from "./text_view.js";
import { counted, detailOptions, nats, percent, tokensOf, visible } from "./tokens.js";

/** @import { Kind, Row } from "./align.js" */
/** @import { Context } from "./forms.js" */
/** @import { Body, Token } from "./types.js" */

/** One side's controls and its text. @typedef {ReturnType<typeof side>} Side */
/** Its answer. @typedef {{model: string, tokens: Token[], finish: string | null}} Answer */

/** The text below both sides while no token is selected. */
const HINT = "Point at a token or use the arrow keys. Enter goes to its row below.";

/** @type {{name: string, a: Body, b: Body, seeds: [number, number]}[]} */
const PRESETS = [
  { name: "temperature 0 vs 1", a: { temperature: 0 }, b: { temperature: 1 }, seeds: [1, 1] },
  // The other samplers that cut are off, so that only top_k differs.
  { name: "top_k 2 vs all", a: { top_k: 2, top_p: 1, min_p: 0 }, b: { top_k: 0, top_p: 1, min_p: 0 }, seeds: [1, 1] },
  { name: "seed 1 vs 2", a: {}, b: {}, seeds: [1, 2] },
];

/** How a row's two sides compare. @type {Record<Kind | "moved", string>} */
const VERDICTS = {
  same: "= same",
  moved: "~ probability",
  recut: "/ other tokens",
  differs: "≠ differs",
  "only-a": "← only A",
  "only-b": "→ only B",
};

/**
 * @param {HTMLElement} place
 * @param {Context} context
 */
export function mountCompare(place, context) {
  const prompt = element("textarea", { id: "compare-prompt", rows: 2, spellcheck: "false" });
  prompt.value = "The capital of Michigan is";
  const length = element("input", { id: "compare-max-tokens", type: "number", min: 0, max: 1024, value: 24, required: true });
  const controls = new RequestControls("Run both", "compare-status", "Nothing compared yet.", context.showError);
  const sides = [side("A", context), side("B", context)];
  const [a, b] = sides;
  if (context.models.length > 1) b.model.selectedIndex = 1;

  const presets = PRESETS.map((preset) => {
    const button = element("button", { type: "button" }, preset.name);
    button.addEventListener("click", () => {
      a.settings.set(preset.a);
      b.settings.set(preset.b);
      [a.seed.value, b.seed.value] = preset.seeds.map(String);
      b.model.value = a.model.value;
      controls.setStatus(`Preset “${preset.name}” is set. Press Run both.`);
    });
    return button;
  });
  const form = element(
    "form", { id: "compare-form", class: "card stack" },
    element("div", { class: "prompt-and-length" }, labelled("Prompt", prompt), labelled("max_tokens", length)),
    element("div", { class: "buttons", role: "group", "aria-label": "Presets" }, ...presets),
    element("div", { class: "sides" }, a.controls, b.controls),
    element("div", { class: "buttons" }, ...controls.buttons),
    controls.statusLine,
  );

  const details = element("p", { id: "compare-details", class: "soft" }, HINT);
  const summary = element("div", { class: "scrolled", tabindex: 0, role: "region", "aria-label": "Summary of both sides" });
  const filter = element("select", { id: "compare-rows" }, ...[["all", "all rows"], ["generated", "generated tokens"], ["different", "rows that differ"]].map(([value, text]) => element("option", { value }, text)));
  const table = element("div", { id: "compare-table", class: "scrolled", tabindex: 0, role: "region", "aria-label": "Tokens side by side" });
  const exported = element("button", { type: "button", id: "compare-csv" }, "CSV");
  const results = element(
    "div", { class: "stack", hidden: true },
    element("div", { class: "card" }, legend(), element("div", { class: "sides" }, a.shown, b.shown), details),
    element("div", { class: "card" }, element("h2", {}, "Summary"), summary),
    element(
      "div", { class: "card" },
      element("div", { class: "bar-of-tools" }, element("h2", {}, "Token by token"), element("div", { class: "buttons" }, element("label", {}, "Show ", filter), exported)),
      element("p", { class: "soft" }, "Probabilities are the model's own, before sampling. While the texts are the same, tokens are grouped until both sides end at the same character. From where they diverge, the longest common subsequence of tokens is aligned."),
      table,
    ),
  );
  place.replaceChildren(element("div", { class: "stack" }, form, results));

  /** @type {Comparison | null} */
  let comparison = null;
  const showRows = () => {
    if (comparison) table.replaceChildren(tableOf(comparison, filter.value, (row) => point(row)));
  };
  /** Highlights a row's tokens in both texts. @param {Row | null} row */
  const point = (row) => {
    a.view.point(row && row.a[0] < row.a[1] ? row.a[0] : null);
    b.view.point(row && row.b[0] < row.b[1] ? row.b[0] : null);
  };
  /** @param {Side} here @param {number | null} at */
  const highlight = (here, at) => {
    const row = at === null ? null : rowOf(comparison, here, at);
    table.querySelector("tr.pointed")?.classList.remove("pointed");
    point(row);
    if (!row || !comparison) return;
    details.textContent = describe(comparison, row);
    table.querySelector(`#${rowId(comparison, row)}`)?.classList.add("pointed");
  };
  for (const here of sides) {
    here.listen({
      hover: (at) => highlight(here, at),
      select: (at) => highlight(here, at),
      open: (at) => {
        const row = rowOf(comparison, here, at);
        if (!row || !comparison) return;
        if (!table.querySelector(`#${rowId(comparison, row)}`)) {
          filter.value = "all";
          showRows();
        }
        /** @type {HTMLElement | null} */ (table.querySelector(`#${rowId(comparison, row)}`))?.focus();
      },
    });
  }
  filter.addEventListener("change", showRows);
  exported.addEventListener("click", () => comparison && save("candor-comparison.csv", "text/csv", asCsv(comparison)));

  form.addEventListener("submit", (event) => {
    event.preventDefault();
    controls.run(async (signal) => {
      // If one side fails, the other is cancelled.
      const other = new AbortController();
      const either = AbortSignal.any([signal, other.signal]);
      const common = { prompt: prompt.value, max_tokens: length.valueAsNumber, echo: true, ...detailOptions(context.fields) };
      const answers = await Promise.all(sides.map((here) => here.complete(common, either))).catch((error) => {
        other.abort();
        throw error;
      });
      comparison = compare(answers[0], answers[1], prompt.value);
      sides.forEach((here, at) => here.show(answers[at]));
      results.hidden = false;
      details.textContent = HINT;
      summary.replaceChildren(tableOfSums(comparison));
      showRows();
      return summarize(comparison);
    });
  });
}

/**
 * @param {"A" | "B"} name
 * @param {Context} context
 */
function side(name, { models, fields }) {
  const prefix = `compare-${name.toLowerCase()}`;
  const model = modelSelect(models, `${prefix}-model`);
  const seed = element("input", { id: `${prefix}-seed`, type: "number", step: 1, value: 1, placeholder: "random", min: fields.seed?.minimum, max: fields.seed?.maximum });
  const place = element("div");
  const settings = new Settings(place, fields, prefix, () => {});
  const controls = element(
    "fieldset", { class: "side" }, element("legend", {}, `Side ${name}`),
    element("div", { class: "model-and-seed" }, labelled("Model", model), labelled("seed", seed)), place,
  );
  const text = element("div", { id: `${prefix}-text`, class: "text", "aria-label": `Tokens of side ${name}` });
  const shown = element("div", { class: "side" }, element("h2", {}, `Side ${name}`), text);
  const on = { select: (/** @type {number} */ _) => {}, hover: (/** @type {number | null} */ _) => {}, open: (/** @type {number} */ _) => {} };
  const view = new TextView(text, {
    select: (at) => on.select(at),
    hover: (at) => on.hover(at),
    open: (at) => on.open(at),
  });
  return {
    name, model, seed, settings, controls, shown, view,
    /** @param {typeof on} handlers */
    listen: (handlers) => void Object.assign(on, handlers),
    /**
     * @param {Body} common
     * @param {AbortSignal} signal
     * @returns {Promise<Answer>}
     */
    complete: async (common, signal) => {
      /** @type {Body} */
      const body = { ...common, model: model.value, ...settings.body() };
      if (seed.value !== "") body.seed = seed.valueAsNumber;
      try {
        const { choices: [choice], model: answered } = await complete(body, signal);
        return { model: answered, tokens: tokensOf(choice), finish: choice.finish_reason };
      } catch (error) {
        if (error instanceof Error && !signal.aborted) error.message = `Side ${name}: ${error.message}`;
        throw error;
      }
    },
    /** @param {Answer} answer */
    show: ({ tokens }) => {
      view.clear();
      view.append(tokens);
    },
  };
}

/**
 * Two aligned answers.
 * @typedef {{a: Answer, b: Answer, rows: Row[], divergence: number}} Comparison
 * @param {Answer} a
 * @param {Answer} b
 * @param {string} prompt
 * @returns {Comparison}
 */
export function compare(a, b, prompt) {
  return { a, b, ...align(pieces(a.tokens, prompt), pieces(b.tokens, prompt)) };
}

/**
 * The tokens' bytes, without the space that some tokenizers put before every text: the other side may lack it.
 * @param {Token[]} tokens
 * @param {string} prompt
 */
function pieces(tokens, prompt) {
  const length = tokens.reduce((sum, { isPrompt, bytes }) => sum + (isPrompt ? bytes.length : 0), 0);
  const isAdded = tokens[0]?.bytes[0] === 0x20 && length === new TextEncoder().encode(prompt).length + 1;
  return tokens.map(({ bytes }, at) => ({ bytes: at === 0 && isAdded ? bytes.slice(1) : bytes }));
}

/**
 * @param {Comparison | null} comparison
 * @param {Side} side
 * @param {number} at
 */
function rowOf(comparison, side, at) {
  const which = side.name === "A" ? "a" : "b";
  return comparison?.rows.find((row) => row[which][0] <= at && at < row[which][1]) ?? null;
}

/** @param {Comparison} comparison @param {Row} row */
function rowId({ rows }, row) {
  return `compare-row-${rows.indexOf(row)}`;
}

/**
 * What one side has in a row.
 * @param {Comparison} comparison
 * @param {Row} row
 * @param {"a" | "b"} which
 */
function cell(comparison, row, which) {
  const tokens = comparison[which].tokens.slice(...row[which]);
  return { tokens, isPrompt: tokens.length > 0 && tokens.every(({ isPrompt }) => isPrompt), logprob: sum(tokens) };
}

/**
 * The sum of the logprobs; null if there are no tokens, or one of them has none.
 * @param {Token[]} tokens
 * @returns {number | null}
 */
function sum(tokens) {
  if (!tokens.length) return null;
  return tokens.reduce((/** @type {number | null} */ sum, { logprob }) => (sum === null || logprob === null ? null : sum + logprob), 0);
}

/** @param {Comparison} comparison @param {Row} row */
function kind(comparison, row) {
  const isMoved = row.kind === "same" && cell(comparison, row, "a").logprob !== cell(comparison, row, "b").logprob;
  return isMoved ? "moved" : row.kind;
}

/** @param {number | null} logprob */
function chance(logprob) {
  return logprob === null ? "–" : percent(Math.exp(logprob));
}

/**
 * B's probability minus A's, for rows with the same text on both sides.
 * @param {Comparison} comparison
 * @param {Row} row
 */
function difference(comparison, row) {
  const [a, b] = [cell(comparison, row, "a").logprob, cell(comparison, row, "b").logprob];
  return (row.kind === "same" || row.kind === "recut") && a !== null && b !== null ? Math.exp(b) - Math.exp(a) : null;
}

/** @param {number | null} points */
function signed(points) {
  if (points === null) return "–";
  if (points === 0) return "0";
  const amount = Math.abs(points * 100);
  return `${points > 0 ? "+" : "−"}${amount < 0.005 ? amount.toExponential(0) : amount.toFixed(2)}`;
}

/** @param {Token[]} tokens */
function names(tokens) {
  return tokens.length ? tokens.map(({ text, bytes }) => visible(text, bytes)).join(" | ") : "–";
}

/** A row in words. @param {Comparison} comparison @param {Row} row */
function describe(comparison, row) {
  const of = (/** @type {"a" | "b"} */ which) => {
    const { tokens, logprob } = cell(comparison, row, which);
    if (!tokens.length) return `${which.toUpperCase()}: nothing`;
    const rank = tokens.length === 1 && tokens[0].rank !== null ? `, rank ${tokens[0].rank}` : "";
    return `${which.toUpperCase()}: “${names(tokens)}” ${logprob === null ? "no probability" : chance(logprob)}${rank}`;
  };
  return `${of("a")} · ${of("b")}.`;
}

/** Where the texts diverge, and how likely each side's token was on the other. @param {Comparison} comparison */
function summarize(comparison) {
  const { rows, divergence, a, b } = comparison;
  if (divergence < 0) {
    const moved = rows.filter((row) => kind(comparison, row) === "moved").length;
    const recut = rows.filter(({ kind }) => kind === "recut").length;
    if (!moved && !recut) return "The texts are the same, and so is every probability.";
    const tokens = `${counted(moved, "token")} with different probabilities`;
    return `The texts are the same. ${tokens}${recut ? `, ${counted(recut, "row")} with different tokens` : ""}.`;
  }
  const row = rows[divergence];
  const [ofA, ofB] = [a.tokens[row.a[0]], b.tokens[row.b[0]]];
  const where = `The texts diverge at token ${row.a[0] - a.tokens.filter(({ isPrompt }) => isPrompt).length + 1} of A's completion`;
  if (!ofA || !ofB) return `${where}: ${ofA ? "B" : "A"} ends, ${ofA ? "A" : "B"} continues with “${visible((ofA ?? ofB).text)}”.`;
  // The text before both is the same, so each may be among the other's alternatives.
  const elsewhere = (/** @type {Token} */ token, /** @type {Token} */ at) => at.top?.find(({ bytes }) => bytes.join() === token.bytes.join())?.logprob;
  const odds = (/** @type {string} */ name, /** @type {Token} */ token, /** @type {string} */ other, /** @type {Token} */ at) => {
    const there = elsewhere(token, at);
    return `${name} continues with “${visible(token.text, token.bytes)}” (${chance(token.logprob)}; on side ${other} ${there === undefined ? `less than any of the ${counted(at.top?.length ?? 0, "most likely token")}` : percent(Math.exp(there))})`;
  };
  return `${where}: ${odds("A", ofA, "B", ofB)}, ${odds("B", ofB, "A", ofA)}.`;
}

/** @param {Comparison} comparison */
function tableOfSums({ a, b }) {
  const of = (/** @type {Answer} */ { model, tokens, finish }) => {
    const prompt = tokens.filter(({ isPrompt }) => isPrompt);
    const made = tokens.filter(({ isPrompt }) => !isPrompt);
    const [ofPrompt, ofMade] = [sum(prompt.filter(({ logprob }) => logprob !== null)), sum(made)];
    const bytes = made.reduce((sum, { bytes }) => sum + bytes.length, 0);
    return [
      model, String(prompt.length), nats(ofPrompt), String(made.length), nats(ofMade),
      nats(ofMade === null ? null : ofMade / made.length), nats(ofMade === null || !bytes ? null : ofMade / bytes), finish ?? "–",
    ];
  };
  const [sideA, sideB] = [of(a), of(b)];
  const names = [
    "model", "prompt: tokens", "prompt: sum of logprobs, from the second token", "completion: tokens", "completion: sum of logprobs",
    "completion: mean per token", "completion: mean per byte", "finish reason",
  ];
  return element(
    "table", { id: "compare-sums" },
    element("caption", { class: "hidden" }, "Summary of both sides; logprobs in nats"),
    element("thead", {}, element("tr", {}, element("td"), element("th", { scope: "col" }, "A"), element("th", { scope: "col" }, "B"))),
    element("tbody", {}, ...names.map((name, at) => element("tr", {}, element("th", { scope: "row" }, name), element("td", {}, sideA[at]), element("td", {}, sideB[at])))),
  );
}

/**
 * @param {Comparison} comparison
 * @param {string} filter the rows to show
 * @param {(row: Row | null) => void} point
 */
function tableOf(comparison, filter, point) {
  const { rows, divergence } = comparison;
  const wanted = rows.filter((row) => {
    if (filter === "generated") return !cell(comparison, row, "a").isPrompt && !cell(comparison, row, "b").isPrompt;
    return filter === "all" || kind(comparison, row) !== "same";
  });
  if (!wanted.length) return element("p", { class: "soft" }, "No rows to show.");
  const body = element("tbody", {}, ...wanted.map((row) => {
    const [a, b] = [cell(comparison, row, "a"), cell(comparison, row, "b")];
    const isDivergence = row === rows[divergence];
    const made = element(
      "tr", { id: rowId(comparison, row), tabindex: -1, class: `row-${row.kind}${a.isPrompt || b.isPrompt ? " prompt-row" : ""}${isDivergence ? " divergence" : ""}` },
      ...cells(a), ...cells(b),
      element("td", { class: "number" }, signed(difference(comparison, row))),
      element("td", {}, VERDICTS[kind(comparison, row)], ...(isDivergence ? [element("strong", {}, " first difference")] : [])),
    );
    made.addEventListener("mouseenter", () => point(row));
    made.addEventListener("mouseleave", () => point(null));
    made.addEventListener("focus", () => point(row));
    return made;
  }));
  const head = [["A", ""], ["probability", "number chance"], ["B", ""], ["probability", "number chance"], ["B − A, points", "number"], ["Verdict", ""]];
  return element(
    "table", { class: "aligned" },
    element("caption", { class: "hidden" }, "Tokens of A and B row by row; tokens of the prompt are in italics"),
    element("thead", {}, element("tr", {}, ...head.map(([text, kind]) => element("th", { scope: "col", class: kind || null }, text)))),
    body,
  );
}

/**
 * On narrow screens the probability is shown below the token instead of in its own column.
 * @param {ReturnType<typeof cell>} side
 */
function cells({ tokens, logprob }) {
  return [element("td", { class: "mono", "data-chance": chance(logprob) }, names(tokens)), element("td", { class: "number chance" }, chance(logprob))];
}

/** @param {Comparison} comparison */
function asCsv(comparison) {
  const head = ["a_tokens", "a_token_ids", "a_logprob", "b_tokens", "b_token_ids", "b_logprob", "difference", "prompt", "kind"];
  return csv([head, ...comparison.rows.map((row) => {
    const [a, b] = [cell(comparison, row, "a"), cell(comparison, row, "b")];
    const of = (/** @type {ReturnType<typeof cell>} */ { tokens, logprob }) => [tokens.map(({ text }) => text).join(""), tokens.map(({ id }) => id).join(" "), logprob];
    return [...of(a), ...of(b), difference(comparison, row), a.isPrompt || b.isPrompt, row.kind];
  })]);
}
