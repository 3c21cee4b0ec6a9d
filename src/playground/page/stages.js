// The stages of sampling at one token, drawn.

import { bar, element } from "./dom.js";
import { grouped, percent, visible } from "./tokens.js";

/** @import { Alternative, Stage, Trace } from "./types.js" */

const MOST_ROWS = 8;

/** Stages whose tokens one does not want to see. */
const closed = new Set();

/**
 * @param {Stage[]} stages
 * @param {Trace["draw"]} draw
 * @param {Alternative[]} top the raw distribution's likeliest
 */
export function stagesOf(stages, draw, top) {
  /** @type {HTMLElement[]} */
  const parts = [drawn(stages, top)];
  if (draw) parts.push(strip(stages, draw));
  parts.push(...stages.map(stageOf));
  if (!stages.length) parts.push(element("p", { class: "soft" }, "No stage is on: the draw is made from the model's own distribution."));
  return parts;
}

/**
 * What the draw is made from, by token: what the last stage left.
 * @param {Stage[]} stages
 * @param {Alternative[]} top
 * @returns {Map<number, number>}
 */
export function lastOf(stages, top) {
  const last = stages.at(-1);
  if (!last) return new Map(top.map(({ id, logprob }) => [id, Math.exp(logprob)]));
  return new Map(last.tokens.filter(({ after }) => after > 0).map(({ id, after }) => [id, after]));
}

/**
 * The model's distribution beside the one that the draw is made from.
 * @param {Stage[]} stages
 * @param {Alternative[]} top
 */
function drawn(stages, top) {
  const last = lastOf(stages, top);
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
 * Where the random number fell: the candidates side by side, each as wide as it is likely.
 * @param {Stage[]} stages
 * @param {NonNullable<Trace["draw"]>} draw
 */
function strip(stages, draw) {
  const last = stages.at(-1)?.tokens.filter(({ after }) => after > 0) ?? [];
  const fell = last.find(({ after }) => Math.abs(after - (draw.high - draw.low)) < 1e-6);
  const on = fell ? ` That is on ${visible(fell.token)}.` : "";
  const chosen = element("span", { class: "landed" });
  chosen.style.left = `${draw.low * 100}%`;
  chosen.style.width = `${(draw.high - draw.low) * 100}%`;
  const needle = element("span", { class: "needle" });
  needle.style.left = `${draw.random * 100}%`;
  return element(
    "div", { class: "draw", "data-random": draw.random },
    element("p", { class: "soft" }, `The random number was ${draw.random.toFixed(4)}. It fell between ${draw.low.toFixed(4)} and ${draw.high.toFixed(4)}.${on}`),
    element("div", { class: "strip", "aria-hidden": "true" }, chosen, needle),
  );
}
