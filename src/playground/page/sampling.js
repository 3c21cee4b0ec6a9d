// The sampling stages, computed from the most likely tokens alone with llama.cpp's arithmetic (src/llama-sampler.cpp, which
// Candor follows) in doubles. Where the unknown tokens matter it says so, and the page asks the server.

/** @import { Alternative, Stage } from "./types.js" */
/** @import { Values } from "./settings.js" */

/**
 * A distribution: its most likely tokens in descending order, and the number and total probability of the others.
 * @typedef {{id: number, token: string, probability: number}} Candidate
 * @typedef {{known: Candidate[], others: number, tail: number}} Distribution
 */

/**
 * @param {Alternative[]} top the most likely tokens, with raw logprobs
 * @param {number} vocabulary the number of tokens
 * @param {number} tail the others' total probability
 * @returns {Distribution}
 */
export function raw(top, vocabulary, tail) {
  const known = top.map(({ id, token, logprob }) => ({ id, token, probability: Math.exp(logprob) }));
  return { known, others: vocabulary - known.length, tail };
}

/** What a stage leaves; null if it needs the unknown tokens. @typedef {Distribution | null} Result */

/**
 * The stages in the order of their application, by their names in a trace. Only stages that are on are shown.
 * @type {{name: string, isOn: (s: Values) => boolean, apply: (d: Distribution, s: Values) => Result}[]}
 */
const STAGES = [
  { name: "others", isOn: (s) => Object.keys(s).some((name) => !PARAMETERS.has(name)), apply: notComputable },
  { name: "penalties", isOn: hasPenalties, apply: notComputable },
  { name: "dry", isOn: (s) => s.dry_multiplier !== 0, apply: notComputable },
  { name: "greedy", isOn: isGreedy, apply: (d) => first(d, 1) },
  { name: "mirostat", isOn: (s) => s.mirostat_mode !== 0 && !isGreedy(s), apply: notComputable },
  { name: "top_n_sigma", isOn: (s) => isDrawn(s) && s.top_n_sigma > 0, apply: notComputable },
  { name: "top_k", isOn: (s) => isDrawn(s) && s.top_k > 0, apply: (d, s) => topK(d, s.top_k) },
  { name: "typ_p", isOn: (s) => isDrawn(s) && s.typical_p < 1, apply: (d, s) => (d.others ? null : typical(d, s.typical_p)) },
  { name: "top_p", isOn: (s) => isDrawn(s) && s.top_p < 1, apply: (d, s) => topP(d, s.top_p) },
  { name: "min_p", isOn: (s) => isDrawn(s) && s.min_p > 0, apply: (d, s) => minP(d, s.min_p) },
  { name: "xtc", isOn: (s) => isDrawn(s) && hasXtc(s), apply: notComputable },
  {
    name: "temperature", isOn: (s) => isDrawn(s) && (s.temperature !== 1 || s.dynatemp_range > 0),
    apply: (d, s) => (d.others || s.dynatemp_range > 0 ? null : tempered(d, s.temperature)),
  },
];

/** The parameters of these stages. Only the server knows the effects of others. */
const PARAMETERS = new Set([
  "temperature", "top_k", "top_p", "min_p", "typical_p", "top_n_sigma", "xtc_probability", "xtc_threshold", "dynatemp_range",
  "repeat_penalty", "repetition_penalty", "frequency_penalty", "presence_penalty", "dry_multiplier", "mirostat_mode",
]);

/** The server treats lower temperatures as 0. */
const LEAST_TEMPERATURE = 1e-6;

/** @param {Values} s */
function isGreedy(s) {
  return s.temperature < LEAST_TEMPERATURE && s.dynatemp_range === 0 && !hasXtc(s);
}

/** @param {Values} s */
function hasPenalties(s) {
  return s.repeat_penalty !== 1 || s.repetition_penalty !== 1 || s.frequency_penalty !== 0 || s.presence_penalty !== 0;
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
 * Applies the stages to a token's distribution.
 * @param {Distribution} from the raw distribution
 * @param {Values} settings
 * @param {number} most tokens listed for each stage
 * @returns {{stages: Stage[], isComplete: boolean, last: Distribution}} `isComplete`: every stage could be computed
 */
export function run(from, settings, most) {
  if (!from.known.length) return { stages: [], isComplete: false, last: from };
  /** @type {Stage[]} */
  const stages = [];
  let now = from;
  for (const { name, isOn, apply } of STAGES) {
    if (!isOn(settings)) continue;
    const result = apply(now, settings);
    if (!result) return { stages, isComplete: false, last: now };
    stages.push(asTrace(name, now, result, most));
    now = result;
  }
  return { stages, isComplete: true, last: now };
}

/**
 * A stage in the format of a trace.
 * @param {string} stage
 * @param {Distribution} before
 * @param {Distribution} after
 * @param {number} most
 * @returns {Stage}
 */
function asTrace(stage, before, after, most) {
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
function notComputable() {
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
 * @returns {Result}
 */
function topK(d, count) {
  if (size(d) <= count) return d;
  // The server's sort decides between equal ones.
  const [last, next] = [d.known[count - 1], d.known[count]];
  if (!last || next?.probability === last.probability) return null;
  return first(d, count);
}

/**
 * The smallest set of the most likely tokens whose total probability reaches `mass`.
 * @param {Distribution} d
 * @param {number} mass
 * @returns {Result}
 */
function topP(d, mass) {
  let sum = 0;
  for (let index = 0; index < d.known.length; index++) {
    sum += d.known[index].probability;
    if (sum >= mass) return only(d.known.slice(0, index + 1));
  }
  return d.others ? null : d;
}

/**
 * The tokens whose probability is at least `share` times the most likely one's.
 * @param {Distribution} d
 * @param {number} share
 * @returns {Result}
 */
function minP(d, share) {
  const least = d.known[0].probability * share;
  const kept = d.known.filter(({ probability }) => probability >= least);
  if (kept.length === d.known.length && d.others) return null;
  return kept.length === d.known.length ? d : only(kept);
}

/**
 * The smallest set of tokens whose surprisal is closest to the entropy and whose total probability exceeds `mass`
 * (arXiv:2202.00666).
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
 * @param {Distribution} d without unknown tokens
 * @param {number} temperature
 */
function tempered(d, temperature) {
  if (temperature === 0) return only(d.known.slice(0, 1));
  const most = Math.log(d.known[0].probability);
  return only(d.known.map((candidate) => ({ ...candidate, probability: Math.exp((Math.log(candidate.probability) - most) / temperature) })));
}
