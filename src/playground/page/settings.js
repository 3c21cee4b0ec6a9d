// The sampling settings as controls: a slider and a number for each. Bounds, defaults and help come from the server.

import { element } from "./dom.js";

/** @import { Body, Field } from "./types.js" */

/**
 * The sliders' own ends: those of the server are too far apart to be set by hand. A number beyond them can be typed.
 * @type {{name: string, label: string, from: number, to: number, step: number, isMain?: boolean}[]}
 */
const SETTINGS = [
  { name: "temperature", label: "temperature", from: 0, to: 3, step: 0.05, isMain: true },
  { name: "top_k", label: "top_k", from: 0, to: 100, step: 1, isMain: true },
  { name: "top_p", label: "top_p", from: 0, to: 1, step: 0.01, isMain: true },
  { name: "min_p", label: "min_p", from: 0, to: 1, step: 0.01, isMain: true },
  { name: "typical_p", label: "typical_p", from: 0, to: 1, step: 0.01 },
  { name: "top_n_sigma", label: "top_n_sigma", from: 0, to: 5, step: 0.05 },
  { name: "xtc_probability", label: "xtc_probability", from: 0, to: 1, step: 0.05 },
  { name: "xtc_threshold", label: "xtc_threshold", from: 0, to: 0.5, step: 0.01 },
  { name: "dynatemp_range", label: "dynatemp_range", from: 0, to: 3, step: 0.05 },
  { name: "repeat_penalty", label: "repeat_penalty", from: 0.5, to: 2, step: 0.05 },
  { name: "frequency_penalty", label: "frequency_penalty", from: -2, to: 2, step: 0.1 },
  { name: "presence_penalty", label: "presence_penalty", from: -2, to: 2, step: 0.1 },
  { name: "dry_multiplier", label: "dry_multiplier", from: 0, to: 5, step: 0.1 },
  { name: "mirostat_mode", label: "mirostat_mode", from: 0, to: 2, step: 1 },
];

/** Their values, by name. @typedef {Record<string, number>} Values */

export class Settings {
  /** @type {Map<string, {number: HTMLInputElement, standard: number, put: (value: number) => void}>} */
  #controls = new Map();
  #changed;

  /**
   * @param {HTMLElement} place
   * @param {Record<string, Field>} fields the server's
   * @param {string} prefix of ids, which are the page's
   * @param {() => void} changed
   */
  constructor(place, fields, prefix, changed) {
    this.#changed = changed;
    const further = element("details", { class: "further" }, element("summary", {}, "More samplers"));
    const main = element("div", { class: "sliders" });
    const rest = element("div", { class: "sliders" });
    for (const setting of SETTINGS) {
      const field = fields[setting.name];
      if (field) (setting.isMain ? main : rest).append(this.#control(setting, field, prefix));
    }
    further.append(rest);
    const reset = element("button", { type: "button", class: "quiet" }, "Back to the server's defaults");
    reset.addEventListener("click", () => this.set({}));
    place.replaceChildren(main, further, reset);
  }

  /**
   * @param {typeof SETTINGS[number]} setting
   * @param {Field} field
   * @param {string} prefix
   */
  #control(setting, field, prefix) {
    const id = `${prefix}-${setting.name}`;
    const standard = Number(field.default ?? 0);
    const ends = { min: setting.from, max: setting.to, step: setting.step };
    const slider = element("input", { type: "range", ...ends, "aria-labelledby": `${id}-label`, tabindex: 0 });
    const number = element("input", {
      type: "number", id, step: "any", min: field.minimum, max: field.maximum, "aria-describedby": `${id}-help`,
    });
    const put = (/** @type {number} */ value) => {
      slider.value = String(value);
      number.value = String(value);
    };
    put(standard);
    slider.addEventListener("input", () => (put(slider.valueAsNumber), this.#changed()));
    number.addEventListener("input", () => {
      if (number.value !== "" && number.checkValidity()) {
        slider.value = number.value;
        this.#changed();
      }
    });
    this.#controls.set(setting.name, { number, standard, put });
    return element(
      "div", { class: "setting", title: field.description ?? "" },
      element("label", { for: id, id: `${id}-label` }, setting.label), slider, number,
      element("span", { id: `${id}-help`, class: "hidden" }, field.description ?? ""),
    );
  }

  /** @returns {Values} all of them */
  values() {
    /** @type {Values} */
    const values = {};
    for (const [name, { number, standard }] of this.#controls) {
      values[name] = number.value !== "" && number.checkValidity() ? number.valueAsNumber : standard;
    }
    return values;
  }

  /** As a request has them: all, since another model or server may have other defaults. @returns {Body} */
  body() {
    return this.values();
  }

  /** Whether a request has these very values. @param {Body} body */
  areThose(body) {
    const values = this.values();
    return [...this.#controls].every(([name, { standard }]) => (body[name] ?? standard) === values[name]);
  }

  /**
   * @param {Body} body what it does not name becomes the default
   * @returns {string[]} what it names and there is no control for
   */
  set(body) {
    for (const [name, { number, standard, put }] of this.#controls) {
      const value = typeof body[name] === "number" ? body[name] : standard;
      put(value);
      // What is off its default, or out of bounds, is to be seen.
      const details = number.closest("details");
      if (details && (value !== standard || !number.checkValidity())) details.open = true;
    }
    this.#changed();
    return Object.entries(body).filter(([name, value]) => !this.#controls.has(name) || typeof value !== "number").map(([name]) => name);
  }
}
