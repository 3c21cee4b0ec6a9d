// What was generated, and what was forked from it: a tree.

import { element } from "./dom.js";
import { nats, visible } from "./tokens.js";

/** @import { Body, Token } from "./types.js" */

/** A completion. It shares its parent's tokens up to `at`; its own stand behind. */
export class Branch {
  /** @type {Branch[]} */
  children = [];
  /** @type {Token[]} */
  own = [];
  /** The server's id of the answer, from which it may be forked. @type {string | null} */
  answer = null;
  /** Tokens of the answer's prompt: places in a completion count from there. */
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
    this.parent = parent;
    this.at = at;
    parent?.children.push(this);
  }

  /** All tokens, from the prompt's first on. @returns {Token[]} */
  get tokens() {
    return this.parent ? [...this.parent.tokens.slice(0, this.at), ...this.own] : this.own;
  }

  /** @returns {Branch} */
  get root() {
    return this.parent?.root ?? this;
  }

  /**
   * The part of a request that goes on from before the token at this place. `null`: nothing predicts that one.
   * @param {number} at
   * @returns {Body | null}
   */
  before(at) {
    const { model } = this.request;
    if (this.answer && at >= this.promptLength) return { model, fork: { id: this.answer, choice: 0, position: at - this.promptLength } };
    return this.promptBefore(at);
  }

  /**
   * The same by the tokens' ids: for places in the prompt, and answers that the server has forgotten.
   * @param {number} at
   * @returns {Body | null}
   */
  promptBefore(at) {
    return at > 0 ? { model: this.request.model, prompt: this.tokens.slice(0, at).map(({ id }) => id) } : null;
  }
}

/**
 * The tree as nested lists of buttons.
 * @param {Branch} root
 * @param {Branch} current
 * @param {(branch: Branch) => void} chosen
 */
export function treeOf(root, current, chosen) {
  const list = element("ol");
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
  list.append(item(root));
  return list;
}
