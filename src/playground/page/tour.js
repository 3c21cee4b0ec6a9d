// The lesson in six steps: what each parameter does to "The capital of Michigan is ", and where to look.

import { byId, element } from "./dom.js";

/** @import { Explore } from "./explore.js" */
/** @import { Body } from "./types.js" */

const PROMPT = "The capital of Michigan is ";

/**
 * `look`: what is framed. `request`: what is generated when one comes to the step.
 * @type {{title: string, text: string[], look: string, request: Body}[]}
 */
const STEPS = [
  {
    title: "The likeliest token, every time",
    text: [
      "With a temperature of 0 the model's likeliest token is taken at each place: run it again, and the same comes.",
      "The prompt is in italics. The darker a token's ground and the heavier its line, the less the model expected it. Likeliest does not mean likely: look how often the next token had less than half of the model's trust. Where it does not know, one can see that.",
    ],
    look: "#text",
    request: { temperature: 0, max_tokens: 16 },
  },
  {
    title: "What else it might have said",
    text: [
      "The first token of the completion is chosen. Beside it stand the candidates with their probabilities: the logprob is the probability's natural logarithm, so nearer to 0 is likelier.",
      "Go through the text with the arrow keys, or point at tokens. Where entropy is low, the next token is all but certain; where it is high, many would do.",
    ],
    look: "#token",
    request: { temperature: 0, max_tokens: 16 },
  },
  {
    title: "Temperature",
    text: [
      "Now tokens are drawn, with a temperature of 0.7. Not each of them is the likeliest any more. The candidates' own probabilities are those of before: temperature changes the draw, not the model.",
      "Below “Sampling here”, grey is a probability before a stage, blue behind it. Move the slider: towards 0 the likeliest takes all, above 1 they become alike.",
    ],
    look: "#stages",
    request: { temperature: 0.7, max_tokens: 16, seed: 4 },
  },
  {
    title: "top_k",
    text: [
      "top_k = 2 leaves two candidates, at each place, however good or bad the others are. See the stage “top_k”: of the whole vocabulary two go on, and share the probability.",
      "The list of alternatives still has more than two: it is the model's, and was made before any of that.",
    ],
    look: "#stages [data-stage=top_k]",
    request: { temperature: 1, top_k: 2, max_tokens: 16, seed: 1 },
  },
  {
    title: "top_p",
    text: [
      "top_p = 0.01 keeps the fewest of the likeliest whose probabilities add up to 0.01. That is one alone, if it has more than 0.01 by itself: although the temperature is 1, it is as if it were 0.",
      "Move top_p up, and see in the curve below where it cuts: the number of candidates follows how sure the model is.",
    ],
    look: "#stages [data-stage=top_p]",
    request: { temperature: 1, top_p: 0.01, max_tokens: 16, seed: 1 },
  },
  {
    title: "Another way",
    text: [
      "Every token was one of many. Choose an alternative in the list, and the completion goes on from there; below the text stand the branches, to walk between them.",
      "That is all that a language model does: probabilities, a draw, and again. Everything on this page comes from the server's API: “Copy as…” has the request for your own program.",
    ],
    look: ".alternatives",
    request: { temperature: 0, max_tokens: 16 },
  },
];

/**
 * @param {Explore} explore
 * @param {() => void} begin shows the tab that the tour is of
 */
export function mountTour(explore, begin) {
  const place = byId("tour", HTMLElement);
  const starter = byId("start-tour", HTMLButtonElement);
  let step = 0;
  /** What stood in the form before. @type {Body} */
  let before = {};

  function frame(/** @type {string | null} */ selector) {
    document.querySelector(".shown-by-tour")?.classList.remove("shown-by-tour");
    const framed = selector && document.querySelector(selector);
    if (!framed) return;
    framed.classList.add("shown-by-tour");
    framed.scrollIntoView({ block: "center" });
  }

  function end() {
    place.hidden = true;
    frame(null);
    document.documentElement.classList.remove("on-tour");
    explore.set(before);
    starter.focus();
  }

  async function go(/** @type {number} */ to) {
    step = to;
    frame(null);
    const { title, text, look, request } = STEPS[step];
    const back = button("Back", () => go(step - 1));
    back.disabled = step === 0;
    const isLast = step === STEPS.length - 1;
    const next = button(isLast ? "End of the tour" : "Next", isLast ? end : () => go(step + 1));
    next.className = "main";
    const heading = element("h2", { tabindex: "-1" }, `${step + 1} of ${STEPS.length}: ${title}`);
    place.replaceChildren(heading, ...text.map((words) => element("p", {}, words)), element("div", { class: "buttons" }, back, next, ...(isLast ? [] : [button("Leave", end)])));
    place.hidden = false;
    document.documentElement.classList.add("on-tour");
    heading.focus();
    const asked = step;
    explore.set({ prompt: PROMPT, ...request });
    await explore.generate();
    const first = explore.branch?.promptLength ?? 0;
    if (asked !== step || place.hidden || !explore.branch?.tokens[first]) return;
    // When what came is shown.
    requestAnimationFrame(() => requestAnimationFrame(() => {
      if (asked !== step || place.hidden) return;
      explore.select(first);
      frame(look);
    }));
  }

  starter.addEventListener("click", () => {
    begin();
    if (place.hidden) before = explore.request();
    go(0);
  });
  place.addEventListener("keydown", (event) => {
    if (event.key === "Escape") end();
  });
}

/**
 * @param {string} name
 * @param {() => void} pressed
 */
function button(name, pressed) {
  const made = element("button", { type: "button" }, name);
  made.addEventListener("click", pressed);
  return made;
}
