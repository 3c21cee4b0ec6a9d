// The stages of sampling at one token, drawn.

import { bar, element } from "./dom.js";
import { grouped, percent, visible } from "./tokens.js";

/** @import { Alternative, Stage, Trace } from "./types.js" */

/** Tokens shown of each stage. */
export const MOST_ROWS = 8;

/** Stages whose tokens one does not want to see. */
const closed = new Set();

/**
 * @param {Stage[]} stages
 * @param {Trace | null} trace how the token was drawn, if it was
 * @param {Alternative[]} top the raw distribution's likeliest
 */
export function stagesOf(stages, trace, top) {
  /** @type {HTMLElement[]} */
  const parts = [drawn(stages, top)];
  if (trace?.draw) parts.push(strip(trace.token, trace.draw));
  parts.push(...stages.map(stageOf));
  if (!stages.length) parts.push(element("p", { class: "soft" }, "No stage is on: the draw is made from the model's own distribution."));
  return parts;
}

/**
 * The model's distribution beside the one that the draw is made from.
 * @param {Stage[]} stages
 * @param {Alternative[]} top
 */
function drawn(stages, top) {
  const rows = top.slice(0, MOST_ROWS).map(({ id, token, bytes, logprob }) => row(visible(token, bytes), Math.exp(logprob), lastOf(id, Math.exp(logprob), stages), id));
  return table("The model's probabilities, and those of the draw", rows);
}

/** What became of a probability: "cut", or not told of by the last stages. @typedef {number | "cut" | null} After */

/**
 * @param {number} id
 * @param {number} raw its probability before all stages
 * @param {Stage[]} stages
 * @returns {After}
 */
function lastOf(id, raw, stages) {
  /** @type {After} */
  let last = raw;
  for (const stage of stages) {
    const token = stage.tokens.find((token) => token.id === id);
    last = token ? afterOf(token.after, stage) : null;
    if (last === "cut") return last;
  }
  return last;
}

/**
 * Where nothing is cut, 0 is a probability too small to be told.
 * @param {number} after
 * @param {Stage} stage
 * @returns {After}
 */
function afterOf(after, { candidates_in: before, candidates_out: left }) {
  return after === 0 && left < before ? "cut" : after;
}

/** @param {Stage} stage */
function stageOf(stage) {
  const { candidates_in: before, candidates_out: after, cut_mass: cut } = stage;
  const words = before === after ? `${grouped(after)}, none cut` : `${grouped(before)} → ${grouped(after)}, ${percent(cut)} cut`;
  const summary = element("summary", {}, element("code", {}, stage.stage), element("span", { class: "soft" }, words));
  const rows = stage.tokens.slice(0, MOST_ROWS).map((token) => row(visible(token.token), token.before, afterOf(token.after, stage), token.id));
  const made = element(
    "details", { class: "stage", open: !closed.has(stage.stage), "data-stage": stage.stage, "data-in": before, "data-out": after, "data-cut": cut },
    summary, table(`Before and after ${stage.stage}`, rows),
  );
  made.addEventListener("toggle", () => (made.open ? closed.delete(stage.stage) : closed.add(stage.stage)));
  return made;
}

/**
 * @param {string} caption
 * @param {HTMLElement[]} rows
 */
function table(caption, rows) {
  return element("table", { class: "before-after" }, element("caption", { class: "hidden" }, caption), element("tbody", {}, ...rows));
}

/**
 * @param {string} name
 * @param {number} before
 * @param {After} after
 * @param {number} id
 */
function row(name, before, after, id) {
  const share = typeof after === "number" ? after : 0;
  const told = after === null ? "–" : after === "cut" ? "cut" : percent(after);
  return element(
    "tr", { class: after === "cut" ? "cut" : null, "data-id": id, "data-before": before, "data-after": share },
    element("th", { scope: "row", class: "mono" }, name),
    element("td", { class: "number" }, `${percent(before)} → ${told}`),
    element("td", { class: "wide" }, bar(before, "before"), bar(share)),
  );
}

/**
 * Where the random number fell: all candidates side by side are 1 wide; the one that was drawn is as wide as it was likely.
 * @param {string} token
 * @param {NonNullable<Trace["draw"]>} draw
 */
function strip(token, { random, low, high }) {
  const drawn = element("span", { class: "landed" });
  drawn.style.left = `${low * 100}%`;
  drawn.style.width = `${(high - low) * 100}%`;
  const needle = element("span", { class: "needle" });
  needle.style.left = `${random * 100}%`;
  return element(
    "div", { class: "draw", "data-random": random },
    element("p", { class: "soft" }, `The random number was ${random.toFixed(4)}: on ${visible(token)}, which goes from ${low.toFixed(4)} to ${high.toFixed(4)}.`),
    element("div", { class: "strip", "aria-hidden": "true" }, drawn, needle),
  );
}
