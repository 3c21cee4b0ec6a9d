// The example answer that a first visit starts with.

import * as api from "./api.js";
import { byId } from "./dom.js";

/** @import { Explore } from "./explore.js" */
/** @import { Model } from "./types.js" */

/**
 * Whether this browser opens the page for the first time. Without storage there is no telling, and the answer is no: an
 * example at every visit would be in the way.
 */
export function isFirstVisit() {
  return api.stored(() => ["visited", "theme"].every((name) => localStorage.getItem(name) === null)) ?? false;
}

/**
 * Shows the example once the model is loaded, unless the visitor does something first. What they do while it is generated
 * stops it.
 * @param {Explore} explore
 * @param {Promise<Model | undefined>} loaded the model that the form names, once it is no longer loading
 * @returns {() => void} stops it
 */
export function startExample(explore, loaded) {
  const interruption = new AbortController();
  const { signal } = interruption;
  const interrupt = () => interruption.abort();
  // Before the other listeners: what they do may end the example, too.
  const options = { signal, capture: true };
  for (const type of ["input", "submit"]) document.addEventListener(type, interrupt, options);
  for (const id of ["start-tour", "stop"]) byId(id, HTMLButtonElement).addEventListener("click", interrupt, options);
  show(explore, loaded, signal).finally(interrupt);
  return interrupt;
}

/**
 * @param {Explore} explore
 * @param {Promise<Model | undefined>} loaded
 * @param {AbortSignal} signal
 */
async function show(explore, loaded, signal) {
  const model = await loaded;
  // Opening a page should not make a server load a model.
  const canRun = model?.status?.value === "loaded" && model.meta?.generates !== false;
  const isShown = canRun && !signal.aborted && (await explore.showExample(signal));
  if (isShown || signal.aborted) api.stored(() => localStorage.setItem("visited", "true"));
}
