// The details of one token, and its alternatives.

import { bar, element } from "./dom.js";
import { grouped, hex, nats, percent, visible } from "./tokens.js";

/** @import { Alternative, Token } from "./types.js" */

/** Alternatives that are shown at first. */
const FEW = 12;

/**
 * @param {Token} token
 * @param {number} at
 * @param {{showsAll: boolean, showAll: () => void, fork: ((alternative: Alternative) => void) | null}} on `fork`: null if there is no forking
 */
export function facts(token, at, on) {
  const name = element("p", { class: "name mono" }, visible(token.text, token.bytes));
  const about = element("p", { class: "soft" }, `${token.isPrompt ? "Prompt" : "Generated"} token ${at}, at character ${grouped(token.offset)}`);
  const rows = [["id", String(token.id)], ["bytes", token.bytes.length ? hex(token.bytes) : "none"]];
  if (token.logprob === null) {
    rows.push(["probability", "none: no token precedes it"]);
  } else {
    rows.push(["probability", percent(Math.exp(token.logprob))], ["logprob", `${nats(token.logprob)} nats`]);
    if (token.rank !== null) rows.push(["rank", grouped(token.rank)]);
    if (token.entropy !== null) rows.push(["entropy", `${nats(token.entropy)} nats, like ${perplexity(token.entropy)} equally likely tokens`]);
    if (token.tailMass !== null && token.top) rows.push([`beyond top ${token.top.length}`, percent(token.tailMass)]);
  }
  const list = element("dl", {}, ...rows.flatMap(([term, value]) => [element("dt", {}, term), element("dd", { "data-fact": term }, value)]));
  return [name, about, list, ...(token.top ? alternatives(token, token.top, on) : [])];
}

/** @param {number} entropy */
function perplexity(entropy) {
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
  // The token itself is always listed, however unlikely it was.
  if (token.logprob !== null && !shown.some(({ id }) => id === token.id)) {
    shown.push({ id: token.id, token: token.text, bytes: token.bytes, logprob: token.logprob });
  }
  const rows = shown.map((alternative) => {
    const probability = Math.exp(alternative.logprob);
    const isChosen = alternative.id === token.id;
    const text = visible(alternative.token, alternative.bytes);
    const label = isChosen ? `${text}, the token in the text` : `Continue with ${text} instead`;
    const button = element("button", { type: "button", class: "token-name", disabled: isChosen || !on.fork, "aria-label": label, "data-id": alternative.id }, text);
    if (on.fork && !isChosen) button.addEventListener("click", () => on.fork?.(alternative));
    return element(
      "tr", { class: isChosen ? "chosen" : null },
      element("td", {}, isChosen ? "●" : "", element("span", { class: "hidden" }, isChosen ? "in the text" : "")),
      element("td", {}, button), element("td", { class: "number" }, percent(probability)), element("td", { class: "wide" }, bar(probability)),
    );
  });
  const head = element("tr", {}, ...["", "token", "probability", ""].map((name, index) => element("th", { class: index === 2 ? "number" : null, scope: "col" }, name)));
  const table = element("table", { class: "alternatives" }, element("thead", {}, head), element("tbody", {}, ...rows));
  /** @type {HTMLElement[]} */
  const parts = [element("h3", {}, "Alternatives"), table];
  if (!on.showsAll && top.length > FEW) {
    const more = element("button", { type: "button", class: "quiet" }, `Show all ${top.length}`);
    more.addEventListener("click", on.showAll);
    parts.push(more);
  }
  if (on.fork) parts.push(element("p", { class: "soft" }, "Choose an alternative to continue the text with it."));
  return parts;
}
