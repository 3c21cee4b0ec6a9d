// promptfoo, by its providers for completions, chats, responses, embeddings and llama-server.

import assert from "node:assert/strict";
import { mkdtempSync } from "node:fs";
import { tmpdir } from "node:os";
import { BASE_URL, URL, post, reporter } from "./report.mjs";

// It would keep results in the home directory, and report that it is used.
process.env.PROMPTFOO_CONFIG_DIR = mkdtempSync(`${tmpdir()}/candor-promptfoo-`);
process.env.PROMPTFOO_DISABLE_TELEMETRY = "1";
process.env.PROMPTFOO_DISABLE_UPDATE = "1";
process.env.PROMPTFOO_DISABLE_REMOTE_GENERATION = "true";
process.env.LLAMA_BASE_URL = URL;
const { default: promptfoo } = await import("promptfoo");

const check = reporter("promptfoo", "promptfoo");
const { model: name } = await post("/v1/completions", { prompt: "a", max_tokens: 1 });
const server = { apiBaseUrl: BASE_URL, apiKey: "none" };
const greedy = { ...server, max_tokens: 32, temperature: 0 };
const QUESTION = "Name a city.";
const messages = [{ role: "user", content: QUESTION }];
const plainChat = (fields) => post("/v1/chat/completions", { messages, max_tokens: 32, temperature: 0, ...fields });

/** The results of an evaluation of one prompt; it has none that ended with an error. */
async function evaluate(id, config, assertions = []) {
  const suite = { prompts: [QUESTION], providers: [{ id, config }], tests: [{ assert: assertions }] };
  const evaluation = await promptfoo.evaluate(suite, { cache: false });
  const { results } = await evaluation.toEvaluateSummary();
  assert.equal(results.length, 1);
  assert.equal(results[0].error ?? null, null);
  return results[0];
}

await check("openai:completion: the text of a plain request", async () => {
  const { response } = await evaluate(`openai:completion:${name}`, greedy);
  const fields = { prompt: QUESTION, max_tokens: 32, temperature: 0, stop: ["<|im_end|>", "<|endoftext|>"] };
  const plain = await post("/v1/completions", fields);
  assert.equal(response.output, plain.choices[0].text);
  assert.equal(response.tokenUsage.total, plain.usage.total_tokens);
});

await check("openai:chat: content, usage and logprobs of a plain request, for the assertion `perplexity`", async () => {
  const config = { ...greedy, passthrough: { logprobs: true, top_logprobs: 2 } };
  const { response, success } = await evaluate(`openai:chat:${name}`, config, [{ type: "perplexity", threshold: 100 }]);
  const plain = await plainChat({ logprobs: true });
  assert.equal(response.output, plain.choices[0].message.content);
  assert.equal(response.tokenUsage.total, plain.usage.total_tokens);
  assert.deepEqual(response.logProbs, plain.choices[0].logprobs.content.map((token) => token.logprob));
  assert.ok(success);
});

await check("openai:chat: its defaults", async () => {
  const { response } = await evaluate(`openai:chat:${name}`, server);
  assert.ok(response.output);
});

await check("openai:chat: a required tool call, and a schema", async () => {
  const properties = { city: { enum: ["Lansing", "Detroit"] } };
  const parameters = { type: "object", properties, required: ["city"], additionalProperties: false };
  const tools = [{ type: "function", function: { name: "weather", parameters } }];
  const called = await evaluate(`openai:chat:${name}`, { ...greedy, tools, tool_choice: "required" });
  assert.ok(properties.city.enum.includes(JSON.parse(called.response.output[0].function.arguments).city));
  const response_format = { type: "json_schema", json_schema: { name: "city", strict: true, schema: parameters } };
  const { response } = await evaluate(`openai:chat:${name}`, { ...greedy, response_format }, [{ type: "is-json" }]);
  assert.ok(properties.city.enum.includes(response.output.city));
});

await check("openai:responses: the text of a chat", async () => {
  const { response } = await evaluate(`openai:responses:${name}`, { ...server, max_output_tokens: 32, temperature: 0 });
  assert.equal(response.output, (await plainChat()).choices[0].message.content);
});

await check("openai:embedding: the assertion `similar`", async () => {
  const provider = { id: `openai:embedding:${name}`, config: server };
  const { gradingResult } = await evaluate(`openai:chat:${name}`, greedy, [
    { type: "similar", value: (await plainChat()).choices[0].message.content, threshold: 0.999, provider },
  ]);
  assert.ok(gradingResult.pass, gradingResult.reason);
});

await check("llama: its defaults", async () => {
  const { response } = await evaluate(`llama:${name}`, { n_predict: 16, temperature: 0 });
  const plain = await post("/v1/completions", { prompt: QUESTION, max_tokens: 16, temperature: 0 });
  assert.equal(response.output, plain.choices[0].text);
});

process.exit(0);
