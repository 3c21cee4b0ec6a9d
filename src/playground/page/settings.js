// The sampling settings: a slider and a number field for each. Bounds, defaults and help texts come from the server.

import { element } from "./dom.js";

/** @import { Body, Field } from "./types.js" */

/**
 * The sliders' ranges: the server's bounds are too far apart for a slider. Numbers beyond a slider's ends can be typed.
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
  #onChange;

  /**
   * @param {HTMLElement} place
   * @param {Record<string, Field>} fields the server's
   * @param {string} prefix of the controls' ids
   * @param {() => void} onChange
   */
  constructor(place, fields, prefix, onChange) {
    this.#onChange = onChange;
    const further = element("details", { class: "further" }, element("summary", {}, "More samplers"));
    const main = element("div", { class: "sliders" });
    const rest = element("div", { class: "sliders" });
    for (const setting of SETTINGS) {
      const field = fields[setting.name];
      if (field) (setting.isMain ? main : rest).append(this.#control(setting, field, prefix));
    }
    further.append(rest);
    const reset = element("button", { type: "button", class: "quiet" }, "Reset to server defaults");
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
    slider.addEventListener("input", () => (put(slider.valueAsNumber), this.#onChange()));
    number.addEventListener("input", () => {
      if (number.value !== "" && number.checkValidity()) {
        slider.value = number.value;
        this.#onChange();
      }
    });
    this.#controls.set(setting.name, { number, standard, put });
    return element(
      "div", { class: "setting", title: field.description ?? "" },
      element("label", { for: id, id: `${id}-label` }, setting.label), slider, number,
      element("span", { id: `${id}-help`, class: "hidden" }, field.description ?? ""),
    );
  }

  /** @returns {Values} every setting's value */
  values() {
    /** @type {Values} */
    const values = {};
    for (const [name, { number, standard }] of this.#controls) {
      values[name] = number.value !== "" && number.checkValidity() ? number.valueAsNumber : standard;
    }
    return values;
  }

  /** Every setting as a request field, since another model or server may have other defaults. @returns {Body} */
  body() {
    return this.values();
  }

  /** Whether a request has exactly these values. @param {Body} body */
  matches(body) {
    const values = this.values();
    return [...this.#controls].every(([name, { standard }]) => (body[name] ?? standard) === values[name]);
  }

  /**
   * @param {Body} body settings that it lacks are reset to their defaults
   * @returns {string[]} the names of its fields that have no control
   */
  set(body) {
    for (const [name, { number, standard, put }] of this.#controls) {
      const value = typeof body[name] === "number" ? body[name] : standard;
      put(value);
      // A setting that is not at its default, or is out of bounds, must be visible.
      const details = number.closest("details");
      if (details && (value !== standard || !number.checkValidity())) details.open = true;
    }
    this.#onChange();
    return Object.entries(body).filter(([name, value]) => !this.#controls.has(name) || typeof value !== "number").map(([name]) => name);
  }
}
