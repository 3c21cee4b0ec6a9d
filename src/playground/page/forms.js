// Parts that the forms of all tabs share.

import { element } from "./dom.js";

/** @import { Model } from "./types.js" */

/** @typedef {import("./types.js").Field} Field */
/** What main.js passes to each tab. @typedef {{models: Model[], fields: Record<string, Field>, showError: (error: unknown) => void}} Context */

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

/** The buttons that start and stop a request, and its status line. */
export class RequestControls {
  #start;
  #stop;
  #status;
  #showError;
  #abort = new AbortController();

  /**
   * @param {string} label the start button's
   * @param {string} id the status line's
   * @param {string} status the first status
   * @param {(error: unknown) => void} showError
   */
  constructor(label, id, status, showError) {
    this.#start = element("button", { class: "main" }, label);
    this.#stop = element("button", { type: "button", disabled: true }, "Stop");
    this.#stop.addEventListener("click", () => this.#abort.abort());
    this.#status = element("p", { role: "status", class: "soft", id }, status);
    this.#showError = showError;
  }

  get buttons() {
    return [this.#start, this.#stop];
  }

  get statusLine() {
    return this.#status;
  }

  /** @param {string} text */
  setStatus(text) {
    this.#status.textContent = text;
  }

  /**
   * Sends a request, unless one is running.
   * @param {(signal: AbortSignal) => Promise<string>} send returns the final status
   */
  async run(send) {
    if (this.#start.disabled) return;
    this.#abort = new AbortController();
    const { signal } = this.#abort;
    this.#start.disabled = true;
    this.#stop.disabled = false;
    this.#showError(null);
    this.setStatus("Waiting for the server…");
    try {
      this.setStatus(await send(signal));
    } catch (error) {
      this.setStatus(signal.aborted ? "Stopped." : "No answer.");
      if (!signal.aborted) this.#showError(error);
    } finally {
      // A disabled button loses the focus, so it moves from Stop to the other button.
      const hadFocus = document.activeElement === this.#stop;
      this.#start.disabled = false;
      this.#stop.disabled = true;
      if (hadFocus) this.#start.focus();
    }
  }
}
