// Tokens: from an answer's arrays, and into words and numbers that people read.

/** @import { Choice, Field, Token } from "./types.js" */

/** Surprise by which a token is tinted, from certain to unlikely: probabilities of at least so much. */
export const LEVELS = [0.9, 0.5, 0.2, 0.05, 0.01, 0];

/** Alternatives that are asked for at each token, if the server tells so many. */
const ALTERNATIVES = 40;

/**
 * What is asked for so that `tokensOf` has all that it reads.
 * @param {Record<string, Field>} fields the server's
 */
export function tell(fields) {
  return { logprobs: atMost(ALTERNATIVES, fields), logprobs_detail: true, return_token_ids: true };
}

/**
 * So many tokens of a distribution, or as many as the server tells: it has one bound for all that tells of some.
 * @param {number} count
 * @param {Record<string, Field>} fields the server's
 */
export function atMost(count, fields) {
  return Math.min(count, fields.logprobs?.maximum ?? count);
}

/**
 * The tokens of a piece of an answer, or of a whole one.
 * @param {Choice} choice
 * @returns {Token[]}
 */
export function tokensOf(choice) {
  const told = choice.logprobs;
  if (!told) return [];
  // What was generated stands last.
  const prompt = told.tokens.length - (choice.token_ids?.length ?? 0);
  return told.tokens.map((text, at) => ({
    id: told.token_ids[at],
    bytes: told.bytes[at],
    text,
    offset: told.text_offset[at],
    isPrompt: at < prompt,
    logprob: told.token_logprobs[at],
    rank: told.rank[at],
    entropy: told.entropy[at],
    tailMass: told.tail_mass[at],
    top: told.top[at],
    trace: choice.trace?.[at - prompt] ?? null,
  }));
}

/**
 * From 0, certain, to 5; null where nothing predicts the token.
 * @param {number | null} logprob
 */
export function level(logprob) {
  if (logprob === null) return null;
  const probability = Math.exp(logprob);
  return LEVELS.findIndex((least) => probability >= least);
}

/**
 * A token's text, with what one would not see made visible.
 * @param {string} text
 * @param {number[]} [bytes] shown if there is no text
 */
export function visible(text, bytes = []) {
  if (text === "") return bytes.length ? named(bytes) : "(no text)";
  return text.replaceAll(" ", "␣").replaceAll("\n", "↵").replaceAll("\t", "⇥").replaceAll("\r", "␍");
}

/**
 * What has no text: a control token by its name, a part of a character by its bytes.
 * @param {number[]} bytes
 */
function named(bytes) {
  try {
    return new TextDecoder("utf-8", { fatal: true }).decode(new Uint8Array(bytes));
  } catch {
    return hex(bytes);
  }
}

/** @param {number[]} bytes */
export function hex(bytes) {
  return bytes.map((byte) => byte.toString(16).toUpperCase().padStart(2, "0")).join(" ");
}

/**
 * A probability as people read it: never 0 or 100 % if it is neither.
 * @param {number} probability
 */
export function percent(probability) {
  if (probability === 0 || probability === 1) return `${probability * 100} %`;
  if (probability > 0.999999) return "> 99.9999 %";
  if (probability < 0.00001) return `${(probability * 100).toExponential(1)} %`;
  const places = probability > 0.999 ? 4 : probability < 0.01 ? 3 : probability < 0.1 ? 2 : 1;
  return `${(probability * 100).toFixed(places)} %`;
}

/**
 * A number of nats.
 * @param {number | null | undefined} value
 */
export function nats(value) {
  if (value === null || value === undefined) return "–";
  return value !== 0 && Math.abs(value) < 0.001 ? value.toPrecision(2) : value.toFixed(3);
}

/** @param {number} count */
export function grouped(count) {
  return count.toLocaleString("en-US");
}
