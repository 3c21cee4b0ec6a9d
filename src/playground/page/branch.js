// What was generated, and what was forked from it: trees.

import { element } from "./dom.js";
import { nats, visible } from "./tokens.js";

/** @import { Body, Token } from "./types.js" */

/** A completion. It shares its parent's tokens up to `at`; its own stand behind. */
export class Branch {
  /** @type {Branch[]} */
  children = [];
  /** @type {Token[]} */
  own = [];
  /** Ids of what the server put before a text, as a BOS: it is told of nowhere else. Of a root. @type {number[]} */
  ahead = [];
  /** The server's id of the answer, from which it may be forked. @type {string | null} */
  answer = null;
  /** What made the answer: model, llama.cpp's version and mode. @type {string | null} */
  fingerprint = null;
  /** Tokens told of before the answer's completion: places in it count from there. */
  promptLength = 0;
  /** Why it ended; null while it has not. @type {string | null} */
  finish = null;

  /**
   * @param {Body} request
   * @param {Branch | null} parent
   * @param {number} at the place of its first own token
   */
  constructor(request, parent = null, at = 0) {
    this.request = request;
    /** @type {Branch | null} */
    this.parent = parent;
    // What lies before the parent's own tokens is its parent's.
    while (this.parent?.parent && at <= this.parent.at) this.parent = this.parent.parent;
    this.at = at;
  }

  /** All tokens, from the prompt's first on. @returns {Token[]} */
  get tokens() {
    return this.parent ? [...this.parent.tokens.slice(0, this.at), ...this.own] : this.own;
  }

  /** @returns {Branch} */
  get root() {
    return this.parent?.root ?? this;
  }

  /** The one whose own token stands at a place. @param {number} at @returns {Branch} */
  of(at) {
    return this.parent && at < this.at ? this.parent.of(at) : this;
  }

  /**
   * The part of a request that goes on from before the token at this place. `null`: nothing predicts that one.
   * @param {number} at
   * @returns {Body | null}
   */
  before(at) {
    if (!this.answer || at < this.promptLength) return this.idsBefore(at);
    return { model: this.request.model, fork: { id: this.answer, choice: 0, position: at - this.promptLength } };
  }

  /**
   * The same by the tokens' ids: for places in the prompt, and answers that the server has forgotten.
   * @param {number} at
   * @returns {{model: unknown, prompt: number[]} | null}
   */
  idsBefore(at) {
    const prompt = [...this.root.ahead, ...this.tokens.slice(0, at).map(({ id }) => id)];
    return prompt.length ? { model: this.request.model, prompt } : null;
  }

  /**
   * A request for this text, for who has not got the answer that it was forked from: what was kept, and the token that was
   * chosen, by their ids. A seed draws other tokens then than in the fork.
   * @returns {Body}
   */
  get asRequest() {
    if (!this.parent) return this.request;
    return { ...this.request, ...this.idsBefore(this.at + 1), max_tokens: Math.max(0, Number(this.request.max_tokens) - 1) };
  }
}

/**
 * The trees as nested lists of buttons.
 * @param {Branch[]} roots
 * @param {Branch} current
 * @param {(branch: Branch) => void} chosen
 */
export function treesOf(roots, current, chosen) {
  const item = (/** @type {Branch} */ branch) => {
    const generated = branch.own.filter(({ isPrompt }) => !isPrompt);
    const text = visible(generated.slice(0, 30).map(({ text }) => text).join(""));
    const sum = generated.reduce((sum, { logprob }) => sum + (logprob ?? 0), 0);
    const label = `${branch.parent ? `↳ ${branch.at}: ` : ""}${generated.length ? text : "…"} (${nats(sum)} nats)`;
    const button = element("button", { type: "button", "aria-current": branch === current ? "true" : null, title: generated.map(({ text }) => text).join("") }, label);
    button.addEventListener("click", () => chosen(branch));
    const made = element("li", {}, button);
    if (branch.children.length) made.append(element("ol", {}, ...branch.children.map(item)));
    return made;
  };
  return element("ol", {}, ...roots.map(item));
}
