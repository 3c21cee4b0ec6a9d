// The sampling stages of one token, drawn as bars.

import { bar, element } from "./dom.js";
import { grouped, percent, visible } from "./tokens.js";

/** @import { Alternative, Stage, Trace } from "./types.js" */

/** Tokens shown of each stage. */
export const MOST_ROWS = 8;

/** Stages that were collapsed. */
const closed = new Set();

/**
 * @param {Stage[]} stages
 * @param {Trace | null} trace how the token was drawn, if it was
 * @param {Alternative[]} top the most likely tokens of the raw distribution
 */
export function stagesOf(stages, trace, top) {
  /** @type {HTMLElement[]} */
  const parts = [overview(stages, top)];
  if (trace?.draw) parts.push(drawStrip(trace.token, trace.draw));
  parts.push(...stages.map(stageOf));
  if (!stages.length) parts.push(element("p", { class: "soft" }, "No sampling stage is active: tokens are drawn from the model's own distribution."));
  return parts;
}

/**
 * The model's distribution next to the one that tokens are drawn from.
 * @param {Stage[]} stages
 * @param {Alternative[]} top
 */
function overview(stages, top) {
  const rows = top.slice(0, MOST_ROWS).map(({ id, token, bytes, logprob }) => row(visible(token, bytes), Math.exp(logprob), lastOf(id, Math.exp(logprob), stages), id));
  return table("Probabilities before and after sampling", rows);
}

/** A probability after sampling: "cut", or null if the last stage does not list the token. @typedef {number | "cut" | null} After */

/**
 * @param {number} id
 * @param {number} raw its probability before the first stage
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
 * Where nothing is cut, 0 is a probability too small for a double.
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
  const counts = before === after ? `${grouped(after)}, none cut` : `${grouped(before)} → ${grouped(after)}, ${percent(cut)} cut`;
  const summary = element("summary", {}, element("code", {}, stage.stage), element("span", { class: "soft" }, counts));
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
  const shown = after === null ? "–" : after === "cut" ? "cut" : percent(after);
  return element(
    "tr", { class: after === "cut" ? "cut" : null, "data-id": id, "data-before": before, "data-after": share },
    element("th", { scope: "row", class: "mono" }, name),
    element("td", { class: "number" }, `${percent(before)} → ${shown}`),
    element("td", { class: "wide" }, bar(before, "before"), bar(share)),
  );
}

/**
 * Where the random number fell. The strip is 1 wide; the drawn token covers as much of it as its probability.
 * @param {string} token
 * @param {NonNullable<Trace["draw"]>} draw
 */
function drawStrip(token, { random, low, high }) {
  const drawn = element("span", { class: "landed" });
  drawn.style.left = `${low * 100}%`;
  drawn.style.width = `${(high - low) * 100}%`;
  const needle = element("span", { class: "needle" });
  needle.style.left = `${random * 100}%`;
  return element(
    "div", { class: "draw", "data-random": random },
    element("p", { class: "soft" }, `The random number ${random.toFixed(4)} fell on ${visible(token)}, which covers ${low.toFixed(4)} to ${high.toFixed(4)}.`),
    element("div", { class: "strip", "aria-hidden": "true" }, drawn, needle),
  );
}
