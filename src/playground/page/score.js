// The Score tab: how likely a model holds each of some choices behind a stem, and whether it is as right as it is sure.

import { score } from "./api.js";
import { bar, element } from "./dom.js";
import { Asking, labelled, modelSelect } from "./forms.js";
import { legend } from "./legend.js";
import { mountSet } from "./scored_set.js";
import { level, nats, percent, visible } from "./tokens.js";

/** @import { Context } from "./forms.js" */
/** @import { ScoredChoice, ScoredItem } from "./types.js" */

/**
 * By what choices can be held against each other. `best`: what the server calls it in an item's `best`.
 * @typedef {"probability" | "sum" | "mean" | "per_byte" | "per_character" | "corrected"} Measure
 * @type {{name: Measure, best: string, help: string}[]}
 */
const MEASURES = [
  { name: "probability", best: "sum", help: "relative to the other choices: the softmax of their sums" },
  { name: "sum", best: "sum", help: "of the tokens' log-probabilities, in nats: the choice's own probability, but short ones are favoured" },
  { name: "mean", best: "mean", help: "the sum divided by the number of tokens" },
  { name: "per_byte", best: "per_byte", help: "the sum divided by the choice's bytes in UTF-8" },
  { name: "per_character", best: "per_character", help: "the sum divided by the choice's characters" },
  { name: "corrected", best: "corrected", help: "the sum, less what the choice scores behind the neutral stem" },
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
 * The choices as they are sent.
 * @param {string} stem
 * @param {string} written one a line; empty lines are passed over
 * @param {boolean} isParted whether there is to be a blank between stem and choice
 */
export function choicesOf(stem, written, isParted) {
  const lines = written.split("\n").filter((line) => line !== "");
  return lines.map((line) => (isParted && !/\s$/.test(stem) && !/^\s/.test(line) ? ` ${line}` : line));
}

/**
 * @param {HTMLElement} place
 * @param {Context} context
 */
function mountQuestion(place, { models, trouble }) {
  const model = modelSelect(models, "score-model");
  const stem = element("textarea", { id: "score-stem", rows: 2, spellcheck: "false" });
  stem.value = "The capital of Michigan is";
  const choices = element("textarea", { id: "score-choices", rows: 4, spellcheck: "false", required: true });
  choices.value = "Lansing\nDetroit\nGrand Rapids\na big city";
  const isParted = element("input", { id: "score-blank", type: "checkbox", checked: true });
  const neutral = element("input", { id: "score-neutral", type: "text", spellcheck: "false", placeholder: "none", autocomplete: "off" });
  const asking = new Asking("Score", "score-status", "Nothing scored yet.", trouble);
  const form = element(
    "form", { id: "score-form", class: "card stack" },
    element("h2", {}, "Stem and choices"),
    labelled("Stem", stem),
    labelled("Choices, one a line", choices),
    element("label", { class: "check" }, isParted, element("span", {}, "Put a blank between stem and choice where there is none")),
    labelled("Neutral stem", neutral, "Optional, one that tells nothing, as “The answer is”: for the measure “corrected”."),
    labelled("Model", model),
    element("div", { class: "buttons" }, ...asking.buttons),
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
  const result = element("div", { class: "card stack" }, element("h2", {}, "Which one?"), measures, help, asking.status, tints, list);
  place.replaceChildren(form, result);

  /** @type {ScoredItem | null} */
  let scored = null;
  const measure = () => MEASURES[radios.findIndex((radio) => radio.checked)];
  const show = () => {
    const { name, help: words } = measure();
    help.textContent = `${name}: ${words}.${name === "probability" ? "" : " A bar is e to the power of the distance to the best: half as long, half as good."}`;
    if (!scored) return;
    const best = scored.best[measure().best];
    list.replaceChildren(...scored.choices.map((choice) => row(choice, scored?.choices[best ?? 0] ?? choice, name)));
    tints.hidden = false;
  };
  const say = () => {
    if (!scored) return "Nothing scored yet.";
    const best = scored.choices[scored.best[measure().best] ?? 0];
    return `Best by ${measure().name}: “${visible(best.text)}”, choice ${best.index + 1} of ${scored.choices.length}.`;
  };
  measures.addEventListener("change", () => {
    show();
    asking.say(say());
  });
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    asking.run(async (signal) => {
      /** @type {import("./types.js").Body} */
      const body = { model: model.value, stem: stem.value, choices: choicesOf(stem.value, choices.value, isParted.checked) };
      if (neutral.value !== "") body.neutral = neutral.value;
      scored = (await score(body, signal)).data[0];
      corrected.disabled = body.neutral === undefined;
      if (corrected.checked && corrected.disabled) radios[0].checked = true;
      show();
      return say();
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
  const told = measure === "probability" ? percent(value) : nats(value);
  return element(
    "li", { class: choice === best ? "choice best" : "choice" },
    element(
      "p", { class: "choice-head" },
      element("span", { class: "choice-name mono" }, visible(choice.text)),
      ...(choice === best ? [element("strong", { class: "mark" }, "best")] : []),
      ...(choice.is_greedy ? [element("span", { class: "mark", title: "Each of its tokens is the likeliest at its place" }, "greedy")] : []),
      element("span", { class: "choice-value" }, told),
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
  // A token without text is a part of a character.
  return element("span", { class: `token level-${level(logprob)}${token ? "" : " bytes"}`, title }, token || "…");
}

/** The same in numbers, for everybody. @param {ScoredChoice} choice */
function details(choice) {
  const count = choice.tokens.length;
  return element(
    "details", {},
    element("summary", {}, `${count} ${count === 1 ? "token" : "tokens"} in numbers${choice.is_greedy ? ": each is the likeliest at its place" : ""}`),
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
