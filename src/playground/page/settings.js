// The sampling settings as controls: a slider and a number for each. Names, bounds, defaults and help come from the server,
// and so do the ends of the sliders, which are closer together; a number beyond them can be typed.

import { element } from "./dom.js";

/** @import { Body, Field, Slider } from "./types.js" */

/** The parameters that are always shown; the others are under "More samplers". */
const MAIN = ["temperature", "top_k", "top_p", "min_p"];

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
    for (const [name, field] of Object.entries(fields)) {
      const ends = field["x-candor-slider"];
      if (ends) (MAIN.includes(name) ? main : rest).append(this.#control(name, field, ends, prefix));
    }
    further.append(rest);
    const reset = element("button", { type: "button", class: "quiet" }, "Back to the server's defaults");
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
    slider.addEventListener("input", () => (put(slider.valueAsNumber), this.#changed()));
    number.addEventListener("input", () => {
      if (number.value !== "" && number.checkValidity()) {
        slider.value = number.value;
        this.#changed();
      }
    });
    this.#controls.set(name, { number, standard, put });
    return element(
      "div", { class: "setting", title: field.description ?? "" },
      element("label", { for: id, id: `${id}-label` }, name), slider, number,
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
