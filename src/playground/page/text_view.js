// Text whose tokens are tinted by their probability. One tab stop; arrow keys move from token to token.

import { element } from "./dom.js";
import { hex, level, percent, visible } from "./tokens.js";

/** @import { Token } from "./types.js" */

export class TextView {
  /** @type {Token[]} */
  #tokens = [];
  /** @type {HTMLElement[]} */
  #elements = [];
  #selected = -1;
  /** A character may consist of several tokens; it is shown with the last. */
  #decoder = new TextDecoder();
  #place;
  #on;

  /**
   * @param {HTMLElement} place
   * @param {{select: (at: number) => void, hover: (at: number | null) => void, open: (at: number) => void}} on `select`: clicked or
   * reached by key; `hover`: the token under the pointer, or null; `open`: Enter was pressed
   */
  constructor(place, on) {
    this.#place = place;
    this.#on = on;
    place.setAttribute("role", "listbox");
    place.setAttribute("aria-orientation", "horizontal");
    place.tabIndex = 0;
    place.addEventListener("click", (event) => this.#pointed(event, (at) => this.select(at)));
    place.addEventListener("mouseover", (event) => this.#pointed(event, (at) => on.hover(at)));
    place.addEventListener("mouseleave", () => on.hover(null));
    place.addEventListener("keydown", (event) => this.#key(event));
    place.addEventListener("focus", () => {
      // Only for the keyboard: a click selects its own token.
      if (this.#selected < 0 && this.#tokens.length && place.matches(":focus-visible")) this.select(0);
    });
  }

  get tokens() {
    return this.#tokens;
  }

  get selected() {
    return this.#selected;
  }

  clear() {
    this.#tokens = [];
    this.#elements = [];
    this.#selected = -1;
    this.#decoder = new TextDecoder();
    this.#place.replaceChildren();
    this.#place.removeAttribute("aria-activedescendant");
  }

  /**
   * @param {Token[]} tokens
   * @param {number} [from] the position at which the branch leaves its parent
   */
  append(tokens, from = Infinity) {
    const made = tokens.map((token, at) => this.#element(token, this.#tokens.length + at, from));
    this.#tokens.push(...tokens);
    this.#elements.push(...made);
    this.#place.append(...made);
  }

  /**
   * @param {Token} token
   * @param {number} at
   * @param {number} from
   */
  #element(token, at, from) {
    const text = this.#decoder.decode(new Uint8Array(token.bytes), { stream: true });
    const tint = level(token.logprob);
    const kinds = ["token", tint === null ? "unscored" : `level-${tint}`];
    if (token.isPrompt) kinds.push("prompt");
    if (at === from) kinds.push("forked");
    if (text === "") kinds.push("bytes");
    if (text.startsWith("\n")) kinds.push("newline");
    const probability = token.logprob === null ? "no probability" : percent(Math.exp(token.logprob));
    return element(
      "span",
      {
        class: kinds.join(" "), role: "option", id: `${this.#place.id}-${at}`, "aria-selected": "false",
        "aria-label": `${visible(token.text, token.bytes)}, ${probability}`,
      },
      text === "" ? hex(token.bytes) : text,
    );
  }

  /**
   * @param {number} at -1: none
   * @param {{preventScroll?: boolean}} [options] `preventScroll`: leave the window where it is
   */
  select(at, options = {}) {
    this.#mark(at, options);
    if (at >= 0) this.#on.select(at);
  }

  /**
   * @param {number} at
   * @param {{preventScroll?: boolean}} options
   */
  #mark(at, { preventScroll = false }) {
    this.#elements[this.#selected]?.setAttribute("aria-selected", "false");
    this.#selected = at;
    const chosen = this.#elements[at];
    if (!chosen) return this.#place.removeAttribute("aria-activedescendant");
    chosen.setAttribute("aria-selected", "true");
    this.#place.setAttribute("aria-activedescendant", chosen.id);
    if (!preventScroll) chosen.scrollIntoView({ block: "nearest" });
  }

  /**
   * Highlights a token that is pointed at elsewhere, such as on a plot.
   * @param {number | null} at
   */
  point(at) {
    this.#place.querySelector(".pointed")?.classList.remove("pointed");
    if (at !== null) this.#elements[at]?.classList.add("pointed");
  }

  /**
   * @param {Event} event
   * @param {(at: number) => void} found
   */
  #pointed(event, found) {
    const target = event.target instanceof Element ? event.target.closest(".token") : null;
    if (target) found(Number(target.id.slice(this.#place.id.length + 1)));
  }

  /** @param {KeyboardEvent} event */
  #key(event) {
    const last = this.#tokens.length - 1;
    if (last < 0 || event.altKey || event.ctrlKey || event.metaKey) return;
    const at = this.#selected;
    const steps = /** @type {Record<string, () => number>} */ ({
      ArrowRight: () => Math.min(last, at + 1),
      ArrowLeft: () => Math.max(0, at - 1),
      ArrowDown: () => this.#nextLine(at, 1),
      ArrowUp: () => this.#nextLine(at, -1),
      Home: () => 0,
      End: () => last,
      s: () => this.#nextSurprise(at),
    });
    if (event.key === "Enter" || event.key === " ") this.#on.open(at);
    else if (!(event.key in steps)) return;
    else this.select(Math.max(0, steps[event.key]()));
    event.preventDefault();
  }

  /** The next unlikely token, or the same one if there is none. @param {number} at */
  #nextSurprise(at) {
    const next = this.#tokens.findIndex((token, index) => index > at && (level(token.logprob) ?? 0) >= 4);
    return next < 0 ? at : next;
  }

  /**
   * The token below or above.
   * @param {number} at
   * @param {1 | -1} way
   */
  #nextLine(at, way) {
    const here = this.#elements[at]?.getBoundingClientRect();
    if (!here) return 0;
    for (let index = at + way; index >= 0 && index < this.#elements.length; index += way) {
      const there = this.#elements[index].getBoundingClientRect();
      const isBeyond = way > 0 ? there.top >= here.bottom - 2 && there.right > here.left : there.bottom <= here.top + 2 && there.left <= here.left;
      if (isBeyond) return index;
    }
    return way > 0 ? this.#elements.length - 1 : 0;
  }
}
