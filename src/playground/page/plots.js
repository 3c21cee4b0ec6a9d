// Plots by uPlot in the page's colours, each with a text for screen readers.

import uPlot from "./vendor/uplot/uPlot.esm.js";
import { oncePerFrame } from "./dom.js";

/** A colour of the current theme. @param {string} name */
function colour(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
}

/**
 * A plot that fills its element and is redrawn when its size or the theme changes.
 */
export class Plot {
  /** @type {uPlot | null} */
  #plot = null;
  /** @type {uPlot.AlignedData} */
  #data = [[]];
  #width = 0;
  #place;
  #options;
  #height;
  #refresh;
  /** The index at which the cursor was put. @type {number | null} */
  #pointed = null;

  /**
   * @param {HTMLElement} place
   * @param {(colour: (name: string) => string) => Partial<uPlot.Options>} options
   * @param {number} height in pixels
   */
  constructor(place, options, height = 180) {
    this.#place = place;
    this.#options = options;
    this.#height = height;
    this.#refresh = oncePerFrame(() => this.#draw());
    new ResizeObserver(() => {
      if (place.clientWidth && place.clientWidth !== this.#width) this.redraw();
    }).observe(place);
    document.addEventListener("themechange", () => this.redraw());
  }

  /**
   * @param {uPlot.AlignedData} data
   * @param {string} description for screen readers
   */
  show(data, description) {
    this.#data = data;
    this.#place.setAttribute("role", "img");
    this.#place.setAttribute("aria-label", description);
    this.#refresh();
  }

  /** Redraws it with other options or colours. */
  redraw() {
    this.#plot?.destroy();
    this.#plot = null;
    this.#refresh();
  }

  /** Puts the cursor at an x value, by its index. @param {number | null} index */
  point(index) {
    this.#pointed = index;
    const plot = this.#plot;
    if (!plot) return;
    const x = index === null ? undefined : plot.data[0][index];
    plot.setCursor({ left: x === undefined ? -10 : plot.valToPos(x, "x"), top: x === undefined ? -10 : 5 }, false);
  }

  #draw() {
    this.#width = this.#place.clientWidth;
    if (!this.#width) return;
    if (this.#plot) {
      this.#plot.setData(this.#data);
      // The token has moved.
      if (this.#pointed !== null) this.point(this.#pointed);
      return;
    }
    const options = { width: this.#width, height: this.#height, ...this.#options(colour) };
    this.#plot = new uPlot(/** @type {uPlot.Options} */ (options), this.#data, this.#place);
  }
}

/**
 * An axis in the page's colours.
 * @param {(name: string) => string} colour
 * @param {string} label
 * @param {Partial<uPlot.Axis>} [more]
 * @returns {uPlot.Axis}
 */
export function axis(colour, label, more = {}) {
  const line = { stroke: colour("line"), width: 1 };
  return { label, stroke: colour("soft"), grid: line, ticks: line, labelSize: 22, size: 40, font: "12px system-ui", labelFont: "12px system-ui", ...more };
}
