// The tab where one sees a completion, its tokens, and what else they might have been.

import * as api from "./api.js";
import { Branch, treeOf } from "./branch.js";
import { afterAWhile, bar, byId, element, onceAFrame } from "./dom.js";
import { facts } from "./inspector.js";
import { legend } from "./legend.js";
import { Plot, axis } from "./plots.js";
import { raw, run } from "./sampling.js";
import { Settings } from "./settings.js";
import { MOST_ROWS, stagesOf } from "./stages.js";
import { TextView } from "./text_view.js";
import { TELL, nats, percent, tokensOf, visible } from "./tokens.js";

/** @import { Context } from "./forms.js" */
/** @import { Alternative, Body, Stage, Token, Trace } from "./types.js" */

const SEEDS = 50;
/** Tokens of each stage that are asked for where one token is looked at. */
const TRACE = 40;

export class Explore {
  /** @type {Branch | null} */
  #branch = null;
  /** Ends what is being generated. @type {AbortController | null} */
  #running = null;
  /** Ends what is asked of the server for the chosen token. @type {AbortController | null} */
  #asking = null;
  /** Tokens that came and are not shown yet. @type {Token[]} */
  #waiting = [];
  #showsAll = false;
  /** What the chosen token's draw is made from, with the settings as they stand; null: only the server can tell. @type {Map<number, number> | null} */
  #expected = null;
  #context;
  #settings;
  #text;
  #along;
  #model = byId("model", HTMLSelectElement);
  #prompt = byId("prompt", HTMLTextAreaElement);
  #maxTokens = byId("max-tokens", HTMLInputElement);
  #seed = byId("seed", HTMLInputElement);
  #status = byId("status", HTMLElement);
  #token = byId("token", HTMLElement);
  #sampling = byId("at-token", HTMLElement);
  #cumulative;
  #flush = onceAFrame(() => this.#showWaiting());
  #look;
  #askSoon = afterAWhile(150, (/** @type {number} */ at) => this.#askServer(at));

  /** @param {Context} context */
  constructor(context) {
    this.#context = context;
    this.#model.replaceChildren(...context.models.map(({ id }) => element("option", { value: id }, id)));
    this.#settings = new Settings(byId("settings", HTMLElement), context.fields, "set", () => this.#showStages());
    /** @type {number | null} */
    let looked = null;
    const show = onceAFrame(() => this.#showFacts(looked));
    this.#look = (/** @type {number | null} */ at) => {
      if (at === looked) return;
      looked = at;
      show();
    };
    this.#text = new TextView(byId("text", HTMLElement), {
      select: () => {
        this.#showsAll = false;
        this.#showFacts(null);
        this.#showStages();
      },
      look: (at) => {
        this.#look(at);
        this.#along.point(at);
      },
      open: () => byId("inspector", HTMLElement).focus(),
    });
    this.#along = new Plot(byId("along", HTMLElement), (colour) => this.#alongOptions(colour));
    this.#cumulative = new Plot(byId("cumulative", HTMLElement), cumulativeOptions, 160);
    byId("legend", HTMLElement).replaceChildren(legend());
    byId("request", HTMLFormElement).addEventListener("submit", (event) => {
      event.preventDefault();
      this.generate();
    });
    byId("stop", HTMLButtonElement).addEventListener("click", () => this.#running?.abort());
    byId("seeds", HTMLButtonElement).addEventListener("click", () => this.#drawSeeds());
  }

  /** The request as it stands in the form. @returns {Body} */
  request() {
    const seed = this.#seed.value === "" ? {} : { seed: this.#seed.valueAsNumber };
    return { model: this.#model.value, prompt: this.#prompt.value, max_tokens: this.#maxTokens.valueAsNumber, ...seed, ...this.#settings.body() };
  }

  /** What the server is asked for `request`, so that the page has all it shows. @param {Body} request @returns {Body} */
  whole(request) {
    return { ...request, echo: true, ...TELL, trace: MOST_ROWS };
  }

  /** Fills the form. What it does not name becomes the default. @param {Body} request */
  set(request) {
    const { model, prompt, max_tokens: most, seed } = request;
    if (typeof prompt === "string") this.#prompt.value = prompt;
    if (typeof most === "number") this.#maxTokens.value = String(most);
    this.#seed.value = typeof seed === "number" ? String(seed) : "";
    if (this.#context.models.some(({ id }) => id === model)) this.#model.value = String(model);
    this.#settings.set(request);
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
    const branch = new Branch(request);
    await this.#generate(branch, this.whole(request));
  }

  /**
   * Goes on with another token at a place.
   * @param {number} at
   * @param {Alternative} alternative
   */
  async fork(at, alternative) {
    const parent = this.#branch;
    if (!parent) return;
    const { model, prompt, ...settings } = this.request();
    const body = { ...settings, ...TELL, trace: MOST_ROWS };
    const child = new Branch({ ...settings, model: parent.request.model }, parent, at);
    const before = parent.before(at);
    if (before && "fork" in before) {
      child.promptLength = parent.promptLength;
      const fork = { .../** @type {object} */ (before.fork), token: alternative.id };
      if (await this.#generate(child, { ...before, fork, ...body }, "answer_not_found")) return;
    }
    // The prompt's tokens, and those of answers that the server no longer has, are given by their ids.
    const ids = parent.tokens.slice(0, at).map(({ id }) => id);
    child.promptLength = at + 1;
    child.own = [chosenInstead(parent.tokens[at], alternative)];
    await this.#generate(child, { model: parent.request.model, prompt: [...ids, alternative.id], ...body });
  }

  /**
   * @param {Branch} branch
   * @param {Body} body
   * @param {string} [acceptable] a code of an error that is not told
   * @returns {Promise<boolean>} false: there was that error
   */
  async #generate(branch, body, acceptable) {
    this.#running?.abort();
    const running = new AbortController();
    this.#running = running;
    this.#context.trouble(null);
    this.#busy(true);
    this.#show(branch);
    this.#status.textContent = "Waiting for the first token …";
    const started = performance.now();
    let first = 0;
    let isAcceptable = false;
    try {
      for await (const event of api.stream(body, running.signal)) {
        const choice = event.choices[0];
        branch.answer = event.id;
        if (!choice) continue;
        const tokens = tokensOf(choice);
        if (choice.prompt_token_ids && !branch.parent) branch.promptLength = choice.prompt_token_ids.length;
        if (choice.finish_reason) branch.finish = choice.finish_reason;
        first ||= performance.now();
        branch.own.push(...tokens);
        if (this.#branch === branch) this.#waiting.push(...tokens);
        this.#flush();
      }
    } catch (error) {
      if (running.signal.aborted) branch.finish ??= "stopped";
      else if (error instanceof api.ApiError && error.code === acceptable && !branch.own.length) isAcceptable = true;
      else {
        branch.finish ??= "error";
        this.#context.trouble(error);
        // A branch of nothing is none.
        if (branch.parent && !branch.own.length) {
          branch.parent.children.pop();
          if (this.#branch === branch) this.#show(branch.parent);
        }
      }
    }
    if (this.#running === running) {
      this.#running = null;
      this.#busy(false);
      if (!isAcceptable) this.#tellEnd(branch, first - started, performance.now() - first);
      // Now that it is loaded, the server knows more of the model.
      if (!this.#vocabulary()) this.#context.models = await api.models().catch(() => this.#context.models);
    }
    if (!isAcceptable && this.#branch === branch) this.#flush();
    return !isAcceptable;
  }

  /** @param {boolean} isBusy */
  #busy(isBusy) {
    byId("stop", HTMLButtonElement).disabled = !isBusy;
    byId("text", HTMLElement).setAttribute("aria-busy", String(isBusy));
  }

  /** @param {Branch} branch @param {number} until milliseconds to the first token @param {number} from milliseconds from there on */
  #tellEnd(branch, until, from) {
    const count = branch.own.filter(({ isPrompt }) => !isPrompt).length;
    const ends = { stop: "the model ended the text", length: "max_tokens reached", stopped: "stopped", error: "cut off by an error" };
    const end = ends[/** @type {keyof typeof ends} */ (branch.finish ?? "error")] ?? branch.finish;
    const speed = count > 1 && from > 0 ? `, ${((count - 1) / (from / 1000)).toFixed(0)} tokens/s` : "";
    this.#status.textContent = `${count} tokens generated: ${end}. First after ${Math.max(0, until).toFixed(0)} ms${speed}.`;
  }

  /** Shows another branch. @param {Branch} branch */
  #show(branch) {
    this.#branch = branch;
    this.#waiting = [];
    this.#text.clear();
    this.#text.append(branch.tokens, branch.parent ? branch.at : undefined);
    this.#showTree();
    this.#showAlong();
    this.#showFacts(null);
    this.#showStages();
  }

  #showWaiting() {
    const place = byId("text", HTMLElement);
    const follows = place.scrollHeight - place.scrollTop - place.clientHeight < 60;
    this.#text.append(this.#waiting.splice(0), this.#branch?.parent ? this.#branch.at : undefined);
    if (follows && this.#running) place.scrollTop = place.scrollHeight;
    this.#showAlong();
    if (!this.#running) this.#showTree();
  }

  #showTree() {
    const root = this.#branch?.root;
    const tree = byId("tree", HTMLElement);
    tree.hidden = !root?.children.length;
    if (!root || tree.hidden || !this.#branch) return tree.replaceChildren();
    tree.replaceChildren(element("h3", {}, "Branches"), treeOf(root, this.#branch, (branch) => {
      this.#running?.abort();
      this.#show(branch);
    }));
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
          const at = plot.cursor.idx ?? null;
          this.#text.point(at);
          this.#look(at);
        }],
        ready: [(plot) => plot.over.addEventListener("click", () => {
          if (typeof plot.cursor.idx === "number") this.#text.select(plot.cursor.idx);
        })],
      },
    };
  }

  // --- The chosen token.

  /** @param {number | null} looked one that is only looked at; null: the chosen one */
  #showFacts(looked) {
    const at = looked ?? this.#text.selected;
    const token = this.#text.tokens[at];
    if (!token) return this.#token.replaceChildren(element("p", { class: "soft" }, "Point at a token, or go through them with the arrow keys."));
    this.#token.replaceChildren(...facts(token, at, {
      showsAll: this.#showsAll && looked === null,
      showAll: () => {
        this.#showsAll = true;
        this.#showFacts(null);
      },
      fork: at > 0 ? (alternative) => this.fork(at, alternative) : null,
    }));
  }

  #showStages() {
    if (!this.#branch) return;
    this.#asking?.abort();
    const at = this.#text.selected;
    const token = this.#text.tokens[at];
    this.#sampling.hidden = !token?.top;
    if (!token?.top) return;
    byId("seeds-told", HTMLElement).replaceChildren();
    const from = raw(token.top, this.#vocabulary(), token.tailMass ?? 0);
    const { stages, isWhole, last } = this.#vocabulary() ? run(from, this.#settings.values(), TRACE) : { stages: [], isWhole: false, last: from };
    this.#expected = isWhole ? new Map(last.known.map(({ id, probability }) => [id, probability])) : null;
    this.#showCumulative(token, stages);
    if (token.trace && this.#isAsDrawn(at)) {
      this.#drawStages(token, token.trace.stages, token.trace, "server", "As it was drawn, told by the server.");
    } else if (isWhole) {
      this.#drawStages(token, stages, null, "page", "With the settings as they stand; computed here, from the likeliest tokens.");
    } else {
      this.#drawStages(token, stages, null, "waiting", "These stages cannot be computed from the likeliest tokens alone: asking the server …");
      this.#askSoon(at);
    }
  }

  /** Whether the settings are those that the token was drawn with. @param {number} at */
  #isAsDrawn(at) {
    /** @type {Branch | null} */
    let drew = this.#branch;
    while (drew?.parent && at < drew.at) drew = drew.parent;
    const { max_tokens: _, seed: __, prompt: ___, model: ____, ...then } = drew?.request ?? {};
    return JSON.stringify(then) === JSON.stringify(this.#settings.body());
  }

  /** How many tokens there are; 0: the model was not loaded when the page asked. */
  #vocabulary() {
    const model = this.#context.models.find(({ id }) => id === this.#branch?.request.model);
    return model?.meta?.n_vocab ?? 0;
  }

  /**
   * @param {Token} token
   * @param {Stage[]} stages
   * @param {Trace | null} trace
   * @param {"page" | "server" | "waiting"} source
   * @param {string} words
   */
  #drawStages(token, stages, trace, source, words) {
    const place = byId("stages", HTMLElement);
    place.dataset.source = source;
    place.replaceChildren(element("p", { class: "soft" }, words), ...stagesOf(stages, trace, token.top ?? []));
  }

  /**
   * A request whose next token is the one at this place, drawn with the settings as they stand.
   * @param {number} at
   * @param {Body} further
   */
  async #askAt(at, further) {
    this.#asking?.abort();
    const asking = new AbortController();
    this.#asking = asking;
    const branch = this.#branch;
    const seed = this.#seed.value === "" ? 1 : this.#seed.valueAsNumber;
    const rest = { max_tokens: 1, seed, ...this.#settings.body(), ...further };
    const before = branch?.before(at);
    if (!branch || !before) return null;
    try {
      return await api.complete({ ...before, ...rest }, asking.signal).catch((error) => {
        if (!(error instanceof api.ApiError && error.code === "answer_not_found")) throw error;
        return api.complete({ ...branch.promptBefore(at), ...rest }, asking.signal);
      });
    } catch (error) {
      if (!asking.signal.aborted) this.#context.trouble(error);
      return null;
    }
  }

  /** @param {number} at */
  async #askServer(at) {
    const token = this.#text.tokens[at];
    const answer = await this.#askAt(at, { trace: TRACE });
    const trace = answer?.choices[0].trace?.[0];
    if (!trace || this.#text.selected !== at || this.#text.tokens[at] !== token) return;
    const words = `With the settings as they stand; told by the server. It would draw ${visible(trace.token)} here with this seed.`;
    this.#drawStages(token, trace.stages, trace, "server", words);
    this.#showCumulative(token, trace.stages);
    this.#expected = new Map(trace.stages.at(-1)?.tokens.map(({ id, after }) => [id, after]));
  }

  /**
   * Probabilities added up, likeliest first, as top_p sees them: behind the stages before it.
   * @param {Token} token
   * @param {Stage[]} stages
   */
  #showCumulative(token, stages) {
    const { top_p: mass } = this.#settings.values();
    const stage = stages.find(({ stage }) => stage === "top_p");
    const last = stages.at(-1);
    const shares = stage ? stage.tokens.map(({ before }) => before)
      : last ? last.tokens.map(({ after }) => after).filter((share) => share > 0)
      : (token.top ?? []).map(({ logprob }) => Math.exp(logprob));
    let sum = 0;
    const sums = shares.map((share) => (sum += share));
    const cut = sums.findIndex((sum) => sum >= mass);
    const words = cut >= 0 && mass < 1
      ? `top_p = ${mass} keeps the ${cut + 1} likeliest, which together have ${percent(Math.min(1, sums[cut]))}.`
      : mass < 1 ? `The ${sums.length} likeliest together have ${percent(Math.min(1, sum))}: less than top_p = ${mass}.`
      : `top_p is off. The ${sums.length} likeliest together have ${percent(Math.min(1, sum))}.`;
    byId("cumulative-words", HTMLElement).textContent = words;
    this.#cumulative.show(
      [sums.map((_, index) => index + 1), sums.map((sum, index) => (cut < 0 || index <= cut ? sum : null)),
        sums.map((sum, index) => (cut >= 0 && index >= cut ? sum : null)), sums.map(() => (mass < 1 ? mass : null))],
      words,
    );
  }

  /** Draws the chosen token with many seeds. */
  async #drawSeeds() {
    const at = this.#text.selected;
    const token = this.#text.tokens[at];
    const told = byId("seeds-told", HTMLElement);
    if (!token?.top) return;
    told.replaceChildren(element("p", { class: "soft" }, `Drawing with ${SEEDS} seeds …`));
    if (!this.#expected) await this.#askServer(at);
    const expected = this.#expected ?? new Map();
    const answer = await this.#askAt(at, { n: SEEDS, return_token_ids: true, logprobs: 0, logprobs_detail: true });
    if (!answer || this.#text.tokens[at] !== token) return told.replaceChildren();
    /** @type {Map<number, {name: string, count: number}>} */
    const counts = new Map();
    for (const choice of answer.choices) {
      const [drawn] = tokensOf(choice);
      const id = drawn?.id ?? -1;
      const entry = counts.get(id) ?? { name: drawn ? visible(drawn.text, drawn.bytes) : "(end of text)", count: 0 };
      entry.count++;
      counts.set(id, entry);
    }
    const names = new Map(token.top.map(({ id, token, bytes }) => [id, visible(token, bytes)]));
    const ids = [...new Set([...expected.keys(), ...counts.keys()])];
    const rows = ids
      .map((id) => ({ name: counts.get(id)?.name ?? names.get(id) ?? `token ${id}`, share: (counts.get(id)?.count ?? 0) / SEEDS, expected: expected.get(id) ?? 0 }))
      .sort((a, b) => b.expected - a.expected || b.share - a.share);
    const few = rows.slice(0, 12);
    const others = rows.slice(12).reduce((sum, row) => ({ name: "all others", share: sum.share + row.share, expected: sum.expected + row.expected }), { name: "all others", share: 0, expected: 0 });
    if (rows.length > 12) few.push(others);
    told.replaceChildren(
      element("p", { class: "soft" }, `Drawn ${SEEDS} times, with the seeds from ${this.#seed.value || 1} on: grey is the probability, orange how often it came.`),
      element("table", { class: "histogram" }, element("tbody", {}, ...few.map(({ name, share, expected }) => element(
        "tr", { "data-count": Math.round(share * SEEDS) },
        element("th", { scope: "row", class: "mono" }, name),
        element("td", { class: "number" }, `${percent(expected)}, came ${Math.round(share * SEEDS)} times`),
        element("td", { class: "wide" }, bar(expected, "before"), bar(share, "second")),
      )))),
    );
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

/** @param {(name: string) => string} colour @returns {Partial<import("./vendor/uplot/uPlot.esm.js").Options>} */
function cumulativeOptions(colour) {
  return {
    scales: { x: { time: false }, y: { range: [0, 1.02] } },
    legend: { show: false },
    series: [
      {},
      { label: "kept", stroke: colour("accent"), width: 2, points: { size: 5 } },
      { label: "cut", stroke: colour("soft"), width: 2, dash: [3, 3], points: { show: false } },
      { label: "top_p", stroke: colour("second"), width: 2, dash: [8, 4], points: { show: false } },
    ],
    axes: [axis(colour, "tokens, likeliest first"), axis(colour, "probability")],
    cursor: { show: false },
  };
}
