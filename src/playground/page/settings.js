// The sampling settings: a slider and a number field for each. Names, bounds, defaults and help texts come from the server,
// as do the ends of the sliders, which are closer together; numbers beyond them can be typed.

import { element } from "./dom.js";

/** @import { Body, Field, Slider } from "./types.js" */

/** The parameters that are always shown; the others are under "More samplers". */
const MAIN = ["temperature", "top_k", "top_p", "min_p"];

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
    for (const [name, field] of Object.entries(fields)) {
      const ends = field["x-candor-slider"];
      if (ends) (MAIN.includes(name) ? main : rest).append(this.#control(name, field, ends, prefix));
    }
    further.append(rest);
    const reset = element("button", { type: "button", class: "quiet" }, "Reset to server defaults");
    reset.addEventListener("click", () => this.set({}));
    place.replaceChildren(main, further, reset);
  }

  /**
   * @param {string} name
   * @param {Field} field
   * @param {Slider} ends
   * @param {string} prefix
   */
  #control(name, field, ends, prefix) {
    const id = `${prefix}-${name}`;
    const standard = Number(field.default ?? 0);
    const { minimum: min, maximum: max, step } = ends;
    const slider = element("input", { type: "range", min, max, step, "aria-labelledby": `${id}-label`, tabindex: 0 });
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
    this.#controls.set(name, { number, standard, put });
    return element(
      "div", { class: "setting", title: field.description ?? "" },
      element("label", { for: id, id: `${id}-label` }, name), slider, number,
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
