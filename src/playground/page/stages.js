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
  const last = new Map(stages.at(-1)?.tokens.map(({ id, after }) => [id, after]) ?? top.map(({ id, logprob }) => [id, Math.exp(logprob)]));
  const rows = top.slice(0, MOST_ROWS).map(({ id, token, bytes, logprob }) => row(visible(token, bytes), Math.exp(logprob), last.get(id) ?? 0, id));
  return table("The model's probabilities, and those of the draw", rows);
}

/** @param {Stage} stage */
function stageOf(stage) {
  const { candidates_in: before, candidates_out: after, cut_mass: cut } = stage;
  const words = before === after ? `${grouped(after)}, none cut` : `${grouped(before)} → ${grouped(after)}, ${percent(cut)} cut`;
  const summary = element("summary", {}, element("code", {}, stage.stage), element("span", { class: "soft" }, words));
  const rows = stage.tokens.slice(0, MOST_ROWS).map((token) => row(visible(token.token), token.before, token.after, token.id));
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
 * @param {number} after
 * @param {number} id
 */
function row(name, before, after, id) {
  const isCut = after === 0 && before > 0;
  return element(
    "tr", { class: isCut ? "cut" : null, "data-id": id, "data-before": before, "data-after": after },
    element("th", { scope: "row", class: "mono" }, name),
    element("td", { class: "number" }, `${percent(before)} → ${isCut ? "cut" : percent(after)}`),
    element("td", { class: "wide" }, bar(before, "before"), bar(after)),
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
