// The stages of sampling, computed from the likeliest tokens alone: the arithmetic is llama.cpp's
// (src/llama-sampler.cpp, which Candor follows), in doubles. Where the tokens that are not known matter, it says so, and
// the server is asked.

/** @import { Alternative, Stage } from "./types.js" */
/** @import { Values } from "./settings.js" */

/**
 * A distribution of which the likeliest tokens are known, in descending order, and of the others how many there are, and
 * their probability.
 * @typedef {{id: number, token: string, probability: number}} Candidate
 * @typedef {{known: Candidate[], others: number, tail: number}} Distribution
 */

/**
 * @param {Alternative[]} top the likeliest, with raw logprobs
 * @param {number} vocabulary how many tokens there are
 * @param {number} tail the others' probability
 * @returns {Distribution}
 */
export function raw(top, vocabulary, tail) {
  const known = top.map(({ id, token, logprob }) => ({ id, token, probability: Math.exp(logprob) }));
  return { known, others: vocabulary - known.length, tail };
}

/** What a stage leaves; null: it cannot be computed from here. @typedef {Distribution | null} Left */

/**
 * The stages in the order in which they are applied, each as the server calls it in a trace. A stage that is not `isOn`
 * does not appear.
 * @type {{name: string, isOn: (s: Values) => boolean, apply: (d: Distribution, s: Values) => Left}[]}
 */
const STAGES = [
  { name: "others", isOn: (s) => Object.keys(s).some((name) => !PARAMETERS.has(name)), apply: unknown },
  { name: "penalties", isOn: (s) => s.repeat_penalty !== 1 || s.frequency_penalty !== 0 || s.presence_penalty !== 0, apply: unknown },
  { name: "dry", isOn: (s) => s.dry_multiplier !== 0, apply: unknown },
  { name: "greedy", isOn: isGreedy, apply: (d) => first(d, 1) },
  { name: "mirostat", isOn: (s) => s.mirostat_mode !== 0 && !isGreedy(s), apply: unknown },
  { name: "top_n_sigma", isOn: (s) => isDrawn(s) && s.top_n_sigma > 0, apply: unknown },
  { name: "top_k", isOn: (s) => isDrawn(s) && s.top_k > 0, apply: (d, s) => likeliest(d, s.top_k) },
  { name: "typ_p", isOn: (s) => isDrawn(s) && s.typical_p < 1, apply: (d, s) => (d.others ? null : typical(d, s.typical_p)) },
  { name: "top_p", isOn: (s) => isDrawn(s) && s.top_p < 1, apply: (d, s) => nucleus(d, s.top_p) },
  { name: "min_p", isOn: (s) => isDrawn(s) && s.min_p > 0, apply: (d, s) => likely(d, s.min_p) },
  { name: "xtc", isOn: (s) => isDrawn(s) && hasXtc(s), apply: unknown },
  {
    name: "temperature", isOn: (s) => isDrawn(s) && (s.temperature !== 1 || s.dynatemp_range > 0),
    apply: (d, s) => (d.others || s.dynatemp_range > 0 ? null : tempered(d, s.temperature)),
  },
];

/** The parameters of these stages. With others only the server knows what they do. */
const PARAMETERS = new Set([
  "temperature", "top_k", "top_p", "min_p", "typical_p", "top_n_sigma", "xtc_probability", "xtc_threshold", "dynatemp_range",
  "repeat_penalty", "frequency_penalty", "presence_penalty", "dry_multiplier", "mirostat_mode",
]);

/** Temperatures below are 0 to the server. */
const COLDEST = 1e-6;

/** @param {Values} s */
function isGreedy(s) {
  return s.temperature < COLDEST && s.dynatemp_range === 0 && !hasXtc(s);
}

/** @param {Values} s */
function hasXtc(s) {
  return s.xtc_probability > 0 && s.xtc_threshold <= 0.5;
}

/** @param {Values} s */
function isDrawn(s) {
  return !isGreedy(s) && s.mirostat_mode === 0;
}

/**
 * What each stage does to a token's distribution.
 * @param {Distribution} from the raw one
 * @param {Values} settings
 * @param {number} most tokens told of each stage
 * @returns {{stages: Stage[], isWhole: boolean, last: Distribution}} `isWhole`: all of them could be computed; else the server must be asked
 */
export function run(from, settings, most) {
  if (!from.known.length) return { stages: [], isWhole: false, last: from };
  /** @type {Stage[]} */
  const stages = [];
  let now = from;
  for (const { name, isOn, apply } of STAGES) {
    if (!isOn(settings)) continue;
    const left = apply(now, settings);
    if (!left) return { stages, isWhole: false, last: now };
    stages.push(told(name, now, left, most));
    now = left;
  }
  return { stages, isWhole: true, last: now };
}

/**
 * As a trace tells it.
 * @param {string} stage
 * @param {Distribution} before
 * @param {Distribution} after
 * @param {number} most
 * @returns {Stage}
 */
function told(stage, before, after, most) {
  const left = new Map(after.known.map(({ id, probability }) => [id, probability]));
  const kept = before.known.reduce((sum, { id, probability }) => sum + (left.has(id) ? probability : 0), after.others ? before.tail : 0);
  return {
    stage,
    candidates_in: size(before),
    candidates_out: size(after),
    cut_mass: Math.max(0, 1 - kept),
    tokens: before.known.slice(0, most).map(({ id, token, probability }) => ({ id, token, before: probability, after: left.get(id) ?? 0 })),
  };
}

/** @param {Distribution} distribution */
export function size({ known, others }) {
  return known.length + others;
}

/** @returns {null} */
function unknown() {
  return null;
}

/**
 * @param {Candidate[]} kept
 * @returns {Distribution}
 */
function only(kept) {
  const sum = kept.reduce((sum, { probability }) => sum + probability, 0);
  return { known: kept.map((candidate) => ({ ...candidate, probability: candidate.probability / sum })), others: 0, tail: 0 };
}

/** @param {Distribution} d @param {number} count */
function first(d, count) {
  return size(d) <= count ? d : only(d.known.slice(0, count));
}

/**
 * @param {Distribution} d
 * @param {number} count
 * @returns {Left}
 */
function likeliest(d, count) {
  if (size(d) <= count) return d;
  // Of equal ones it is the server's sort that says which is in.
  const [last, next] = [d.known[count - 1], d.known[count]];
  if (!last || next?.probability === last.probability) return null;
  return first(d, count);
}

/**
 * The fewest of the likeliest that have `mass` together.
 * @param {Distribution} d
 * @param {number} mass
 * @returns {Left}
 */
function nucleus(d, mass) {
  let sum = 0;
  for (let index = 0; index < d.known.length; index++) {
    sum += d.known[index].probability;
    if (sum >= mass) return only(d.known.slice(0, index + 1));
  }
  return d.others ? null : d;
}

/**
 * Those at least so likely, relative to the likeliest.
 * @param {Distribution} d
 * @param {number} share
 * @returns {Left}
 */
function likely(d, share) {
  const least = d.known[0].probability * share;
  const kept = d.known.filter(({ probability }) => probability >= least);
  if (kept.length === d.known.length && d.others) return null;
  return kept.length === d.known.length ? d : only(kept);
}

/**
 * The fewest whose surprise is nearest to the entropy that have `mass` together. arXiv:2202.00666.
 * @param {Distribution} d
 * @param {number} mass
 */
function typical(d, mass) {
  const entropy = d.known.reduce((sum, { probability: p }) => sum - (p > 0 ? p * Math.log(p) : 0), 0);
  const far = (/** @type {Candidate} */ { probability }) => Math.abs(-Math.log(probability) - entropy);
  const byNearness = [...d.known].sort((a, b) => far(a) - far(b));
  let sum = 0;
  const kept = new Set();
  for (const candidate of byNearness) {
    kept.add(candidate.id);
    sum += candidate.probability;
    if (sum > mass) break;
  }
  return only(d.known.filter(({ id }) => kept.has(id)));
}

/**
 * @param {Distribution} d all of whose tokens are known
 * @param {number} temperature
 */
function tempered(d, temperature) {
  if (temperature === 0) return only(d.known.slice(0, 1));
  const most = Math.log(d.known[0].probability);
  return only(d.known.map((candidate) => ({ ...candidate, probability: Math.exp((Math.log(candidate.probability) - most) / temperature) })));
}
