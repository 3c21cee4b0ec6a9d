// What sampling does at the chosen token: its stages, the probabilities added up, and what many seeds draw.

import * as api from "./api.js";
import { afterAWhile, bar, byId, element } from "./dom.js";
import { Plot, axis } from "./plots.js";
import { raw, run } from "./sampling.js";
import { MOST_ROWS, stagesOf } from "./stages.js";
import { atMost, percent, tokensOf, visible } from "./tokens.js";

/** @import { Branch } from "./branch.js" */
/** @import { Context } from "./forms.js" */
/** @import { Settings } from "./settings.js" */
/** @import { Body, Stage, Token, Trace } from "./types.js" */

const SEEDS = 50;
/** Tokens of each stage that are told where one token is looked at. */
const TRACE = 40;
/** Alternatives that a draw is asked of, if the first ones end a text. */
const TRIES = 4;

/** What is looked at. @typedef {{branch: Branch, at: number, token: Token}} Chosen */

export class AtToken {
  /** @type {Chosen | null} */
  #chosen = null;
  /** Ends what is asked of the server. */
  #asking = new AbortController();
  /** Probabilities of the draw, by id; null: not known, or one draw has others than the next. @type {Map<number, number> | null} */
  #expected = null;
  #place = byId("at-token", HTMLElement);
  #stages = byId("stages", HTMLElement);
  #seeds = byId("seeds-told", HTMLElement);
  #cumulative = new Plot(byId("cumulative", HTMLElement), cumulativeOptions, 160);
  #context;
  #settings;
  #seed;
  #askSoon = afterAWhile(150, (/** @type {Chosen} */ chosen, /** @type {AbortSignal} */ signal) => this.#askServer(chosen, signal));

  /**
   * @param {Context} context
   * @param {Settings} settings as they stand
   * @param {() => number} seed
   */
  constructor(context, settings, seed) {
    this.#context = context;
    this.#settings = settings;
    this.#seed = seed;
    byId("seeds", HTMLButtonElement).addEventListener("click", () => this.#drawSeeds());
  }

  get #trace() {
    return atMost(TRACE, this.#context.fields);
  }

  /** How many tokens the model has; 0: it was not loaded when the page asked. @param {Branch} branch */
  #vocabulary(branch) {
    return this.#context.models.find(({ id }) => id === branch.request.model)?.meta?.n_vocab ?? 0;
  }

  /**
   * @param {Branch | null} branch
   * @param {number} at
   * @param {Token | undefined} token
   */
  show(branch, at, token) {
    this.#asking.abort();
    this.#asking = new AbortController();
    this.#expected = null;
    this.#chosen = branch && token?.top ? { branch, at, token } : null;
    this.#place.hidden = !this.#chosen;
    this.#seeds.replaceChildren();
    byId("seeds-status", HTMLElement).textContent = "";
    if (!this.#chosen || !branch || !token?.top) return;
    const values = this.#settings.values();
    const vocabulary = this.#vocabulary(branch);
    // A server whose default is to ban the end of a text for a while does that before all else.
    const isPlain = vocabulary > 0 && !Number(this.#context.fields.min_tokens?.default ?? 0);
    const from = raw(token.top, vocabulary, token.tailMass ?? 0);
    const { stages, isWhole, last } = isPlain ? run(from, values, TRACE) : { stages: [], isWhole: false, last: from };
    if (isWhole) this.#expected = new Map(last.known.map(({ id, probability }) => [id, probability]));
    const drew = branch.of(at);
    if (token.trace && this.#settings.areThose(drew.request)) {
      const isGiven = at === drew.at && drew.parent !== null;
      const words = isGiven ? "You chose this one; from these the draw would have been made. Told by the server." : "As it was drawn, told by the server.";
      this.#draw(token, token.trace.stages, token.trace, "server", words);
      this.#showCumulative(token, isWhole ? stages : first(token.trace.stages, MOST_ROWS));
    } else if (isWhole) {
      this.#draw(token, stages, null, "page", "With the settings as they stand; computed here, from the likeliest tokens.");
      this.#showCumulative(token, stages);
    } else {
      this.#draw(token, stages, null, "waiting", "These stages cannot be computed from the likeliest tokens alone: asking the server …");
      this.#showCumulative(token, stages);
      this.#askSoon(this.#chosen, this.#asking.signal);
    }
  }

  /**
   * @param {Token} token
   * @param {Stage[]} stages
   * @param {Trace | null} trace
   * @param {"page" | "server" | "waiting" | "none"} source
   * @param {string} words
   */
  #draw(token, stages, trace, source, words) {
    this.#stages.dataset.source = source;
    this.#stages.replaceChildren(element("p", { class: "soft" }, words), ...stagesOf(stages, trace, token.top ?? []));
  }

  /**
   * Has the server draw the token at a place, with the settings as they stand.
   * @param {Chosen} chosen
   * @param {Body} further its seed, and what is to be told
   * @param {AbortSignal} signal
   * @param {number} [given] the token that is to come there, whatever is drawn
   */
  async #ask({ branch, at }, further, signal, given) {
    const rest = { max_tokens: 1, ...this.#settings.body(), ...further };
    const before = branch.before(at);
    if (before && "fork" in before) {
      const fork = { .../** @type {object} */ (before.fork), ...(given === undefined ? {} : { token: given }) };
      try {
        return await api.complete({ ...before, fork, ...rest }, signal);
      } catch (error) {
        if (!(error instanceof api.ApiError && error.code === "answer_not_found")) throw error;
      }
    }
    // With echo an answer has the token that ended it, too.
    return api.complete({ ...branch.idsBefore(at), ...rest, echo: given !== undefined }, signal);
  }

  /** The stages, told by the server. @param {Chosen} chosen @param {AbortSignal} signal */
  async #askServer(chosen, signal) {
    const { token } = chosen;
    const seed = this.#seed();
    const asked = { seed, trace: this.#trace };
    try {
      const drawn = (await this.#ask(chosen, asked, signal)).choices[0].trace?.[0];
      // What ends a text is not told of, nor how it was drawn. What any other token was drawn from is the same.
      let trace = drawn;
      for (const { id } of (token.top ?? []).slice(0, TRIES)) {
        trace ??= (await this.#ask(chosen, asked, signal, id)).choices[0].trace?.[0];
      }
      if (signal.aborted) return;
      if (!trace) return this.#draw(token, [], null, "none", "The server told of no stages here.");
      const would = drawn ? `It would draw ${visible(drawn.token)} here with the seed ${seed}.` : `It would end the text here with the seed ${seed}.`;
      const stages = first(trace.stages, asked.trace);
      this.#draw(token, trace.stages, drawn ?? null, "server", `With the settings as they stand; told by the server. ${would}`);
      this.#showCumulative(token, stages);
      // XTC cuts in some draws and not in others.
      const isOfAll = !stages.some(({ stage }) => stage === "xtc");
      const last = stages.at(-1)?.tokens.map(({ id, after }) => /** @type {const} */ ([id, after]));
      this.#expected = isOfAll ? new Map(last ?? (token.top ?? []).map(({ id, logprob }) => [id, Math.exp(logprob)])) : null;
    } catch (error) {
      if (signal.aborted) return;
      this.#draw(token, [], null, "none", "The server did not tell.");
      this.#context.trouble(error);
    }
  }

  /**
   * Probabilities added up, likeliest first, as top_p sees them: behind the stages before it.
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
    const together = percent(Math.min(1, cut < 0 ? sum : sums[cut]));
    const words = !stage ? `top_p does nothing here. The model's ${sums.length} likeliest together have ${together}.`
      : cut < 0 ? `The ${sums.length} likeliest that are known together have ${together}: less than top_p = ${mass}.`
      : `top_p = ${mass} keeps the ${cut + 1} likeliest, which together have ${together}.`;
    byId("cumulative-words", HTMLElement).textContent = words;
    this.#cumulative.show(
      [sums.map((_, index) => index + 1), sums.map((sum, index) => (cut < 0 || index <= cut ? sum : null)),
        sums.map((sum, index) => (cut >= 0 && index >= cut ? sum : null)), sums.map(() => (stage ? mass : null))],
      words,
    );
  }

  /** Draws the token with many seeds. */
  async #drawSeeds() {
    const chosen = this.#chosen;
    if (!chosen) return;
    const { signal } = this.#asking;
    const seed = this.#seed();
    const status = byId("seeds-status", HTMLElement);
    status.textContent = `Drawing with ${SEEDS} seeds …`;
    try {
      if (!this.#expected) {
        this.#askSoon.cancel();
        await this.#askServer(chosen, signal);
      }
      const [answer, { eos_token: end }] = await Promise.all([
        this.#ask(chosen, { seed, n: SEEDS, return_token_ids: true, logprobs: 0, logprobs_detail: true }, signal),
        api.tokenizer(String(chosen.branch.request.model), signal),
      ]);
      if (signal.aborted) return;
      const drawn = answer.choices.map((choice) => tokensOf(choice)[0] ?? null);
      const rows = histogram(drawn, this.#expected, chosen.token, end);
      status.textContent = `Drawn ${SEEDS} times, with the seeds from ${seed} on: grey is the probability, orange how often it came.`;
      this.#seeds.replaceChildren(element("table", { class: "histogram" }, element("tbody", {}, ...rows.map(histogramRow))));
    } catch (error) {
      if (signal.aborted) return;
      status.textContent = "They were not drawn.";
      this.#context.trouble(error);
    }
  }
}

/** Stages with so many tokens: further ones are told out of their order. @param {Stage[]} stages @param {number} count */
function first(stages, count) {
  return stages.map((stage) => ({ ...stage, tokens: stage.tokens.slice(0, count) }));
}

/** @typedef {{name: string, count: number, expected: number | null}} Row */

/**
 * How often each token came, beside its probability.
 * @param {(Token | null)[]} drawn null: the text ended
 * @param {Map<number, number> | null} expected
 * @param {Token} token
 * @param {string | null} end the text of the token that ends a text
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
    const row = rows.get(id) ?? { name: token ? visible(token.text, token.bytes) : "(the end)", count: 0, expected: null };
    rows.set(id, row);
    row.count++;
  }
  const sorted = [...rows.values()].filter(({ count, expected }) => count || expected).sort((a, b) => (b.expected ?? 0) - (a.expected ?? 0) || b.count - a.count);
  if (sorted.length <= MOST) return sorted;
  const shown = sorted.slice(0, MOST);
  const known = shown.reduce((sum, { expected }) => sum + (expected ?? 0), 0);
  const count = sorted.slice(MOST).reduce((sum, { count }) => sum + count, 0);
  return [...shown, { name: "all others", count, expected: expected && Math.max(0, 1 - known) }];
}

/** @param {Row} row */
function histogramRow({ name, count, expected }) {
  return element(
    "tr", { "data-count": count },
    element("th", { scope: "row", class: "mono" }, name),
    element("td", { class: "number" }, `${expected === null ? "–" : percent(expected)}, came ${count} times`),
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
    axes: [axis(colour, "tokens, likeliest first"), axis(colour, "probability")],
    cursor: { show: false },
  };
}
