// SillyTavern with the type "vLLM", in Chromium: its page makes the requests, and shows the probabilities of tokens.

import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { mkdirSync, rmSync } from "node:fs";
import { createServer } from "node:net";
import { chromium } from "playwright-core";
import { URL, post, reporter } from "./report.mjs";

const check = reporter("SillyTavern", "sillytavern");
const HERE = import.meta.dirname;
const data = `${HERE}/data`;
// What its page sends that changes the answer; its server adds nothing.
const FIELDS = ["prompt", "max_tokens", "logprobs", "temperature", "top_p", "min_p", "top_k", "repetition_penalty", "stop"];

function freePort() {
  return new Promise((found) => {
    const server = createServer().listen(0, "127.0.0.1", () => {
      const { port } = server.address();
      server.close(() => found(port));
    });
  });
}

/** Starts SillyTavern with the settings of a new user; its address. */
async function start() {
  // Not the libraries that it compiles for the page, on the first start.
  rmSync(`${data}/default-user`, { recursive: true, force: true });
  mkdirSync(data, { recursive: true });
  const port = await freePort();
  const options = ["--port", port, "--dataRoot", data, "--configPath", `${data}/config.yaml`, "--browserLaunchEnabled", "false"];
  const program = spawn(process.execPath, [`${HERE}/node_modules/sillytavern/server.js`, ...options]);
  process.on("exit", () => program.kill());
  let log = "";
  await new Promise((ready, failed) => {
    program.on("exit", () => failed(new Error(`it ended before it was ready:\n${log.slice(-3000)}`)));
    for (const output of [program.stdout, program.stderr]) {
      output.on("data", (text) => (log += text).includes("is listening on") && ready());
    }
  });
  return `http://127.0.0.1:${port}`;
}

async function open(address) {
  // As root, Chromium has no sandbox.
  const browser = await chromium.launch({ executablePath: "/usr/bin/chromium", args: ["--no-sandbox"] });
  const page = await browser.newPage({ viewport: { width: 1400, height: 1000 } });
  page.setDefaultTimeout(0);
  // A new user is welcomed and asked for a name.
  await page.addLocatorHandler(page.locator("dialog .popup-button-ok"), (button) => button.click());
  await page.goto(address);
  await page.locator("#send_textarea").click();
  return page;
}

/** What a person does in "API Connections" and "User Settings". */
async function connect(page) {
  await page.evaluate((url) => {
    const { $ } = window;
    const set = (field, value) => $(field).val(value).trigger("input").trigger("change");
    set("#main_api", "textgenerationwebui");
    set("#textgen_type", "vllm");
    set("#vllm_api_url_text", url);
    set("#temp_textgenerationwebui", 0);
    set("#amount_gen", 16);
    $("#request_token_probabilities").prop("checked", true).trigger("input");
    $("#api_button_textgenerationwebui").trigger("click");
  }, URL);
  await page.locator("#send_but").waitFor();
}

/** Sends a message; the body of the page's request, the text of the answer, and the probabilities that it shows. */
async function say(page, text, stream) {
  await page.evaluate((on) => {
    window.$("#streaming_textgenerationwebui").prop("checked", on).trigger("input").trigger("change");
  }, stream);
  const answer = page.locator('#chat .last_mes[is_user="false"]');
  const sent = page.waitForRequest("**/api/backends/text-completions/generate");
  await page.locator("#send_textarea").fill(text);
  await page.locator("#send_but").click();
  const body = (await sent).postDataJSON();
  await answer.waitFor();
  await page.locator("#send_but").waitFor();
  const viewer = page.locator("#logprobsViewer");
  if (!(await viewer.isVisible())) await page.evaluate(() => window.$("#option_toggle_logprobs").trigger("click"));
  const tokens = page.locator("#logprobs_generation_output .logprobs_output_token");
  // The page draws them anew when a stream has ended, and then none is chosen.
  let shown = [];
  while (shown.length === 0) {
    // Not `click`: a token of blanks has no area to click on.
    await tokens.first().dispatchEvent("click");
    shown = await page.locator(".logprobs_top_candidate").allInnerTexts();
  }
  return { body, answer: await answer.locator(".mes_text").innerText(), tokens: await tokens.count(), shown };
}

const address = await start();
const page = await open(address);

await check('the type "vLLM" connects, and names the model', async () => {
  await connect(page);
  const { data: models } = await (await fetch(`${URL}/v1/models`)).json();
  assert.equal(await page.locator("#vllm_model").inputValue(), models[0].id);
});

for (const stream of [false, true]) {
  await check(`a message${stream ? ", streamed" : ""}: the text and probabilities of a plain request`, async () => {
    const { body, answer, tokens, shown } = await say(page, "Name a city.", stream);
    assert.equal(Boolean(body.stream), stream);
    const fields = Object.fromEntries(FIELDS.map((field) => [field, body[field]]));
    const { choices, usage } = await post("/v1/completions", fields);
    assert.ok(choices[0].text.trim().startsWith(answer.trim()), `${answer} instead of ${choices[0].text}`);
    assert.ok(answer.trim());
    assert.equal(tokens, usage.completion_tokens);
    // Each candidate is shown with its probability in per cent; the last is the rest.
    const first = Object.values(choices[0].logprobs.top_logprobs[0]).sort((some, other) => other - some);
    const wanted = first.map((logprob) => `${(Math.exp(logprob) * 100).toFixed(2)}%`);
    const percent = shown.map((text) => text.match(/[\d.]+%/)[0]);
    assert.deepEqual(percent.slice(0, wanted.length), wanted);
  });
}

process.exit(0);
