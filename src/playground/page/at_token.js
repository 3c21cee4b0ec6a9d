// Sampling at the selected token: its stages, the cumulative probability, and draws with many seeds.

import * as api from "./api.js";
import { bar, byId, debounced, element } from "./dom.js";
import { Plot, axis } from "./plots.js";
import { raw, run } from "./sampling.js";
import { MOST_ROWS, stagesOf } from "./stages.js";
import { atMost, counted, percent, tokensOf, visible } from "./tokens.js";

/** @import { Branch } from "./branch.js" */
/** @import { Context } from "./forms.js" */
/** @import { Settings } from "./settings.js" */
/** @import { Body, Stage, Token, Trace } from "./types.js" */

const SEEDS = 50;
/** Tokens of each stage that are requested for the selected token. */
const TRACE = 40;
/** Alternatives that are tried for a trace where the drawn token ends the text. */
const TRIES = 4;

/** The selected token. @typedef {{branch: Branch, at: number, token: Token}} Selected */

export class AtToken {
  /** @type {Selected | null} */
  #selected = null;
  /** Cancels requests for a token that is no longer selected. */
  #pending = new AbortController();
  /** Sampling probabilities by id; null: unknown, or not the same for every draw. @type {Map<number, number> | null} */
  #expected = null;
  #place = byId("at-token", HTMLElement);
  #stages = byId("stages", HTMLElement);
  #seeds = byId("seeds-result", HTMLElement);
  #cumulative = new Plot(byId("cumulative", HTMLElement), cumulativeOptions, 160);
  #context;
  #settings;
  #seed;
  #traceSoon = debounced(150, (/** @type {Selected} */ selected, /** @type {AbortSignal} */ signal) => this.#traceOnServer(selected, signal));

  /**
   * @param {Context} context
   * @param {Settings} settings the form's
   * @param {() => number} seed
   */
  constructor(context, settings, seed) {
    this.#context = context;
    this.#settings = settings;
    this.#seed = seed;
    byId("seeds", HTMLButtonElement).addEventListener("click", () => this.#drawSeeds());
  }

  get #traceLength() {
    return atMost(TRACE, this.#context.fields);
  }

  /** The size of the model's vocabulary; 0 if the model was not loaded when the page asked. @param {Branch} branch */
  #vocabulary(branch) {
    return this.#context.models.find(({ id }) => id === branch.request.model)?.meta?.n_vocab ?? 0;
  }

  /**
   * @param {Branch | null} branch
   * @param {number} at
   * @param {Token | undefined} token
   */
  show(branch, at, token) {
    this.#pending.abort();
    this.#pending = new AbortController();
    this.#expected = null;
    this.#selected = branch && token?.top ? { branch, at, token } : null;
    this.#place.hidden = !this.#selected;
    this.#seeds.replaceChildren();
    byId("seeds-status", HTMLElement).textContent = "";
    if (!this.#selected || !branch || !token?.top) return;
    const values = this.#settings.values();
    const vocabulary = this.#vocabulary(branch);
    // A default `min_tokens` bans end-of-text tokens before any stage.
    const isPlain = vocabulary > 0 && !Number(this.#context.fields.min_tokens?.default ?? 0);
    const from = raw(token.top, vocabulary, token.tailMass ?? 0);
    const { stages, isComplete, last } = isPlain ? run(from, values, TRACE) : { stages: [], isComplete: false, last: from };
    if (isComplete) this.#expected = new Map(last.known.map(({ id, probability }) => [id, probability]));
    const owner = branch.ownerOf(at);
    if (token.trace && this.#settings.matches(owner.request)) {
      const isForced = at === owner.at && owner.parent !== null;
      const source = isForced ? "You chose this token. The server's trace shows what it would have been drawn from." : "The actual draw, from the server's trace.";
      this.#draw(token, token.trace.stages, token.trace, "server", source);
      this.#showCumulative(token, isComplete ? stages : first(token.trace.stages, MOST_ROWS));
    } else if (isComplete) {
      this.#draw(token, stages, null, "page", "With the current settings, computed in the browser from the most likely tokens.");
      this.#showCumulative(token, stages);
    } else {
      this.#draw(token, stages, null, "waiting", "With the current settings. These stages need more than the most likely tokens: waiting for the server…");
      this.#showCumulative(token, stages);
      this.#traceSoon(this.#selected, this.#pending.signal);
    }
  }

  /**
   * @param {Token} token
   * @param {Stage[]} stages
   * @param {Trace | null} trace
   * @param {"page" | "server" | "waiting" | "none"} source
   * @param {string} explanation
   */
  #draw(token, stages, trace, source, explanation) {
    this.#stages.dataset.source = source;
    this.#stages.replaceChildren(element("p", { class: "soft" }, explanation), ...stagesOf(stages, trace, token.top ?? []));
  }

  /**
   * Lets the server draw the token at a position with the current settings.
   * @param {Selected} selected
   * @param {Body} options the seed and what to return
   * @param {AbortSignal} signal
   * @param {number} [forced] the token to put there, whatever is drawn
   */
  async #drawOnServer({ branch, at }, options, signal, forced) {
    const rest = { max_tokens: 1, ...this.#settings.body(), ...options };
    const before = branch.requestBefore(at);
    if (before && "fork" in before) {
      const fork = { .../** @type {object} */ (before.fork), ...(forced === undefined ? {} : { token: forced }) };
      try {
        return await api.complete({ ...before, fork, ...rest }, signal);
      } catch (error) {
        if (!(error instanceof api.ApiError && error.code === "answer_not_found")) throw error;
      }
    }
    // With echo, the answer contains the token that ended it.
    return api.complete({ ...branch.idsBefore(at), ...rest, echo: forced !== undefined }, signal);
  }

  /** Shows the stages from a trace of the server. @param {Selected} selected @param {AbortSignal} signal */
  async #traceOnServer(selected, signal) {
    const { token } = selected;
    const seed = this.#seed();
    const options = { seed, trace: this.#traceLength };
    try {
      const drawn = (await this.#drawOnServer(selected, options, signal)).choices[0].trace?.[0];
      // A trace lacks the token that ends a text. Every other token is drawn from the same stages.
      let trace = drawn;
      for (const { id } of (token.top ?? []).slice(0, TRIES)) {
        trace ??= (await this.#drawOnServer(selected, options, signal, id)).choices[0].trace?.[0];
      }
      if (signal.aborted) return;
      if (!trace) return this.#draw(token, [], null, "none", "The server returned no trace for this token.");
      const would = drawn ? `Seed ${seed} would draw ${visible(drawn.token)} here.` : `Seed ${seed} would end the text here.`;
      const stages = first(trace.stages, options.trace);
      this.#draw(token, trace.stages, drawn ?? null, "server", `With the current settings, from a trace of the server. ${would}`);
      this.#showCumulative(token, stages);
      // XTC cuts in some draws and not in others.
      const isOfAll = !stages.some(({ stage }) => stage === "xtc");
      const last = stages.at(-1)?.tokens.map(({ id, after }) => /** @type {const} */ ([id, after]));
      this.#expected = isOfAll ? new Map(last ?? (token.top ?? []).map(({ id, logprob }) => [id, Math.exp(logprob)])) : null;
    } catch (error) {
      if (signal.aborted) return;
      this.#draw(token, [], null, "none", "The server could not trace this token.");
      this.#context.showError(error);
    }
  }

  /**
   * Shows the cumulative probability, most likely token first, as top_p sees it: after the stages that precede top_p.
   * @param {Token} token
   * @param {Stage[]} stages
   */
  #showCumulative(token, stages) {
    const { top_p: mass } = this.#settings.values();
    const stage = stages.find(({ stage }) => stage === "top_p");
    const shares = stage ? stage.tokens.map(({ before }) => before).filter((share) => share > 0) : (token.top ?? []).map(({ logprob }) => Math.exp(logprob));
    let sum = 0;
    const sums = shares.map((share) => (sum += share));
    const cut = stage ? sums.findIndex((sum) => sum >= mass) : -1;
    const total = percent(Math.min(1, cut < 0 ? sum : sums[cut]));
    const summary = !stage ? `top_p has no effect here. The model's ${counted(sums.length, "most likely token")}: ${total} in total.`
      : cut < 0 ? `The ${counted(sums.length, "most likely known token")}: ${total} in total, less than top_p = ${mass}.`
      : cut === 0 ? `top_p = ${mass} keeps only the most likely token: ${total}.`
      : `top_p = ${mass} keeps the ${counted(cut + 1, "most likely token")}: ${total} in total.`;
    byId("cumulative-summary", HTMLElement).textContent = summary;
    this.#cumulative.show(
      [sums.map((_, index) => index + 1), sums.map((sum, index) => (cut < 0 || index <= cut ? sum : null)),
        sums.map((sum, index) => (cut >= 0 && index >= cut ? sum : null)), sums.map(() => (stage ? mass : null))],
      summary,
    );
  }

  /** Draws the token with many seeds. */
  async #drawSeeds() {
    const selected = this.#selected;
    if (!selected) return;
    const { signal } = this.#pending;
    const seed = this.#seed();
    const status = byId("seeds-status", HTMLElement);
    status.textContent = `Drawing with ${SEEDS} seeds…`;
    try {
      if (!this.#expected) {
        this.#traceSoon.cancel();
        await this.#traceOnServer(selected, signal);
      }
      const [answer, { eos_token: end }] = await Promise.all([
        this.#drawOnServer(selected, { seed, n: SEEDS, return_token_ids: true, logprobs: 0, logprobs_detail: true }, signal),
        api.tokenizer(String(selected.branch.request.model), signal),
      ]);
      if (signal.aborted) return;
      const drawn = answer.choices.map((choice) => tokensOf(choice)[0] ?? null);
      const rows = histogram(drawn, this.#expected, selected.token, end);
      status.textContent = `${SEEDS} draws, starting with seed ${seed}. Grey: probability. Orange: share of the draws.`;
      this.#seeds.replaceChildren(element("table", { class: "histogram" }, element("tbody", {}, ...rows.map(histogramRow))));
    } catch (error) {
      if (signal.aborted) return;
      status.textContent = "The draws failed.";
      this.#context.showError(error);
    }
  }
}

/** Stages with `count` tokens each: a trace does not order those after them. @param {Stage[]} stages @param {number} count */
function first(stages, count) {
  return stages.map((stage) => ({ ...stage, tokens: stage.tokens.slice(0, count) }));
}

/** @typedef {{name: string, count: number, expected: number | null}} Row */

/**
 * How often each token was drawn, and its probability.
 * @param {(Token | null)[]} drawn null: the text ended
 * @param {Map<number, number> | null} expected
 * @param {Token} token
 * @param {string | null} end the end-of-text token's text
 * @returns {Row[]}
 */
function histogram(drawn, expected, { top }, end) {
  const MOST = 12;
  /** @type {Map<number, Row>} */
  const rows = new Map();
  for (const { id, token, bytes } of top ?? []) {
    const probability = expected?.get(id) ?? 0;
    if (!expected || probability > 0) rows.set(id, { name: visible(token, bytes), count: 0, expected: expected && probability });
  }
  const ending = top?.find(({ token, bytes }) => visible(token, bytes) === end)?.id ?? -1;
  for (const token of drawn) {
    const id = token?.id ?? ending;
    const row = rows.get(id) ?? { name: token ? visible(token.text, token.bytes) : "(end of text)", count: 0, expected: null };
    rows.set(id, row);
    row.count++;
  }
  const sorted = [...rows.values()].filter(({ count, expected }) => count || expected).sort((a, b) => (b.expected ?? 0) - (a.expected ?? 0) || b.count - a.count);
  if (sorted.length <= MOST) return sorted;
  const shown = sorted.slice(0, MOST);
  const known = shown.reduce((sum, { expected }) => sum + (expected ?? 0), 0);
  const count = sorted.slice(MOST).reduce((sum, { count }) => sum + count, 0);
  return [...shown, { name: "others", count, expected: expected && Math.max(0, 1 - known) }];
}

/** @param {Row} row */
function histogramRow({ name, count, expected }) {
  return element(
    "tr", { "data-count": count },
    element("th", { scope: "row", class: "mono" }, name),
    element("td", { class: "number" }, `${expected === null ? "–" : percent(expected)}, drawn ${count}×`),
    element("td", { class: "wide" }, bar(expected ?? 0, "before"), bar(count / SEEDS, "second")),
  );
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
    axes: [axis(colour, "tokens, most likely first"), axis(colour, "probability")],
    cursor: { show: false },
  };
}
