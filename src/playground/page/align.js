// Aligns two tokenized texts.

/** A token's bytes. @typedef {{bytes: number[]}} Piece */
/** Tokens of one side: [start, end). @typedef {[number, number]} Range */
/**
 * `same`: one token on each side, with the same bytes; `recut`: the same bytes, split into different tokens; `differs`: one
 * token on each side, with different bytes; `only-a`, `only-b`: the other side has nothing there.
 * @typedef {"same" | "recut" | "differs" | "only-a" | "only-b"} Kind
 * @typedef {{kind: Kind, a: Range, b: Range}} Row
 */

/**
 * While the texts are the same, tokens are grouped until both sides end at the same byte, so that models with different
 * tokenizers align. From where they diverge, the longest common subsequence of tokens is aligned.
 * @param {Piece[]} a
 * @param {Piece[]} b
 * @returns {{rows: Row[], divergence: number}} `divergence`: the first row in which the texts differ, or -1
 */
export function align(a, b) {
  const rows = alignPrefix(a, b);
  const [i, j] = rows.length ? [rows[rows.length - 1].a[1], rows[rows.length - 1].b[1]] : [0, 0];
  const divergence = i < a.length || j < b.length ? rows.length : -1;
  return { rows: [...rows, ...alignRest(a, b, i, j)], divergence };
}

/**
 * The rows of the common prefix.
 * @param {Piece[]} a
 * @param {Piece[]} b
 */
function alignPrefix(a, b) {
  const shared = commonPrefix(a.flatMap(({ bytes }) => bytes), b.flatMap(({ bytes }) => bytes));
  /** @type {Row[]} */
  const rows = [];
  let [i, j, from] = [0, 0, 0];
  while (i < a.length && j < b.length) {
    let [toA, toB] = [i + 1, j + 1];
    let [endA, endB] = [from + a[i].bytes.length, from + b[j].bytes.length];
    while (endA !== endB) {
      const isShorterA = endA < endB;
      if (isShorterA ? toA === a.length : toB === b.length) return rows;
      if (isShorterA) endA += a[toA++].bytes.length;
      else endB += b[toB++].bytes.length;
    }
    if (endA > shared) return rows;
    rows.push({ kind: toA === i + 1 && toB === j + 1 ? "same" : "recut", a: [i, toA], b: [j, toB] });
    [i, j, from] = [toA, toB, endA];
  }
  return rows;
}

/** The length of the common prefix. @param {number[]} a @param {number[]} b */
function commonPrefix(a, b) {
  let count = 0;
  while (count < a.length && count < b.length && a[count] === b[count]) count++;
  return count;
}

/**
 * The rows after the common prefix.
 * @param {Piece[]} a
 * @param {Piece[]} b
 * @param {number} i the first token of `a`
 * @param {number} j the first token of `b`
 */
function alignRest(a, b, i, j) {
  /** @type {Row[]} */
  const rows = [];
  const pairs = subsequence(a.slice(i).map(key), b.slice(j).map(key));
  for (const [atA, atB] of [...pairs, [a.length - i, b.length - j]]) {
    // Tokens between two pairs go side by side, as far as both sides have some.
    const [nextA, nextB] = [i + atA, j + atB];
    let [lastA, lastB] = rows.length ? [rows[rows.length - 1].a[1], rows[rows.length - 1].b[1]] : [i, j];
    while (lastA < nextA || lastB < nextB) {
      const [toA, toB] = [Math.min(nextA, lastA + 1), Math.min(nextB, lastB + 1)];
      rows.push({ kind: toA === lastA ? "only-b" : toB === lastB ? "only-a" : "differs", a: [lastA, toA], b: [lastB, toB] });
      [lastA, lastB] = [toA, toB];
    }
    if (nextA < a.length && nextB < b.length) rows.push({ kind: "same", a: [nextA, nextA + 1], b: [nextB, nextB + 1] });
  }
  return rows;
}

/** @param {Piece} piece */
function key({ bytes }) {
  return bytes.join();
}

/**
 * A longest common subsequence, as pairs of indices.
 * @param {string[]} a
 * @param {string[]} b
 * @returns {[number, number][]}
 */
function subsequence(a, b) {
  // For each pair of indices, the length of the longest one that starts there or later.
  const width = b.length + 1;
  const lengths = new Uint32Array((a.length + 1) * width);
  for (let i = a.length - 1; i >= 0; i--) {
    for (let j = b.length - 1; j >= 0; j--) {
      const at = i * width + j;
      lengths[at] = a[i] === b[j] ? lengths[at + width + 1] + 1 : Math.max(lengths[at + width], lengths[at + 1]);
    }
  }
  /** @type {[number, number][]} */
  const pairs = [];
  for (let i = 0, j = 0; i < a.length && j < b.length;) {
    if (a[i] === b[j]) pairs.push([i++, j++]);
    else if (lengths[(i + 1) * width + j] >= lengths[i * width + j + 1]) i++;
    else j++;
  }
  return pairs;
}
