// What the forms of the tabs are made of.

import { element } from "./dom.js";

/** @import { Model } from "./types.js" */

/** @typedef {import("./types.js").Field} Field */
/** What main.js gives each tab. @typedef {{models: Model[], fields: Record<string, Field>, trouble: (error: unknown) => void}} Context */

/**
 * @param {Model[]} models
 * @param {string} id
 */
export function modelSelect(models, id) {
  return element("select", { id }, ...modelOptions(models));
}

/** @param {Model[]} models */
export function modelOptions(models) {
  return models.map(({ id }) => element("option", { value: id }, id));
}

/**
 * A control and its label.
 * @param {string} label
 * @param {HTMLElement} control with an id
 * @param {string} [help] a line below
 */
export function labelled(label, control, help) {
  const place = element("div", { class: "labelled" }, element("label", { for: control.id }, label), control);
  if (help) {
    control.setAttribute("aria-describedby", `${control.id}-help`);
    place.append(element("p", { class: "soft", id: `${control.id}-help` }, help));
  }
  return place;
}

/** Buttons that ask and stop, and a line that says how it goes. */
export class Asking {
  #ask;
  #stop;
  #status;
  #trouble;
  #abort = new AbortController();

  /**
   * @param {string} ask the button's words
   * @param {string} id of the line
   * @param {string} status what it says at first
   * @param {(error: unknown) => void} trouble
   */
  constructor(ask, id, status, trouble) {
    this.#ask = element("button", { class: "main" }, ask);
    this.#stop = element("button", { type: "button", disabled: true }, "Stop");
    this.#stop.addEventListener("click", () => this.#abort.abort());
    this.#status = element("p", { role: "status", class: "soft", id }, status);
    this.#trouble = trouble;
  }

  get buttons() {
    return [this.#ask, this.#stop];
  }

  get status() {
    return this.#status;
  }

  /** @param {string} words */
  say(words) {
    this.#status.textContent = words;
  }

  /**
   * One at a time: what still runs is not asked again.
   * @param {(signal: AbortSignal) => Promise<string>} work gives what to say at its end
   */
  async run(work) {
    if (this.#ask.disabled) return;
    this.#abort = new AbortController();
    const { signal } = this.#abort;
    this.#ask.disabled = true;
    this.#stop.disabled = false;
    this.#trouble(null);
    this.say("Asking the server…");
    try {
      this.say(await work(signal));
    } catch (error) {
      this.say(signal.aborted ? "Stopped." : "No answer.");
      if (!signal.aborted) this.#trouble(error);
    } finally {
      // A disabled button loses the focus; whoever pressed Stop goes on from the other.
      const hadFocus = document.activeElement === this.#stop;
      this.#ask.disabled = false;
      this.#stop.disabled = true;
      if (hadFocus) this.#ask.focus();
    }
  }
}
