// LangChain.js' ChatOpenAI, by chat completions and by the Responses API.

import assert from "node:assert/strict";
import { AIMessage, HumanMessage, SystemMessage } from "@langchain/core/messages";
import { tool } from "@langchain/core/tools";
import { ChatOpenAI } from "@langchain/openai";
import { z } from "zod";
import { BASE_URL, endsEarly, gauge, post, reporter } from "./report.mjs";

const check = reporter("LangChain.js", "@langchain/openai", "@langchain/core");
const { model } = await post("/v1/completions", { prompt: "a", max_tokens: 1 });
const server = { model, apiKey: "none", configuration: { baseURL: BASE_URL }, temperature: 0, maxRetries: 0 };
const messages = [new SystemMessage("Be brief."), new HumanMessage("Name a city.")];
const input = [{ role: "system", content: "Be brief." }, { role: "user", content: "Name a city." }];
const City = z.object({ name: z.string().max(20), inhabitants: z.int().min(0).max(99999999) });
const weather = tool(async () => "sunny", {
  name: "weather",
  description: "The weather in a city.",
  schema: z.object({ city: z.enum(["Lansing", "Detroit"]) }),
});

const chatting = (fields = {}) => new ChatOpenAI({ ...server, maxTokens: 24, ...fields });
const responding = (fields = {}) => chatting({ useResponsesApi: true, ...fields });
const textOf = (response) => response.output.flatMap((item) => item.content ?? []).map((part) => part.text).join("");
const plain = (fields = {}) => post("/v1/responses", { input, temperature: 0, max_output_tokens: 24, ...fields });

async function gather(stream) {
  let whole;
  for await (const piece of stream) whole = whole ? whole.concat(piece) : piece;
  return whole;
}

await check("chat completions: invoke and stream equal a plain request; usage", async () => {
  const wanted = await post("/v1/chat/completions", { messages: input, temperature: 0, max_tokens: 24 });
  const answer = await chatting().invoke(messages);
  assert.equal(answer.content, wanted.choices[0].message.content);
  assert.equal(answer.usage_metadata.output_tokens, wanted.usage.completion_tokens);
  assert.equal((await gather(await chatting().stream(messages))).content, answer.content);
});

await check("chat completions: withStructuredOutput, and a forced call in a stream", async () => {
  City.parse(await chatting({ maxTokens: 200 }).withStructuredOutput(City).invoke(messages));
  const forced = chatting({ maxTokens: 64 }).bindTools([weather], { tool_choice: "weather" });
  const [call] = (await gather(await forced.stream(messages))).tool_calls;
  assert.ok(["Lansing", "Detroit"].includes(call.args.city));
});

await check("useResponsesApi: invoke and stream equal a plain request; usage", async () => {
  const wanted = await plain();
  const answer = await responding().invoke(messages);
  assert.equal(answer.text, textOf(wanted));
  assert.equal(answer.usage_metadata.output_tokens, wanted.usage.output_tokens);
  const streamed = await gather(await responding().stream(messages));
  assert.equal(streamed.text, answer.text);
  assert.equal(streamed.usage_metadata.output_tokens, wanted.usage.output_tokens);
});

await check("useResponsesApi: a second turn sends the answer's items back", async () => {
  const answer = await responding().invoke(messages);
  const second = await responding().invoke([...messages, answer, new HumanMessage("And another.")]);
  const before = [{ role: "assistant", content: answer.text }, { role: "user", content: "And another." }];
  assert.equal(second.text, textOf(await plain({ input: [...input, ...before] })));
  const without = new AIMessage(answer.text);
  const same = await responding().invoke([...messages, without, new HumanMessage("And another.")]);
  assert.equal(same.text, second.text);
});

await check("useResponsesApi: a forced call, in a stream too; its result goes back", async () => {
  const forced = responding({ maxTokens: 64 }).bindTools([weather], { tool_choice: "weather", strict: true });
  const answer = await forced.invoke(messages);
  const [call] = answer.tool_calls;
  assert.ok(["Lansing", "Detroit"].includes(call.args.city));
  const streamed = await gather(await forced.stream(messages));
  assert.deepEqual(streamed.tool_calls[0].args, call.args);
  const result = await weather.invoke(call);
  for (const said of [answer, streamed]) {
    const free = responding().bindTools([weather], { tool_choice: "none" });
    const after = await free.invoke([...messages, said, { ...result, tool_call_id: said.tool_calls[0].id, role: "tool" }]);
    assert.ok(after.text && !after.tool_calls.length);
  }
});

await check("useResponsesApi: withStructuredOutput by a format and by a forced call", async () => {
  for (const method of ["jsonSchema", "functionCalling"]) {
    const chain = responding({ maxTokens: 200 }).withStructuredOutput(City, { method, strict: true });
    City.parse(await chain.invoke(messages));
  }
});

await check("useResponsesApi: log-probabilities by include", async () => {
  const asked = { include: ["message.output_text.logprobs"] };
  const llm = responding({ maxTokens: 8, modelKwargs: { top_logprobs: 2 } });
  const answer = await llm.invoke(messages, asked);
  const [{ content }] = answer.response_metadata.output;
  const wanted = await plain({ ...asked, max_output_tokens: 8, top_logprobs: 2 });
  assert.deepEqual(content[0].logprobs, wanted.output[0].content[0].logprobs);
});

await check("a prompt that is too long is a ContextOverflowError, by both APIs", async () => {
  for (const llm of [chatting(), responding()]) {
    await assert.rejects(llm.invoke("word ".repeat(5000)), { name: "ContextOverflowError" });
  }
});

await check("useResponsesApi: aborting a stream frees its slot", async () => {
  await endsEarly(async () => {
    const leaving = new AbortController();
    const llm = responding({ maxTokens: 1500, modelKwargs: { ignore_eos: true } });
    const stream = await llm.stream(messages, { signal: leaving.signal });
    await stream[Symbol.asyncIterator]().next();
    assert.equal(await gauge("candor_sequences_running"), 1);
    leaving.abort();
  });
});
