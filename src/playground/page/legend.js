// The legend of the tints.

import { element } from "./dom.js";
import { LEVELS } from "./tokens.js";

/** A line that explains the tints. */
export function legend() {
  const tints = LEVELS.map((least, at) => element("span", { class: `token level-${at}` }, least ? `≥ ${least * 100}%` : `< ${LEVELS[at - 1] * 100}%`));
  return element("p", { class: "legend reading" }, element("span", {}, "Token probability:"), ...tints);
}
