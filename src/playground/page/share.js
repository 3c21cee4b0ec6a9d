// Requests and answers to share: as code, as a link, as files.

import { csv } from "./files.js";
import { byId, element } from "./dom.js";
import { hex } from "./tokens.js";

/** @import { Body, Token } from "./types.js" */
/** @import { Branch } from "./branch.js" */

/** The named parameters of openai-python's `completions.create`; other fields go into `extra_body`. */
const OPENAI = new Set(["model", "prompt", "max_tokens", "temperature", "top_p", "n", "logprobs", "echo", "seed", "frequency_penalty", "presence_penalty"]);

/**
 * The request as code, by language.
 * @param {Body} body
 * @param {string} origin the server's address, without /v1
 * @param {boolean} needsKey
 * @returns {Record<string, string>}
 */
export function codes(body, origin, needsKey) {
  return { curl: curl(body, origin, needsKey), Python: python(body, origin, needsKey), JavaScript: javascript(body, origin, needsKey) };
}

/** @param {Body} body @param {string} origin @param {boolean} needsKey */
function curl(body, origin, needsKey) {
  const json = JSON.stringify(body, null, 2).replaceAll("'", `'\\''`);
  const key = needsKey ? `  -H "authorization: Bearer $CANDOR_KEY" \\\n` : "";
  return `curl ${origin}/v1/completions \\\n  -H 'content-type: application/json' \\\n${key}  -d '${json}'\n`;
}

/** @param {Body} body @param {string} origin @param {boolean} needsKey */
function python(body, origin, needsKey) {
  const named = Object.entries(body).filter(([name]) => OPENAI.has(name));
  const others = Object.entries(body).filter(([name]) => !OPENAI.has(name));
  const lines = named.map(([name, value]) => `    ${name}=${literal(value)},\n`);
  if (others.length) lines.push(`    extra_body={${others.map(([name, value]) => `${JSON.stringify(name)}: ${literal(value)}`).join(", ")}},\n`);
  const key = needsKey ? `os.environ["CANDOR_KEY"]` : `"none"`;
  return `# pip install openai\n${needsKey ? "import os\n\n" : ""}from openai import OpenAI\n\nclient = OpenAI(base_url="${origin}/v1", api_key=${key})\n`
    + `answer = client.completions.create(\n${lines.join("")})\nprint(answer.choices[0].text)\nprint(answer.choices[0].logprobs)\n`;
}

/** A value as a Python literal. @param {unknown} value @returns {string} */
function literal(value) {
  if (value === null) return "None";
  if (typeof value === "boolean") return value ? "True" : "False";
  if (Array.isArray(value)) return `[${value.map(literal).join(", ")}]`;
  if (typeof value === "object") return `{${Object.entries(value).map(([name, value]) => `${JSON.stringify(name)}: ${literal(value)}`).join(", ")}}`;
  return JSON.stringify(value);
}

/** @param {Body} body @param {string} origin @param {boolean} needsKey */
function javascript(body, origin, needsKey) {
  const key = needsKey ? `, authorization: \`Bearer \${process.env.CANDOR_KEY}\`` : "";
  return `const response = await fetch("${origin}/v1/completions", {\n  method: "POST",\n  headers: { "content-type": "application/json"${key} },\n`
    + `  body: JSON.stringify(${JSON.stringify(body, null, 2).replaceAll("\n", "\n  ")}),\n});\nconst answer = await response.json();\nconsole.log(answer.choices[0].text, answer.choices[0].logprobs);\n`;
}

/**
 * Opens a dialog with the request as code.
 * @param {string} title
 * @param {Body} body
 * @param {boolean} needsKey
 */
export function showCodes(title, body, needsKey) {
  const dialog = byId("copy", HTMLDialogElement);
  const shown = element("pre", { tabindex: "0" });
  const languages = codes(body, here(), needsKey);
  const buttons = Object.keys(languages).map((language) => {
    const button = element("button", { type: "button" }, language);
    button.addEventListener("click", () => choose(language));
    return button;
  });
  /** @param {string} language */
  function choose(language) {
    shown.textContent = languages[language];
    for (const button of buttons) button.setAttribute("aria-pressed", String(button.textContent === language));
  }
  const copy = element("button", { type: "button", class: "main" }, "Copy");
  copy.addEventListener("click", async () => {
    copy.textContent = (await toClipboard(shown.textContent ?? "")) ? "Copied" : "Copying failed: select the code";
  });
  const close = element("button", { type: "button" }, "Close");
  close.addEventListener("click", () => dialog.close());
  choose("curl");
  dialog.replaceChildren(
    element("h2", { id: "copy-title" }, title), element("div", { class: "buttons" }, ...buttons), shown,
    element("div", { class: "buttons" }, copy, close),
  );
  dialog.showModal();
}

/** The server's address, as the page sees it. */
function here() {
  return new URL(".", location.href).href.replace(/\/$/, "");
}

/** @param {string} text @returns {Promise<boolean>} */
export async function toClipboard(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    // Browsers offer the clipboard only to pages from HTTPS or localhost.
    return false;
  }
}

/** A link that holds the request. Browsers do not send the part after # to any server. @param {Body} request */
export function linkTo(request) {
  return `${here()}/#request=${encodeURIComponent(JSON.stringify(request))}`;
}

/** The request in the page's address, if there is one. @returns {Body | null} */
export function linked() {
  const match = location.hash.match(/^#request=(.*)$/);
  if (!match) return null;
  try {
    const body = JSON.parse(decodeURIComponent(match[1]));
    return typeof body === "object" && body !== null ? body : null;
  } catch {
    return null;
  }
}

/** The whole tree, with all details of each token. @param {Branch} branch */
export function asJson(branch) {
  /** @type {(branch: Branch) => object} */
  const one = ({ request, answer, fingerprint, at, finish, own, children }) =>
    ({ request, answer, system_fingerprint: fingerprint, at, finish_reason: finish, tokens: own.map(tokenAsJson), branches: children.map(one) });
  return JSON.stringify(one(branch.root), null, 1);
}

/** @param {Token} token */
function tokenAsJson({ id, text, bytes, offset, isPrompt, logprob, rank, entropy, tailMass, top, trace }) {
  return { id, text, bytes, text_offset: offset, is_prompt: isPrompt, logprob, rank, entropy, tail_mass: tailMass, top, trace };
}

/** A line for each token. @param {Token[]} tokens */
export function asCsv(tokens) {
  const head = ["position", "is_prompt", "id", "text", "bytes", "text_offset", "logprob", "probability", "rank", "entropy", "tail_mass"];
  const rows = tokens.map(({ isPrompt, id, text, bytes, offset, logprob, rank, entropy, tailMass }, at) =>
    [at, isPrompt, id, text, hex(bytes), offset, logprob, logprob === null ? null : Math.exp(logprob), rank, entropy, tailMass]);
  return csv([head, ...rows]);
}
