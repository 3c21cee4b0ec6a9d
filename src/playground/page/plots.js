// Plots by uPlot, in the page's colours, each with its numbers in words for those who do not see it.

import uPlot from "./vendor/uplot/uPlot.esm.js";
import { onceAFrame } from "./dom.js";

/** The colours of the page, as they are now. @param {string} name */
function colour(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
}

/**
 * A plot that fills its place, and is drawn again when the place or the colours change.
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
  /** Where the cursor was put. @type {number | null} */
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
    this.#refresh = onceAFrame(() => this.#draw());
    new ResizeObserver(() => {
      if (place.clientWidth && place.clientWidth !== this.#width) this.redraw();
    }).observe(place);
    document.addEventListener("themechange", () => this.redraw());
  }

  /**
   * @param {uPlot.AlignedData} data
   * @param {string} words what is to be seen
   */
  show(data, words) {
    this.#data = data;
    this.#place.setAttribute("role", "img");
    this.#place.setAttribute("aria-label", words);
    this.#refresh();
  }

  /** With other options or colours. */
  redraw() {
    this.#plot?.destroy();
    this.#plot = null;
    this.#refresh();
  }

  /** Puts the cursor at a place of x, by its index. @param {number | null} index */
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
      // The same token stands elsewhere now.
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
