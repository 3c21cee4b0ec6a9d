// The Score tab: how likely a model finds each of several choices after a stem, and how well it is calibrated.

import { score } from "./api.js";
import { bar, element } from "./dom.js";
import { labelled, modelSelect, RequestControls } from "./forms.js";
import { legend } from "./legend.js";
import { mountSet } from "./scored_set.js";
import { counted, level, nats, percent, visible } from "./tokens.js";

/** @import { Context } from "./forms.js" */
/** @import { ScoredChoice, ScoredItem } from "./types.js" */

/**
 * How choices can be compared. `best`: the measure's name in the `best` of the server's answer.
 * @typedef {"probability" | "sum" | "mean" | "per_byte" | "per_character" | "corrected"} Measure
 * @type {{name: Measure, best: string, help: string}[]}
 */
const MEASURES = [
  { name: "probability", best: "sum", help: "softmax of the sums over all choices" },
  { name: "sum", best: "sum", help: "sum of the tokens' log-probabilities in nats, the log of the choice's own probability; it favours short choices" },
  { name: "mean", best: "mean", help: "the sum divided by the number of tokens" },
  { name: "per_byte", best: "per_byte", help: "the sum divided by the number of UTF-8 bytes" },
  { name: "per_character", best: "per_character", help: "the sum divided by the number of characters" },
  { name: "corrected", best: "corrected", help: "the sum minus the choice's sum after the neutral stem" },
];

/**
 * @param {HTMLElement} place
 * @param {Context} context
 */
export function mountScore(place, context) {
  const question = element("div", { class: "form-and-result" });
  const set = element("div", { class: "form-and-result" });
  place.replaceChildren(question, set);
  mountQuestion(question, context);
  mountSet(set, context);
}

/**
 * The choices to send.
 * @param {string} stem
 * @param {string} text one choice per line; empty lines are skipped
 * @param {boolean} insertsSpace whether to put a space between stem and choice where there is none
 */
export function choicesOf(stem, text, insertsSpace) {
  const lines = text.split("\n").filter((line) => line !== "");
  return lines.map((line) => (insertsSpace && !/\s$/.test(stem) && !/^\s/.test(line) ? ` ${line}` : line));
}

/**
 * @param {HTMLElement} place
 * @param {Context} context
 */
function mountQuestion(place, { models, showError }) {
  const model = modelSelect(models, "score-model");
  const stem = element("textarea", { id: "score-stem", rows: 2, spellcheck: "false" });
  stem.value = "The capital of Michigan is";
  const choices = element("textarea", { id: "score-choices", rows: 4, spellcheck: "false", required: true });
  choices.value = "Lansing\nDetroit\nGrand Rapids\na big city";
  const insertsSpace = element("input", { id: "score-space", type: "checkbox", checked: true });
  const neutral = element("input", { id: "score-neutral", type: "text", spellcheck: "false", placeholder: "none", autocomplete: "off" });
  const controls = new RequestControls("Score", "score-status", "Nothing scored yet.", showError);
  const form = element(
    "form", { id: "score-form", class: "card stack" },
    element("h2", {}, "Stem and choices"),
    labelled("Stem", stem),
    labelled("Choices, one per line", choices),
    element("label", { class: "check" }, insertsSpace, element("span", {}, "Insert a space between stem and choice if there is none")),
    labelled("Neutral stem", neutral, "Optional: an uninformative stem, such as “The answer is”, for the measure “corrected”."),
    labelled("Model", model),
    element("div", { class: "buttons" }, ...controls.buttons),
  );

  const list = element("ol", { class: "choices" });
  const help = element("p", { id: "score-measure-help", class: "soft" });
  const measures = element("fieldset", { id: "score-measure", class: "radios", "aria-describedby": help.id }, element("legend", {}, "Measure"));
  const radios = MEASURES.map(({ name }) => element("input", { type: "radio", name: "score-measure", id: `score-measure-${name}`, value: name }));
  measures.append(...radios.map((radio) => element("label", { class: "check" }, radio, element("code", {}, radio.value))));
  radios[0].checked = true;
  const corrected = radios[MEASURES.findIndex(({ name }) => name === "corrected")];
  corrected.disabled = true;
  const tints = legend();
  tints.hidden = true;
  const result = element("div", { class: "card stack" }, element("h2", {}, "Ranking"), measures, help, controls.statusLine, tints, list);
  place.replaceChildren(form, result);

  /** @type {ScoredItem | null} */
  let scored = null;
  const measure = () => MEASURES[radios.findIndex((radio) => radio.checked)];
  const show = () => {
    const { name, help: definition } = measure();
    help.textContent = `${name}: ${definition}.${name === "probability" ? "" : " Bars show exp(value − best value): half as long is half as good."}`;
    if (!scored) return;
    const best = scored.best[measure().best];
    list.replaceChildren(...scored.choices.map((choice) => row(choice, scored?.choices[best ?? 0] ?? choice, name)));
    tints.hidden = false;
  };
  const status = () => {
    if (!scored) return "Nothing scored yet.";
    const best = scored.choices[scored.best[measure().best] ?? 0];
    return `Best by ${measure().name}: “${visible(best.text)}”, choice ${best.index + 1} of ${scored.choices.length}.`;
  };
  measures.addEventListener("change", () => {
    show();
    controls.setStatus(status());
  });
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    controls.run(async (signal) => {
      /** @type {import("./types.js").Body} */
      const body = { model: model.value, stem: stem.value, choices: choicesOf(stem.value, choices.value, insertsSpace.checked) };
      if (neutral.value !== "") body.neutral = neutral.value;
      scored = (await score(body, signal)).data[0];
      corrected.disabled = body.neutral === undefined;
      if (corrected.checked && corrected.disabled) radios[0].checked = true;
      show();
      return status();
    });
  });
  show();
}

/**
 * @param {ScoredChoice} choice
 * @param {ScoredChoice} best
 * @param {Measure} measure
 */
function row(choice, best, measure) {
  const value = choice[measure] ?? NaN;
  const share = measure === "probability" ? value : Math.exp(value - (best[measure] ?? 0));
  const shown = measure === "probability" ? percent(value) : nats(value);
  return element(
    "li", { class: choice === best ? "choice best" : "choice" },
    element(
      "p", { class: "choice-head" },
      element("span", { class: "choice-name mono" }, visible(choice.text)),
      ...(choice === best ? [element("strong", { class: "mark" }, "best")] : []),
      ...(choice.is_greedy ? [element("span", { class: "mark", title: "Each token is the most likely at its position" }, "greedy")] : []),
      element("span", { class: "choice-value" }, shown),
    ),
    bar(share),
    element("p", { class: "text reading", "aria-hidden": "true" }, ...choice.tokens.map((token, at) => tinted(token, choice.token_logprobs[at]))),
    details(choice),
  );
}

/**
 * @param {string} token
 * @param {number} logprob
 */
function tinted(token, logprob) {
  const title = `${visible(token)} ${percent(Math.exp(logprob))}`;
  // A token without text is part of a character.
  return element("span", { class: `token level-${level(logprob)}${token ? "" : " bytes"}`, title }, token || "…");
}

/** The same as a table. @param {ScoredChoice} choice */
function details(choice) {
  return element(
    "details", {},
    element("summary", {}, `${counted(choice.tokens.length, "token")} in numbers${choice.is_greedy ? ", each the most likely at its position" : ""}`),
    element(
      "table", {},
      element("thead", {}, line("th", ["Token", "Id", "Logprob", "Probability"])),
      element("tbody", {}, ...choice.tokens.map((token, at) => {
        const logprob = choice.token_logprobs[at];
        return line("td", [visible(token), String(choice.token_ids[at]), nats(logprob), percent(Math.exp(logprob))]);
      })),
    ),
  );
}

/**
 * @param {"th" | "td"} tag
 * @param {string[]} texts
 */
function line(tag, texts) {
  return element("tr", {}, ...texts.map((text, at) => element(tag, { class: at ? "number" : "mono", scope: tag === "th" && "col" }, text)));
}
