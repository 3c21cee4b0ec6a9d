// Generated texts and their forks, as trees.

import { element } from "./dom.js";
import { nats, visible } from "./tokens.js";

/** @import { Body, Token } from "./types.js" */

/** A completion. It shares its parent's tokens up to `at`, followed by its own. */
export class Branch {
  /** @type {Branch[]} */
  children = [];
  /** @type {Token[]} */
  own = [];
  /** Of a root: ids of tokens that the server adds before a text, such as a BOS. No other field has them. @type {number[]} */
  prefixIds = [];
  /** The server's id of the answer, which a fork names. @type {string | null} */
  answer = null;
  /** The answer's `system_fingerprint`: model, llama.cpp version and mode. @type {string | null} */
  fingerprint = null;
  /** Tokens before the answer's completion: positions in the completion count from there. */
  promptLength = 0;
  /** Why it ended; null while it is running. @type {string | null} */
  finish = null;
  /** Whether the page generated it by itself, on a first visit. */
  isExample = false;

  /**
   * @param {Body} request
   * @param {Branch | null} parent
   * @param {number} at the position of its first own token
   */
  constructor(request, parent = null, at = 0) {
    this.request = request;
    /** @type {Branch | null} */
    this.parent = parent;
    // Tokens before the parent's own belong to the parent's parent.
    while (this.parent?.parent && at <= this.parent.at) this.parent = this.parent.parent;
    this.at = at;
  }

  /** All tokens, starting with the prompt's first. @returns {Token[]} */
  get tokens() {
    return this.parent ? [...this.parent.tokens.slice(0, this.at), ...this.own] : this.own;
  }

  /** @returns {Branch} */
  get root() {
    return this.parent?.root ?? this;
  }

  /** The branch that owns the token at a position. @param {number} at @returns {Branch} */
  ownerOf(at) {
    return this.parent && at < this.at ? this.parent.ownerOf(at) : this;
  }

  /**
   * The part of a request that continues from before a token; null if nothing precedes it.
   * @param {number} at
   * @returns {Body | null}
   */
  requestBefore(at) {
    if (!this.answer || at < this.promptLength) return this.idsBefore(at);
    return { model: this.request.model, fork: { id: this.answer, choice: 0, position: at - this.promptLength } };
  }

  /**
   * The same by token ids, for positions in the prompt and answers that the server no longer has.
   * @param {number} at
   * @returns {{model: unknown, prompt: number[]} | null}
   */
  idsBefore(at) {
    const prompt = [...this.root.prefixIds, ...this.tokens.slice(0, at).map(({ id }) => id)];
    return prompt.length ? { model: this.request.model, prompt } : null;
  }

  /**
   * A request for this text that does not need the answer it was forked from: it sends the shared tokens and the chosen one
   * by their ids. With it, a seed draws other tokens than in the fork.
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
 * @param {(branch: Branch) => void} onChoose
 */
export function treesOf(roots, current, onChoose) {
  const item = (/** @type {Branch} */ branch) => {
    const generated = branch.own.filter(({ isPrompt }) => !isPrompt);
    const text = visible(generated.slice(0, 30).map(({ text }) => text).join(""));
    const sum = generated.reduce((sum, { logprob }) => sum + (logprob ?? 0), 0);
    const label = `${branch.isExample ? "Example: " : ""}${branch.parent ? `↳ ${branch.at}: ` : ""}${generated.length ? text : "…"} (${nats(sum)} nats)`;
    const button = element("button", { type: "button", "aria-current": branch === current ? "true" : null, title: generated.map(({ text }) => text).join("") }, label);
    button.addEventListener("click", () => onChoose(branch));
    const made = element("li", {}, button);
    if (branch.children.length) made.append(element("ol", {}, ...branch.children.map(item)));
    return made;
  };
  return element("ol", {}, ...roots.map(item));
}
