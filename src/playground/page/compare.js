/** @param {HTMLElement} place @param {import("./explore.js").Context} context */
export function mountCompare(place, context) {}
