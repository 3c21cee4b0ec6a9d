// What is known of one token: itself, and what else might have stood there.

import { bar, element } from "./dom.js";
import { grouped, hex, nats, percent, visible } from "./tokens.js";

/** @import { Alternative, Token } from "./types.js" */

/** Alternatives that are shown before one asks for all. */
const FEW = 12;

/**
 * @param {Token} token
 * @param {number} at
 * @param {{showsAll: boolean, showAll: () => void, fork: ((alternative: Alternative) => void) | null}} on `fork`: null if it cannot be
 */
export function facts(token, at, on) {
  const name = element("p", { class: "name mono" }, visible(token.text, token.bytes));
  const about = element("p", { class: "soft" }, `${token.isPrompt ? "Of the prompt" : "Generated"}, token ${at}, behind ${grouped(token.offset)} characters`);
  const rows = [["id", String(token.id)], ["bytes", token.bytes.length ? hex(token.bytes) : "none"]];
  if (token.logprob === null) {
    rows.push(["probability", "not told: nothing stands before it in the text"]);
  } else {
    rows.push(["probability", percent(Math.exp(token.logprob))], ["logprob", `${nats(token.logprob)} nats`]);
    if (token.rank !== null) rows.push(["rank", grouped(token.rank)]);
    if (token.entropy !== null) rows.push(["entropy", `${nats(token.entropy)} nats, as of ${hesitation(token.entropy)} equally likely tokens`]);
    if (token.tailMass !== null && token.top) rows.push([`outside these ${token.top.length}`, percent(token.tailMass)]);
  }
  const list = element("dl", {}, ...rows.flatMap(([term, value]) => [element("dt", {}, term), element("dd", { "data-fact": term }, value)]));
  return [name, about, list, ...(token.top ? alternatives(token, token.top, on) : [])];
}

/** @param {number} entropy */
function hesitation(entropy) {
  const count = Math.exp(entropy);
  return count < 10 ? count.toFixed(1) : grouped(Math.round(count));
}

/**
 * @param {Token} token
 * @param {Alternative[]} top
 * @param {Parameters<typeof facts>[2]} on
 */
function alternatives(token, top, on) {
  const shown = on.showsAll ? [...top] : top.slice(0, FEW);
  // The token itself stands among them, however unlikely it was.
  if (token.logprob !== null && !shown.some(({ id }) => id === token.id)) {
    shown.push({ id: token.id, token: token.text, bytes: token.bytes, logprob: token.logprob });
  }
  const rows = shown.map((alternative) => {
    const probability = Math.exp(alternative.logprob);
    const isChosen = alternative.id === token.id;
    const text = visible(alternative.token, alternative.bytes);
    const label = isChosen ? `${text}, the one that stands here` : `Go on with ${text} instead`;
    const button = element("button", { type: "button", class: "token-name", disabled: isChosen || !on.fork, "aria-label": label, "data-id": alternative.id }, text);
    if (on.fork && !isChosen) button.addEventListener("click", () => on.fork?.(alternative));
    return element(
      "tr", { class: isChosen ? "chosen" : null },
      element("td", {}, isChosen ? "●" : "", element("span", { class: "hidden" }, isChosen ? "chosen" : "")),
      element("td", {}, button), element("td", { class: "number" }, percent(probability)), element("td", { class: "wide" }, bar(probability)),
    );
  });
  const head = element("tr", {}, ...["", "token", "probability", ""].map((name, index) => element("th", { class: index === 2 ? "number" : null, scope: "col" }, name)));
  const table = element("table", { class: "alternatives" }, element("thead", {}, head), element("tbody", {}, ...rows));
  /** @type {HTMLElement[]} */
  const parts = [element("h3", {}, "What else might have stood here"), table];
  if (!on.showsAll && top.length > FEW) {
    const more = element("button", { type: "button", class: "quiet" }, `All ${top.length}`);
    more.addEventListener("click", on.showAll);
    parts.push(more);
  }
  if (on.fork) parts.push(element("p", { class: "soft" }, "Choose another, and the text goes on from there."));
  return parts;
}
