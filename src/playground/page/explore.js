// The tab where one sees a completion, its tokens, and what else they might have been.

import * as api from "./api.js";
import { AtToken } from "./at_token.js";
import { Branch, treesOf } from "./branch.js";
import { byId, element, onceAFrame } from "./dom.js";
import { modelOptions } from "./forms.js";
import { facts } from "./inspector.js";
import { legend } from "./legend.js";
import { Plot, axis } from "./plots.js";
import { Settings } from "./settings.js";
import { MOST_ROWS } from "./stages.js";
import { TextView } from "./text_view.js";
import { atMost, nats, tell, tokensOf } from "./tokens.js";

/** @import { Context } from "./forms.js" */
/** @import { Alternative, Body, Token } from "./types.js" */

/** Trees that are kept. */
const MOST_ROOTS = 10;
/** Milliseconds. */
const PLOTTED_EVERY = 250;

export class Explore {
  /** @type {Branch[]} */
  #roots = [];
  /** What is shown. @type {Branch | null} */
  #branch = null;
  /** Ends what is being generated. @type {AbortController | null} */
  #running = null;
  /** Tokens that came and are not shown yet. @type {Token[]} */
  #waiting = [];
  /** The token under the pointer. @type {number | null} */
  #looked = null;
  #showsAll = false;
  /** Milliseconds at which the plot along the text was drawn last. */
  #plotted = 0;
  #context;
  #settings;
  #atToken;
  #text;
  #along;
  #form = byId("request", HTMLFormElement);
  #model = byId("model", HTMLSelectElement);
  #prompt = byId("prompt", HTMLTextAreaElement);
  #maxTokens = byId("max-tokens", HTMLInputElement);
  #seed = byId("seed", HTMLInputElement);
  #status = byId("status", HTMLElement);
  #token = byId("token", HTMLElement);
  #stop = byId("stop", HTMLButtonElement);
  #flush = onceAFrame(() => this.#showWaiting());
  #showLooked = onceAFrame(() => this.#showFacts());

  /** @param {Context} context */
  constructor(context) {
    this.#context = context;
    this.#model.replaceChildren(...modelOptions(context.models));
    this.#settings = new Settings(byId("settings", HTMLElement), context.fields, "set", () => this.#showAtToken());
    this.#atToken = new AtToken(context, this.#settings, () => this.#seedOr(1));
    this.#text = new TextView(byId("text", HTMLElement), {
      select: () => {
        this.#showsAll = false;
        this.#looked = null;
        this.#showFacts();
        this.#showAtToken();
      },
      look: (at) => {
        this.#look(at);
        this.#along.point(at);
      },
      open: () => byId("inspector", HTMLElement).focus(),
    });
    this.#along = new Plot(byId("along", HTMLElement), (colour) => this.#alongOptions(colour));
    byId("legend", HTMLElement).replaceChildren(legend());
    this.#form.addEventListener("submit", (event) => {
      event.preventDefault();
      this.generate();
    });
    this.#stop.addEventListener("click", () => this.#running?.abort());
  }

  /** The request as it stands in the form. @returns {Body} */
  request() {
    const seed = this.#seed.value === "" ? {} : { seed: this.#seed.valueAsNumber };
    return { model: this.#model.value, prompt: this.#prompt.value, max_tokens: this.#maxTokens.valueAsNumber, ...seed, ...this.#settings.body() };
  }

  /** The seed; another if it is to be random. @param {number} other */
  #seedOr(other) {
    const seed = this.#seed.valueAsNumber;
    return Number.isInteger(seed) && seed !== -1 ? seed : other;
  }

  /** Whether the form can be sent; if not, the browser shows what is wrong. */
  isValid() {
    return this.#form.reportValidity();
  }

  /** What is told besides, so that the page has all it shows. @returns {Body} */
  told() {
    return { ...tell(this.#context.fields), trace: atMost(MOST_ROWS, this.#context.fields) };
  }

  /**
   * Fills the form. What it does not name becomes the default.
   * @param {Body} request
   * @returns {string[]} names of what the form has no place for
   */
  set(request) {
    const { model, prompt, max_tokens: most, seed, ...settings } = request;
    if (typeof prompt === "string") this.#prompt.value = prompt;
    if (typeof most === "number") this.#maxTokens.value = String(most);
    this.#seed.value = typeof seed === "number" ? String(seed) : "";
    const isServed = this.#context.models.some(({ id }) => id === model);
    if (isServed) this.#model.value = String(model);
    const unknown = this.#settings.set(settings);
    if (model !== undefined && !isServed) unknown.unshift("model");
    if (prompt !== undefined && typeof prompt !== "string") unknown.unshift("prompt");
    return unknown;
  }

  /** What is shown. @returns {Branch | null} */
  get branch() {
    return this.#branch;
  }

  /** @param {number} at a place in the text, from 0 */
  select(at) {
    this.#text.select(at);
  }

  /** A completion of the prompt, with the settings as they are. */
  async generate() {
    const request = this.request();
    await this.#generate(new Branch(request), { ...request, echo: true, ...this.told() });
  }

  /**
   * Goes on with another token at a place.
   * @param {number} at
   * @param {Alternative} alternative
   */
  async fork(at, alternative) {
    const from = this.#branch;
    if (!from || !this.isValid()) return;
    const { prompt: _, ...settings } = this.request();
    /** @type {Body} */
    const request = { ...settings, model: from.request.model };
    const instead = chosenInstead(from.tokens[at], alternative);
    const before = from.before(at);
    if (before && "fork" in before) {
      const child = new Branch(request, from, at);
      child.promptLength = from.promptLength;
      const fork = { .../** @type {object} */ (before.fork), token: alternative.id };
      if (await this.#generate(child, { ...request, ...this.told(), fork }, { instead, isForgotten: "answer_not_found" })) return;
      // Something else was begun meanwhile.
      if (this.#running || this.#branch !== from) return;
    }
    // The prompt's tokens, and those of answers that the server no longer has, are given by their ids.
    const ids = from.idsBefore(at);
    if (!ids) return;
    const child = new Branch(request, from, at);
    child.promptLength = at + 1;
    child.own = [instead];
    const most = Math.max(0, Number(request.max_tokens) - 1);
    await this.#generate(child, { ...request, ...this.told(), prompt: [...ids.prompt, alternative.id], max_tokens: most });
  }

  /**
   * @param {Branch} branch
   * @param {Body} body
   * @param {{instead?: Token, isForgotten?: string}} [fork] `instead`: its first token, which is not told of if it ends the
   * text; `isForgotten`: the code of the error that says that it cannot be forked
   * @returns {Promise<boolean>} false: there was that error
   */
  async #generate(branch, body, { instead, isForgotten } = {}) {
    this.#running?.abort();
    const running = new AbortController();
    this.#running = running;
    this.#context.trouble(null);
    this.#busy(true);
    this.#status.textContent = "Waiting for the first token …";
    const started = performance.now();
    /** Milliseconds at which something came first. @type {number | null} */
    let first = null;
    try {
      for await (const event of api.stream(body, running.signal)) {
        const choice = event.choices[0];
        if (!choice) continue;
        const tokens = tokensOf(choice);
        if (first === null) {
          first = performance.now();
          this.#begin(branch, event.id, event.system_fingerprint);
        }
        if (choice.prompt_token_ids && !branch.parent) {
          branch.promptLength = tokens.filter(({ isPrompt }) => isPrompt).length;
          branch.ahead = choice.prompt_token_ids.slice(0, choice.prompt_token_ids.length - branch.promptLength);
        }
        if (choice.finish_reason) branch.finish = choice.finish_reason;
        if (choice.finish_reason && instead && !branch.own.length && !tokens.length) tokens.push(instead);
        branch.own.push(...tokens);
        if (this.#branch === branch) this.#waiting.push(...tokens);
        this.#flush();
      }
    } catch (error) {
      if (running.signal.aborted) branch.finish ??= "stopped";
      else if (error instanceof api.ApiError && error.code === isForgotten && first === null) {
        this.#running = null;
        return false;
      } else {
        branch.finish ??= "error";
        this.#context.trouble(error);
      }
    }
    if (this.#running === running) {
      this.#running = null;
      this.#busy(false);
      if (first === null || this.#branch === branch) this.#tellEnd(branch, first === null ? null : first - started, performance.now() - (first ?? 0));
      this.#flush();
      // Now that it is loaded, the server knows more of the model.
      const model = this.#context.models.find(({ id }) => id === branch.request.model);
      if (first !== null && !model?.meta?.n_vocab) this.#context.models = await api.models().catch(() => this.#context.models);
    }
    return true;
  }

  /** Something of it has come: only now does it take the place of what was shown. @param {Branch} branch @param {string} answer @param {string} fingerprint */
  #begin(branch, answer, fingerprint) {
    branch.answer = answer;
    branch.fingerprint = fingerprint;
    if (branch.parent) branch.parent.children.push(branch);
    else this.#roots = [...this.#roots, branch].slice(-MOST_ROOTS);
    this.#show(branch);
  }

  /** @param {boolean} isBusy */
  #busy(isBusy) {
    // A disabled button loses the focus; whoever pressed Stop goes on from the other.
    const hadFocus = document.activeElement === this.#stop;
    this.#stop.disabled = !isBusy;
    if (hadFocus && !isBusy) byId("generate", HTMLButtonElement).focus();
    byId("text", HTMLElement).setAttribute("aria-busy", String(isBusy));
  }

  /** @param {Branch} branch @param {number | null} until milliseconds to the first token @param {number} from milliseconds from there on */
  #tellEnd(branch, until, from) {
    if (until === null) {
      this.#status.textContent = branch.finish === "stopped" ? "Stopped before anything was generated." : "Nothing was generated.";
      return;
    }
    const count = branch.own.filter(({ isPrompt }) => !isPrompt).length;
    const ends = { stop: "the model ended the text", length: "max_tokens reached", stopped: "stopped", error: "cut off by an error" };
    const end = ends[/** @type {keyof typeof ends} */ (branch.finish ?? "error")] ?? branch.finish;
    const speed = count > 1 && from > 0 ? `, ${((count - 1) / (from / 1000)).toFixed(0)} tokens/s` : "";
    this.#status.textContent = `${count} tokens generated: ${end}. First after ${until.toFixed(0)} ms${speed}.`;
  }

  /** Shows another branch; what was chosen in the one before stays chosen. @param {Branch} branch */
  #show(branch) {
    const selected = this.#text.selected;
    // A fork shows the token that was chosen for it.
    const wanted = branch.parent && selected >= branch.at ? branch.at : selected;
    const isNew = !branch.own.length && !branch.parent;
    const hadFocus = document.activeElement?.closest("#inspector, #text");
    this.#branch = branch;
    this.#waiting = [];
    this.#looked = null;
    this.#text.clear();
    this.#text.append(branch.tokens, branch.parent ? branch.at : undefined);
    this.#wanted = isNew ? -1 : wanted;
    this.#showWanted();
    this.#showTree();
    this.#showAlong();
    this.#showFacts();
    this.#showAtToken();
    if (hadFocus && branch.parent) byId("text", HTMLElement).focus({ preventScroll: true });
  }

  /** The place that is to be chosen once there is a token. */
  #wanted = -1;

  #showWanted() {
    if (this.#wanted < 0 || this.#wanted >= this.#text.tokens.length) return;
    const at = this.#wanted;
    this.#wanted = -1;
    this.#text.select(at);
  }

  #showWaiting() {
    const place = byId("text", HTMLElement);
    const follows = place.scrollHeight - place.scrollTop - place.clientHeight < 60;
    this.#text.append(this.#waiting.splice(0), this.#branch?.parent ? this.#branch.at : undefined);
    if (follows) place.scrollTop = place.scrollHeight;
    this.#showWanted();
    // The whole plot is drawn each time: while text comes, not in every frame.
    const now = performance.now();
    if (this.#running && now - this.#plotted < PLOTTED_EVERY) return;
    this.#plotted = now;
    this.#showAlong();
    if (!this.#running) this.#showTree();
  }

  #showTree() {
    const tree = byId("tree", HTMLElement);
    const isOne = this.#roots.length < 2 && !this.#roots[0]?.children.length;
    tree.hidden = isOne;
    if (isOne || !this.#branch) return tree.replaceChildren();
    const hadFocus = tree.contains(document.activeElement);
    tree.replaceChildren(element("h3", {}, "Branches"), treesOf(this.#roots, this.#branch, (branch) => {
      if (branch === this.#branch) return;
      this.#running?.abort();
      this.#show(branch);
    }));
    if (hadFocus) /** @type {HTMLElement | null} */ (tree.querySelector("[aria-current]"))?.focus();
  }

  // --- Along the text.

  #showAlong() {
    const tokens = this.#text.tokens;
    const told = tokens.filter(({ logprob }) => logprob !== null);
    const mean = told.reduce((sum, { logprob }) => sum + (logprob ?? 0), 0) / (told.length || 1);
    const words = `Logprob and entropy of ${tokens.length} tokens; the logprob is ${nats(mean)} nats on average.`;
    this.#along.show([tokens.map((_, at) => at), tokens.map(({ logprob }) => logprob), tokens.map(({ entropy }) => entropy)], words);
  }

  /** @param {(name: string) => string} colour @returns {Partial<import("./vendor/uplot/uPlot.esm.js").Options>} */
  #alongOptions(colour) {
    const number = (/** @type {unknown} */ _, /** @type {number | null} */ value) => nats(value);
    return {
      scales: { x: { time: false } },
      series: [
        { label: "token" },
        { label: "logprob (nats)", stroke: colour("accent"), width: 2, points: { size: 5 }, value: number },
        { label: "entropy (nats)", stroke: colour("second"), width: 2, dash: [6, 3], points: { show: false }, value: number },
      ],
      axes: [axis(colour, "token"), axis(colour, "nats")],
      cursor: { drag: { x: false, y: false }, points: { size: 8 } },
      hooks: {
        setCursor: [(plot) => {
          // As text comes, the cursor stands over another token without having moved.
          if (!plot.over.matches(":hover")) return;
          const at = plot.cursor.idx ?? null;
          this.#text.point(at);
          this.#look(at);
        }],
        ready: [(plot) => {
          plot.over.addEventListener("click", () => {
            if (typeof plot.cursor.idx === "number") this.#text.select(plot.cursor.idx);
          });
          plot.over.addEventListener("mouseleave", () => {
            this.#text.point(null);
            this.#look(null);
          });
        }],
      },
    };
  }

  // --- The chosen token.

  /** @param {number | null} at null: at none, so that the chosen one is shown again */
  #look(at) {
    if (at === this.#looked) return;
    this.#looked = at;
    this.#showLooked();
  }

  #showFacts() {
    const at = this.#looked ?? this.#text.selected;
    const token = this.#text.tokens[at];
    if (!token) return this.#token.replaceChildren(element("p", { class: "soft" }, "Point at a token, or go through them with the arrow keys."));
    this.#token.replaceChildren(...facts(token, at, {
      showsAll: this.#showsAll && this.#looked === null,
      showAll: () => {
        this.#showsAll = true;
        this.#showFacts();
        byId("inspector", HTMLElement).focus();
      },
      fork: (alternative) => this.fork(at, alternative),
    }));
  }

  #showAtToken() {
    const at = this.#text.selected;
    this.#atToken.show(this.#branch, at, this.#text.tokens[at]);
  }
}

/**
 * The token that stands in another's place.
 * @param {Token} token
 * @param {Alternative} alternative
 * @returns {Token}
 */
function chosenInstead(token, alternative) {
  const rank = token.top?.findIndex(({ id }) => id === alternative.id) ?? -1;
  const { id, bytes, token: text, logprob } = alternative;
  return { ...token, id, bytes, text, logprob, rank: rank >= 0 ? rank + 1 : null, isPrompt: false, trace: null };
}
