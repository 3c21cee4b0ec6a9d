// The Explore tab: a completion, its tokens and their alternatives.

import * as api from "./api.js";
import { AtToken } from "./at_token.js";
import { Branch, treesOf } from "./branch.js";
import { byId, element, oncePerFrame } from "./dom.js";
import { modelOptions } from "./forms.js";
import { facts } from "./inspector.js";
import { legend } from "./legend.js";
import { Plot, axis } from "./plots.js";
import { Settings } from "./settings.js";
import { MOST_ROWS } from "./stages.js";
import { TextView } from "./text_view.js";
import { atMost, counted, detailOptions, nats, tokensOf } from "./tokens.js";

/** @import { Context } from "./forms.js" */
/** @import { Alternative, Body, Token } from "./types.js" */

/** Trees of branches that are kept. */
const MOST_ROOTS = 10;
/** How often the plot along the text is redrawn while text arrives. */
const PLOT_INTERVAL_MS = 250;
/** `max_tokens` of the example. */
const EXAMPLE_TOKENS = 16;
/** The status line before the first answer. */
const NOTHING_YET = "Nothing generated yet.";

export class Explore {
  /** @type {Branch[]} */
  #roots = [];
  /** The branch that is shown. @type {Branch | null} */
  #branch = null;
  /** Stops the running generation. @type {AbortController | null} */
  #running = null;
  /** Tokens that arrived and are not shown yet. @type {Token[]} */
  #waiting = [];
  /** The token under the pointer. @type {number | null} */
  #hovered = null;
  #showsAll = false;
  /** When the plot along the text was last drawn. */
  #plottedMs = 0;
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
  #example = byId("example", HTMLElement);
  #flush = oncePerFrame(() => this.#showWaiting());
  #showHovered = oncePerFrame(() => this.#showFacts());

  /** @param {Context} context */
  constructor(context) {
    this.#context = context;
    this.#model.replaceChildren(...modelOptions(context.models));
    const generating = context.models.findIndex(({ meta }) => meta?.generates !== false);
    this.#model.selectedIndex = Math.max(0, generating);
    this.#settings = new Settings(byId("settings", HTMLElement), context.fields, "set", () => this.#showAtToken());
    this.#atToken = new AtToken(context, this.#settings, () => this.#seedOr(1));
    this.#text = new TextView(byId("text", HTMLElement), {
      select: () => {
        this.#showsAll = false;
        this.#hovered = null;
        this.#showFacts();
        this.#showAtToken();
      },
      hover: (at) => {
        this.#hover(at);
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
    byId("generate", HTMLButtonElement).disabled = false;
  }

  /** The request in the form. @returns {Body} */
  request() {
    const seed = this.#seed.value === "" ? {} : { seed: this.#seed.valueAsNumber };
    return { model: this.#model.value, prompt: this.#prompt.value, max_tokens: this.#maxTokens.valueAsNumber, ...seed, ...this.#settings.body() };
  }

  /** The seed, or `fallback` if the seed is random. @param {number} fallback */
  #seedOr(fallback) {
    const seed = this.#seed.valueAsNumber;
    return Number.isInteger(seed) && seed !== -1 ? seed : fallback;
  }

  /** Whether the form can be sent; if not, the browser shows what is wrong. */
  isValid() {
    return this.#form.reportValidity();
  }

  /** The request fields that ask for everything the page shows. @returns {Body} */
  detailOptions() {
    return { ...detailOptions(this.#context.fields), trace: atMost(MOST_ROWS, this.#context.fields) };
  }

  /**
   * Fills the form. Fields that the request lacks are set to their defaults.
   * @param {Body} request
   * @returns {string[]} the names of fields that the form does not have
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

  /** The branch that is shown. @returns {Branch | null} */
  get branch() {
    return this.#branch;
  }

  /** The model that the form names. */
  get model() {
    return this.#model.value;
  }

  /** @param {number} at a token's position, from 0 */
  select(at) {
    this.#text.select(at);
  }

  /** Completes the prompt with the settings in the form. */
  async generate() {
    const request = this.request();
    await this.#generate(new Branch(request), { ...request, echo: true, ...this.detailOptions() });
  }

  /**
   * Generates a short answer to the request in the form and labels it as an example. Nobody asked for it, so it neither
   * reports errors, nor moves the focus, nor scrolls.
   * @param {AbortSignal} signal
   * @returns {Promise<boolean>} whether any of it was shown
   */
  async showExample(signal) {
    if (this.#running || this.#branch) return false;
    const request = { ...this.request(), max_tokens: EXAMPLE_TOKENS };
    const branch = new Branch(request);
    branch.isExample = true;
    const running = new AbortController();
    signal.addEventListener("abort", () => {
      running.abort();
      if (this.#running !== running) return;
      // At once, so that the status line is free for whatever interrupted the example.
      this.#running = null;
      this.#busy(false);
      this.#status.textContent = branch.answer === null ? NOTHING_YET : "Example stopped.";
      this.#flush();
    });
    await this.#generate(branch, { ...request, echo: true, ...this.detailOptions() }, { running });
    return branch.answer !== null;
  }

  /**
   * Continues with another token at a position.
   * @param {number} at
   * @param {Alternative} alternative
   */
  async fork(at, alternative) {
    const from = this.#branch;
    if (!from || !this.isValid()) return;
    const { prompt: _, ...settings } = this.request();
    /** @type {Body} */
    const request = { ...settings, model: from.request.model };
    const instead = replacement(from.tokens[at], alternative);
    const before = from.requestBefore(at);
    if (before && "fork" in before) {
      const child = new Branch(request, from, at);
      child.promptLength = from.promptLength;
      const fork = { .../** @type {object} */ (before.fork), token: alternative.id };
      if (await this.#generate(child, { ...request, ...this.detailOptions(), fork }, { instead, forgottenCode: "answer_not_found" })) return;
      // Another generation was started meanwhile.
      if (this.#running || this.#branch !== from) return;
    }
    // Tokens of the prompt, and of answers that the server no longer has, are sent by their ids.
    const ids = from.idsBefore(at);
    if (!ids) return;
    const child = new Branch(request, from, at);
    child.promptLength = at + 1;
    child.own = [instead];
    const most = Math.max(0, Number(request.max_tokens) - 1);
    await this.#generate(child, { ...request, ...this.detailOptions(), prompt: [...ids.prompt, alternative.id], max_tokens: most });
  }

  /**
   * @param {Branch} branch
   * @param {Body} body
   * @param {{instead?: Token, forgottenCode?: string, running?: AbortController}} [options] `instead`: a fork's first token, which
   * the answer lacks if it ends the text; `forgottenCode`: the code of the error that says that the server no longer has the
   * forked answer; `running`: stops it
   * @returns {Promise<boolean>} false: there was that error
   */
  async #generate(branch, body, { instead, forgottenCode, running = new AbortController() } = {}) {
    this.#running?.abort();
    this.#running = running;
    this.#context.showError(null);
    this.#busy(true);
    this.#status.textContent = "Waiting for the first token…";
    const startMs = performance.now();
    /** When the first event arrived. @type {number | null} */
    let firstMs = null;
    try {
      for await (const event of api.stream(body, running.signal)) {
        const choice = event.choices[0];
        if (!choice) continue;
        const tokens = tokensOf(choice);
        if (firstMs === null) {
          firstMs = performance.now();
          this.#begin(branch, event.id, event.system_fingerprint);
        }
        if (choice.prompt_token_ids && !branch.parent) {
          branch.promptLength = tokens.filter(({ isPrompt }) => isPrompt).length;
          branch.prefixIds = choice.prompt_token_ids.slice(0, choice.prompt_token_ids.length - branch.promptLength);
          if (branch.isExample) this.#toSelect = branch.promptLength;
        }
        if (choice.finish_reason) branch.finish = choice.finish_reason;
        if (choice.finish_reason && instead && !branch.own.length && !tokens.length) tokens.push(instead);
        branch.own.push(...tokens);
        if (this.#branch === branch) this.#waiting.push(...tokens);
        this.#flush();
      }
    } catch (error) {
      if (running.signal.aborted) branch.finish ??= "stopped";
      else if (error instanceof api.ApiError && error.code === forgottenCode && firstMs === null) {
        this.#running = null;
        return false;
      } else {
        branch.finish ??= "error";
        if (!branch.isExample) this.#context.showError(error);
      }
    }
    if (this.#running === running) {
      this.#running = null;
      this.#busy(false);
      if (firstMs === null || this.#branch === branch) this.#showEnd(branch, firstMs === null ? null : firstMs - startMs, performance.now() - (firstMs ?? 0));
      this.#flush();
      // The server knows the vocabulary once the model is loaded.
      const model = this.#context.models.find(({ id }) => id === branch.request.model);
      if (firstMs !== null && !model?.meta?.n_vocab) this.#context.models = await api.models().catch(() => this.#context.models);
    }
    return true;
  }

  /** Shows a branch once its first event has arrived. @param {Branch} branch @param {string} answer @param {string} fingerprint */
  #begin(branch, answer, fingerprint) {
    branch.answer = answer;
    branch.fingerprint = fingerprint;
    if (branch.parent) branch.parent.children.push(branch);
    else {
      // The example makes way, unless something was forked from it.
      const kept = this.#roots.filter(({ isExample, children }) => !isExample || children.length);
      this.#roots = [...kept, branch].slice(-MOST_ROOTS);
    }
    this.#show(branch);
  }

  /** @param {boolean} isBusy */
  #busy(isBusy) {
    // A disabled button loses the focus, so it moves from Stop to Generate.
    const hadFocus = document.activeElement === this.#stop;
    this.#stop.disabled = !isBusy;
    if (hadFocus && !isBusy) byId("generate", HTMLButtonElement).focus();
    byId("text", HTMLElement).setAttribute("aria-busy", String(isBusy));
  }

  /** @param {Branch} branch @param {number | null} waitedMs until the first event @param {number} streamedMs from then on */
  #showEnd(branch, waitedMs, streamedMs) {
    if (waitedMs === null) {
      const isStopped = branch.finish === "stopped";
      this.#status.textContent = branch.isExample ? NOTHING_YET : isStopped ? "Stopped before anything was generated." : "Nothing was generated.";
      return;
    }
    const count = branch.own.filter(({ isPrompt }) => !isPrompt).length;
    const ends = { stop: "the model ended the text", length: "max_tokens reached", stopped: "stopped", error: "cut off by an error" };
    const end = ends[/** @type {keyof typeof ends} */ (branch.finish ?? "error")] ?? branch.finish;
    const speed = count > 1 && streamedMs > 0 ? `, then ${((count - 1) / (streamedMs / 1000)).toFixed(0)} tokens/s` : "";
    this.#status.textContent = `${counted(count, "token")} generated: ${end}. First token after ${waitedMs.toFixed(0)} ms${speed}.`;
  }

  /** Shows another branch and keeps the selected position. @param {Branch} branch */
  #show(branch) {
    const selected = this.#text.selected;
    // A fork selects the token that was chosen for it.
    const toSelect = branch.parent && selected >= branch.at ? branch.at : selected;
    const isNew = !branch.own.length && !branch.parent;
    const hadFocus = document.activeElement?.closest("#inspector, #text");
    this.#branch = branch;
    this.#waiting = [];
    this.#hovered = null;
    this.#text.clear();
    this.#text.append(branch.tokens, branch.parent ? branch.at : undefined);
    this.#toSelect = isNew ? -1 : toSelect;
    this.#selectPending();
    this.#showExampleLabel();
    this.#showTree();
    this.#showAlong();
    this.#showFacts();
    this.#showAtToken();
    if (hadFocus && branch.parent) byId("text", HTMLElement).focus({ preventScroll: true });
  }

  /** The position to select as soon as there is a token. */
  #toSelect = -1;

  #selectPending() {
    if (this.#toSelect < 0 || this.#toSelect >= this.#text.tokens.length) return;
    const at = this.#toSelect;
    this.#toSelect = -1;
    this.#text.select(at, { preventScroll: this.#branch?.isExample });
  }

  /** Says above the text that it is an example, if it is. */
  #showExampleLabel() {
    const isExample = this.#branch?.isExample ?? false;
    this.#example.hidden = !isExample;
    if (!isExample) return this.#example.replaceChildren();
    const prompt = String(this.#branch?.request.prompt).trim();
    this.#example.replaceChildren(
      element("strong", {}, "Example:"), ` how the model continues “${prompt}”. Write a prompt of your own and press Generate to replace it.`,
    );
  }

  #showWaiting() {
    const place = byId("text", HTMLElement);
    const follows = place.scrollHeight - place.scrollTop - place.clientHeight < 60;
    this.#text.append(this.#waiting.splice(0), this.#branch?.parent ? this.#branch.at : undefined);
    if (follows) place.scrollTop = place.scrollHeight;
    this.#selectPending();
    // Drawing redraws the whole plot: too slow for every frame while text arrives.
    const nowMs = performance.now();
    if (this.#running && nowMs - this.#plottedMs < PLOT_INTERVAL_MS) return;
    this.#plottedMs = nowMs;
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
    byId("along-card", HTMLElement).hidden = !tokens.length;
    const scored = tokens.filter(({ logprob }) => logprob !== null);
    const mean = scored.reduce((sum, { logprob }) => sum + (logprob ?? 0), 0) / (scored.length || 1);
    const summary = `Logprob and entropy of ${counted(tokens.length, "token")}; the mean logprob is ${nats(mean)} nats.`;
    this.#along.show([tokens.map((_, at) => at), tokens.map(({ logprob }) => logprob), tokens.map(({ entropy }) => entropy)], summary);
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
          // As text arrives, the plot moves below a cursor that does not.
          if (!plot.over.matches(":hover")) return;
          const at = plot.cursor.idx ?? null;
          this.#text.point(at);
          this.#hover(at);
        }],
        ready: [(plot) => {
          plot.over.addEventListener("click", () => {
            if (typeof plot.cursor.idx === "number") this.#text.select(plot.cursor.idx);
          });
          plot.over.addEventListener("mouseleave", () => {
            this.#text.point(null);
            this.#hover(null);
          });
        }],
      },
    };
  }

  // --- The selected token.

  /** @param {number | null} at null: none, so the selected token is shown again */
  #hover(at) {
    if (at === this.#hovered) return;
    this.#hovered = at;
    this.#showHovered();
  }

  #showFacts() {
    const at = this.#hovered ?? this.#text.selected;
    const token = this.#text.tokens[at];
    if (!token) return this.#token.replaceChildren(element("p", { class: "soft" }, "Point at a token or use the arrow keys."));
    this.#token.replaceChildren(...facts(token, at, {
      showsAll: this.#showsAll && this.#hovered === null,
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
 * The token that replaces another.
 * @param {Token} token
 * @param {Alternative} alternative
 * @returns {Token}
 */
function replacement(token, alternative) {
  const rank = token.top?.findIndex(({ id }) => id === alternative.id) ?? -1;
  const { id, bytes, token: text, logprob } = alternative;
  return { ...token, id, bytes, text, logprob, rank: rank >= 0 ? rank + 1 : null, isPrompt: false, trace: null };
}
