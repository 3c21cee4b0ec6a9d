// Calibration of a model on questions with known answers.

/** @import { ScoredItem } from "./types.js" */

/** @typedef {{stem: string, choices: string[], answer: number, neutral?: string}} Item */
/** What ranks the choices; its softmax over an item's choices is the confidence. @typedef {"sum" | "mean" | "per_byte" | "per_character" | "corrected"} Measure */
/** @typedef {{chosen: number, isRight: boolean, confidence: number, answerProbability: number, logLoss: number}} Verdict */
/** @typedef {{from: number, to: number, count: number, confidence: number | null, accuracy: number | null}} Bin */

export const BINS = 10;

/**
 * Parses a set: one JSON object per line. Empty lines are skipped.
 * @param {string} text
 * @returns {{items: Item[], errors: {line: number, message: string}[]}}
 */
export function parseSet(text) {
  /** @type {Item[]} */
  const items = [];
  /** @type {{line: number, message: string}[]} */
  const errors = [];
  text.split("\n").forEach((line, index) => {
    if (line.trim() === "") return;
    try {
      items.push(item(JSON.parse(line)));
    } catch (error) {
      const message = error instanceof SyntaxError ? `is not JSON: ${error.message}` : error instanceof Error ? error.message : String(error);
      errors.push({ line: index + 1, message });
    }
  });
  return { items, errors };
}

/**
 * @param {unknown} value
 * @returns {Item}
 */
function item(value) {
  if (typeof value !== "object" || value === null || Array.isArray(value)) throw new Error('must be an object such as {"stem": "…", "choices": ["…", "…"], "answer": 0}');
  const { stem, choices, answer, neutral } = /** @type {Record<string, unknown>} */ (value);
  if (typeof stem !== "string") throw new Error('needs "stem", a string');
  if (!Array.isArray(choices) || choices.length < 2 || !choices.every((choice) => typeof choice === "string" && choice !== "")) {
    throw new Error('needs "choices", an array of at least two non-empty strings');
  }
  if (!Number.isInteger(answer) || Number(answer) < 0 || Number(answer) >= choices.length) {
    throw new Error(`needs "answer", the right choice's index: an integer from 0 to ${choices.length - 1}`);
  }
  if (neutral !== undefined && typeof neutral !== "string") throw new Error('has a "neutral" that is not a string');
  return { stem, choices, answer: Number(answer), ...(neutral === undefined ? {} : { neutral }) };
}

/**
 * @param {ScoredItem} scored
 * @param {number} answer
 * @param {Measure} measure
 * @returns {Verdict}
 */
export function judge(scored, answer, measure) {
  const logs = logSoftmax(scored.choices.map((choice) => choice[measure] ?? -Infinity));
  const chosen = logs.indexOf(Math.max(...logs));
  return {
    chosen,
    isRight: chosen === answer,
    confidence: Math.exp(logs[chosen]),
    answerProbability: Math.exp(logs[answer]),
    logLoss: -logs[answer],
  };
}

/** @param {number[]} values */
function logSoftmax(values) {
  const most = Math.max(...values);
  const whole = most + Math.log(values.reduce((sum, value) => sum + Math.exp(value - most), 0));
  return values.map((value) => value - whole);
}

/**
 * Expected calibration error (ECE) as in Guo et al. 2017, arXiv:1706.04599: over bins of equal width, the mean distance
 * between accuracy and mean confidence, weighted by the bins' sizes.
 * @param {Verdict[]} verdicts
 */
export function calibrate(verdicts) {
  const bins = Array.from({ length: BINS }, (_, index) => bin(verdicts, index));
  const mean = (/** @type {(verdict: Verdict) => number} */ of) => verdicts.reduce((sum, verdict) => sum + of(verdict), 0) / verdicts.length;
  return {
    accuracy: mean(({ isRight }) => Number(isRight)),
    confidence: mean(({ confidence }) => confidence),
    logLoss: mean(({ logLoss }) => logLoss),
    ece: bins.reduce((sum, { count, accuracy, confidence }) => sum + (count / verdicts.length) * Math.abs((accuracy ?? 0) - (confidence ?? 0)), 0),
    bins,
  };
}

/**
 * A bin includes its upper bound and excludes its lower one, as in the paper.
 * @param {Verdict[]} verdicts
 * @param {number} index
 * @returns {Bin}
 */
function bin(verdicts, index) {
  const within = verdicts.filter(({ confidence }) => Math.min(BINS, Math.max(1, Math.ceil(confidence * BINS))) === index + 1);
  const mean = (/** @type {(verdict: Verdict) => number} */ of) => (within.length ? within.reduce((sum, verdict) => sum + of(verdict), 0) / within.length : null);
  return {
    from: index / BINS,
    to: (index + 1) / BINS,
    count: within.length,
    confidence: mean(({ confidence }) => confidence),
    accuracy: mean(({ isRight }) => Number(isRight)),
  };
}
