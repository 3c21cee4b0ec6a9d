/** @param {HTMLElement} place @param {import("./explore.js").Context} context */
export function mountScore(place, context) {}
