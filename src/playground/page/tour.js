// The lesson in six steps: what each parameter does to "The capital of Michigan is ".

import { byId, element } from "./dom.js";

/** @import { Explore } from "./explore.js" */
/** @import { Body } from "./types.js" */

const PROMPT = "The capital of Michigan is ";

/**
 * `target`: selects the element to highlight. `request`: what the step generates.
 * @type {{title: string, text: string[], target: string, request: Body}[]}
 */
const STEPS = [
  {
    title: "Always the most likely token",
    text: [
      "With temperature 0 the model always takes its most likely token. Run it again and you get the same text.",
      "The prompt is in italics. The darker a token's background and the heavier its underline, the less the model expected it. The most likely token is not always likely: see how often it had a probability below 50%. That is where the model is guessing.",
    ],
    target: "#text",
    request: { temperature: 0, max_tokens: 16 },
  },
  {
    title: "The alternatives",
    text: [
      "The first token of the completion is selected. The list shows the candidates and their probabilities. A logprob is the natural logarithm of a probability: the closer to 0, the more likely.",
      "Move through the text with the arrow keys, or point at tokens. Where entropy is low, the next token is almost certain; where it is high, many tokens are plausible.",
    ],
    target: "#token",
    request: { temperature: 0, max_tokens: 16 },
  },
  {
    title: "Temperature",
    text: [
      "Now tokens are drawn at random, with temperature 0.7, so some are not the most likely. The model's own probabilities are the same as before: temperature changes the draw, not the model.",
      "In “Sampling at this token”, grey is a probability before a stage, blue after it. Move the slider: towards 0 the most likely token gets everything, above 1 the candidates become more equal.",
    ],
    target: "#stages",
    request: { temperature: 0.7, max_tokens: 16, seed: 4 },
  },
  {
    title: "top_k",
    text: [
      "top_k = 2 always keeps two candidates, however good or bad the others are. See the stage “top_k”: two tokens of the whole vocabulary remain and share the probability.",
      "The list of alternatives still has more than two: it shows the model's distribution, before any sampling.",
    ],
    target: "#stages [data-stage=top_k]",
    request: { temperature: 1, top_k: 2, max_tokens: 16, seed: 1 },
  },
  {
    title: "top_p",
    text: [
      "top_p = 0.01 keeps the smallest set of most likely tokens whose probabilities add up to 0.01. Here the most likely token alone exceeds that, so the result is the same as with temperature 0, although the temperature is 1.",
      "Move top_p up and see in the curve where it cuts: the more certain the model is, the fewer candidates remain.",
    ],
    target: "#stages [data-stage=top_p]",
    request: { temperature: 1, top_p: 0.01, max_tokens: 16, seed: 1 },
  },
  {
    title: "A different continuation",
    text: [
      "Every token was one of many. Choose an alternative from the list, and the completion continues from there. The branches are listed below the text.",
      "This is all a language model does: compute probabilities, draw a token, repeat. Everything on this page comes from the server's API: “Copy as…” has the request for your own program.",
    ],
    target: ".alternatives",
    request: { temperature: 0, max_tokens: 16 },
  },
];

/**
 * @param {Explore} explore
 * @param {() => void} showTab shows the Explore tab
 */
export function mountTour(explore, showTab) {
  const place = byId("tour", HTMLElement);
  const starter = byId("start-tour", HTMLButtonElement);
  let step = 0;
  /** The form before the tour. @type {Body} */
  let before = {};

  function highlight(/** @type {string | null} */ selector) {
    document.querySelector(".shown-by-tour")?.classList.remove("shown-by-tour");
    const target = selector && document.querySelector(selector);
    if (!target) return;
    target.classList.add("shown-by-tour");
    target.scrollIntoView({ block: "center" });
  }

  function end() {
    place.hidden = true;
    highlight(null);
    document.documentElement.classList.remove("on-tour");
    explore.set(before);
    starter.focus();
  }

  async function go(/** @type {number} */ to) {
    step = to;
    highlight(null);
    const { title, text, target, request } = STEPS[step];
    const back = button("Back", () => go(step - 1));
    back.disabled = step === 0;
    const isLast = step === STEPS.length - 1;
    const next = button(isLast ? "End tour" : "Next", isLast ? end : () => go(step + 1));
    next.className = "main";
    const heading = element("h2", { tabindex: "-1" }, `${step + 1} of ${STEPS.length}: ${title}`);
    place.replaceChildren(heading, ...text.map((paragraph) => element("p", {}, paragraph)), element("div", { class: "buttons" }, back, next, ...(isLast ? [] : [button("Leave tour", end)])));
    place.hidden = false;
    document.documentElement.classList.add("on-tour");
    heading.focus();
    const current = step;
    explore.set({ prompt: PROMPT, ...request });
    await explore.generate();
    const first = explore.branch?.promptLength ?? 0;
    if (current !== step || place.hidden || !explore.branch?.tokens[first]) return;
    // Once the answer has been rendered.
    requestAnimationFrame(() => requestAnimationFrame(() => {
      if (current !== step || place.hidden) return;
      explore.select(first);
      highlight(target);
    }));
  }

  starter.addEventListener("click", () => {
    showTab();
    if (place.hidden) before = explore.request();
    go(0);
  });
  place.addEventListener("keydown", (event) => {
    if (event.key === "Escape") end();
  });
}

/**
 * @param {string} name
 * @param {() => void} onClick
 */
function button(name, onClick) {
  const made = element("button", { type: "button" }, name);
  made.addEventListener("click", onClick);
  return made;
}
