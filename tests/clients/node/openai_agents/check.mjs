// OpenAI's Agents SDK, with its default: the Responses API.

import assert from "node:assert/strict";
import { Agent, MemorySession, Runner, setDefaultOpenAIClient, setTracingDisabled, tool } from "@openai/agents";
import OpenAI from "openai";
import { z } from "zod";
import { BASE_URL, post, reporter } from "./report.mjs";

const check = reporter("OpenAI Agents SDK (Node)", "@openai/agents", "openai");
const { model } = await post("/v1/completions", { prompt: "a", max_tokens: 1 });
setDefaultOpenAIClient(new OpenAI({ baseURL: BASE_URL, apiKey: "none", maxRetries: 0 }));
setTracingDisabled(true);
const runner = new Runner({ tracingDisabled: true });
const question = "Name a city.";
const instructions = "Be brief.";
const City = z.object({ name: z.string().max(20), inhabitants: z.int().min(0).max(99999999) });

const agent = (maxTokens = 24, settings = {}, fields = {}) =>
  new Agent({ name: "guide", instructions, model, modelSettings: { temperature: 0, maxTokens, ...settings }, ...fields });
const textOf = (response) => response.output.flatMap((item) => item.content ?? []).map((part) => part.text).join("");
const plain = (fields = {}) =>
  post("/v1/responses", { instructions, input: question, temperature: 0, max_output_tokens: 24, ...fields });

await check("run: the text and the usage of a plain request", async () => {
  const result = await runner.run(agent(), question);
  const wanted = await plain();
  assert.equal(result.finalOutput, textOf(wanted));
  const { usage } = result.state.context ?? result.state._context;
  assert.deepEqual([usage.inputTokens, usage.outputTokens], [wanted.usage.input_tokens, wanted.usage.output_tokens]);
});

await check("run with stream: the pieces add up to the same", async () => {
  const result = await runner.run(agent(), question, { stream: true });
  let text = "";
  for await (const piece of result.toTextStream()) text += piece;
  await result.completed;
  assert.equal(text, result.finalOutput);
  assert.equal(text, textOf(await plain()));
});

function weatherAgent(fields = {}) {
  const calls = [];
  const weather = tool({
    name: "weather",
    description: "The weather in a city.",
    parameters: z.object({ city: z.enum(["Lansing", "Detroit"]) }),
    execute: async ({ city }) => (calls.push(city), "sunny"),
  });
  const settings = { toolChoice: "weather", parallelToolCalls: false };
  return [agent(64, settings, { tools: [weather], ...fields }), calls];
}

await check("tools: a forced call is executed, in a stream too", async () => {
  const [asked, calls] = weatherAgent({ toolUseBehavior: "stop_on_first_tool" });
  assert.equal((await runner.run(asked, question)).finalOutput, "sunny");
  const result = await runner.run(asked, question, { stream: true });
  await result.completed;
  assert.equal(result.finalOutput, "sunny");
  assert.equal(calls.length, 2);
  assert.equal(calls[0], calls[1]);
});

await check("tools: the result goes back, and the model answers", async () => {
  const [asked, calls] = weatherAgent();
  const result = await runner.run(asked, question, { maxTurns: 4 });
  assert.ok(calls.length > 0 && result.finalOutput);
});

await check("outputType: an answer by a zod schema", async () => {
  const result = await runner.run(agent(200, {}, { outputType: City }), question);
  City.parse(result.finalOutput);
});

await check("a second turn: the history sends the answer back", async () => {
  const first = await runner.run(agent(), question);
  const second = await runner.run(agent(), [...first.history, { role: "user", content: "And another." }]);
  const input = [
    { role: "user", content: question },
    { role: "assistant", content: first.finalOutput },
    { role: "user", content: "And another." },
  ];
  assert.equal(second.finalOutput, textOf(await plain({ input })));
});

await check("a session keeps the conversation", async () => {
  const session = new MemorySession();
  await runner.run(agent(), question, { session });
  assert.ok((await runner.run(agent(), "And another.", { session })).finalOutput);
});

await check("a handoff to another agent", async () => {
  const other = agent(24, {}, { name: "other", handoffDescription: "Knows cities." });
  const asked = agent(64, { toolChoice: "transfer_to_other" }, { handoffs: [other] });
  assert.equal((await runner.run(asked, question)).lastAgent.name, "other");
});

await check("errors: a prompt that is too long has the code context_length_exceeded", async () => {
  await assert.rejects(runner.run(agent(), "word ".repeat(5000)), { code: "context_length_exceeded" });
});
