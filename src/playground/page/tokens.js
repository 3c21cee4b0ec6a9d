// Tokens: read from an answer's arrays, and formatted for people.

/** @import { Choice, Field, Token } from "./types.js" */

/** The least probability of each tint, from certain to unlikely. */
export const LEVELS = [0.9, 0.5, 0.2, 0.05, 0.01, 0];

/** Alternatives requested for each token, if the server allows as many. */
const ALTERNATIVES = 40;

/**
 * The request fields that ask for what `tokensOf` reads.
 * @param {Record<string, Field>} fields the server's
 */
export function detailOptions(fields) {
  return { logprobs: atMost(ALTERNATIVES, fields), logprobs_detail: true, return_token_ids: true };
}

/**
 * `count` tokens of a distribution, or as many as the server allows: one limit applies to every field that asks for some.
 * @param {number} count
 * @param {Record<string, Field>} fields the server's
 */
export function atMost(count, fields) {
  return Math.min(count, fields.logprobs?.maximum ?? count);
}

/**
 * The tokens of an answer, or of one event of its stream.
 * @param {Choice} choice
 * @returns {Token[]}
 */
export function tokensOf(choice) {
  const { logprobs } = choice;
  if (!logprobs) return [];
  // Generated tokens come after those of the prompt.
  const prompt = logprobs.tokens.length - (choice.token_ids?.length ?? 0);
  return logprobs.tokens.map((text, at) => ({
    id: logprobs.token_ids[at],
    bytes: logprobs.bytes[at],
    text,
    offset: logprobs.text_offset[at],
    isPrompt: at < prompt,
    logprob: logprobs.token_logprobs[at],
    rank: logprobs.rank[at],
    entropy: logprobs.entropy[at],
    tailMass: logprobs.tail_mass[at],
    top: logprobs.top[at],
    trace: choice.trace?.[at - prompt] ?? null,
  }));
}

/**
 * The tint's index, from 0 (certain) to 5 (unlikely); null for a token without a probability.
 * @param {number | null} logprob
 */
export function level(logprob) {
  if (logprob === null) return null;
  const probability = Math.exp(logprob);
  return LEVELS.findIndex((least) => probability >= least);
}

/**
 * A token's text with visible whitespace.
 * @param {string} text
 * @param {number[]} [bytes] shown if there is no text
 */
export function visible(text, bytes = []) {
  if (text === "") return bytes.length ? named(bytes) : "(no text)";
  return text.replaceAll(" ", "␣").replaceAll("\n", "↵").replaceAll("\t", "⇥").replaceAll("\r", "␍");
}

/**
 * A token without text: a control token's name, or the bytes of a partial character.
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
 * A probability in percent. It is never rounded to 0% or 100%.
 * @param {number} probability
 */
export function percent(probability) {
  if (probability === 0 || probability === 1) return `${probability * 100}%`;
  if (probability > 0.999999) return "> 99.9999%";
  if (probability < 0.00001) return `${(probability * 100).toExponential(1)}%`;
  const places = probability > 0.999 ? 4 : probability < 0.01 ? 3 : probability < 0.1 ? 2 : 1;
  return `${(probability * 100).toFixed(places)}%`;
}

/**
 * A number of nats, without the unit.
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

/**
 * A count with its noun, as in "1 token" or "1,024 tokens".
 * @param {number} count
 * @param {string} noun
 */
export function counted(count, noun) {
  return `${grouped(count)} ${noun}${count === 1 ? "" : "s"}`;
}
