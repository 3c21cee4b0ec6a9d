// Vercel's AI SDK, by its provider for servers like OpenAI's.

import assert from "node:assert/strict";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import * as ai from "ai";
import { z } from "zod";
import { BASE_URL, close, endsEarly, gauge, post, reporter } from "./report.mjs";

const check = reporter("AI SDK", "ai", "@ai-sdk/openai-compatible");
const { model: name } = await post("/v1/completions", { prompt: "a", max_tokens: 1 });
// Without supportsStructuredOutputs the SDK asks for any JSON object, and checks the schema afterwards.
const settings = { name: "candor", baseURL: BASE_URL, supportsStructuredOutputs: true, includeUsage: true };
const candor = createOpenAICompatible(settings);
globalThis.AI_SDK_LOG_WARNINGS = false;
const greedy = { temperature: 0, maxRetries: 0 };
const messages = [{ role: "user", content: "Name a city." }];
const City = z.object({ name: z.string().max(20), inhabitants: z.int().min(0).max(99999999) });

async function gather(stream) {
  const pieces = [];
  for await (const piece of stream) pieces.push(piece);
  return pieces;
}

const plainChat = () => post("/v1/chat/completions", { messages, max_tokens: 32, temperature: 0 });

await check("completionModel: generateText equals a plain request with the SDK's prompt", async () => {
  const question = "The capital of Michigan is ";
  const asked = { ...greedy, model: candor.completionModel(name), maxOutputTokens: 12, prompt: question };
  const answer = await ai.generateText(asked);
  const prompt = `user:\n${question}\n\nassistant:\n`;
  const plain = await post("/v1/completions", { prompt, max_tokens: 12, temperature: 0, stop: ["\nuser:"] });
  assert.equal(answer.text, plain.choices[0].text);
  assert.equal(answer.usage.outputTokens, plain.usage.completion_tokens);
  const streamed = await gather(ai.streamText(asked).textStream);
  assert.equal(streamed.join(""), answer.text);
});

await check("chatModel: generateText equals a plain request; usage and finishReason", async () => {
  const answer = await ai.generateText({ ...greedy, model: candor.chatModel(name), maxOutputTokens: 32, messages });
  const plain = await plainChat();
  assert.equal(answer.text, plain.choices[0].message.content);
  assert.equal(answer.usage.outputTokens, plain.usage.completion_tokens);
  assert.equal(answer.finishReason, plain.choices[0].finish_reason);
});

await check("chatModel: streamText adds up to the same, with usage", async () => {
  const answer = ai.streamText({ ...greedy, model: candor.chatModel(name), maxOutputTokens: 32, messages });
  const plain = await plainChat();
  assert.equal((await gather(answer.textStream)).join(""), plain.choices[0].message.content);
  assert.equal((await answer.usage).outputTokens, plain.usage.completion_tokens);
});

await check("structured output: an object by a zod schema, whole and in a stream", async () => {
  const asked = { ...greedy, model: candor.chatModel(name), maxOutputTokens: 200, messages };
  const { output } = await ai.generateText({ ...asked, output: ai.Output.object({ schema: City }) });
  City.parse(output);
  const stream = ai.streamText({ ...asked, output: ai.Output.object({ schema: City }) });
  const partial = await gather(stream.partialOutputStream);
  assert.deepEqual(partial.at(-1), output);
});

if (ai.generateObject) {
  await check("generateObject and streamObject", async () => {
    const asked = { ...greedy, model: candor.chatModel(name), maxOutputTokens: 200, messages, schema: City };
    const { object } = await ai.generateObject(asked);
    City.parse(object);
    assert.deepEqual((await gather(ai.streamObject(asked).partialObjectStream)).at(-1), object);
    const size = await ai.generateObject({ ...asked, schema: undefined, output: "enum", enum: ["small", "large"] });
    assert.ok(["small", "large"].includes(size.object));
  });
}

await check("tools: a forced call is executed, in a stream too, and its result goes back", async () => {
  const calls = [];
  const weather = ai.tool({
    description: "The weather in a city.",
    inputSchema: z.object({ city: z.enum(["Lansing", "Detroit"]) }),
    execute: async (given) => (calls.push(given), "sunny"),
  });
  const asked = { ...greedy, model: candor.chatModel(name), maxOutputTokens: 64, messages, tools: { weather } };
  const toolChoice = { type: "tool", toolName: "weather" };
  const first = await ai.generateText({ ...asked, toolChoice });
  assert.equal(first.toolCalls[0].toolName, "weather");
  assert.ok(["Lansing", "Detroit"].includes(calls[0].city));
  const streamed = ai.streamText({ ...asked, toolChoice: "required" });
  const results = await streamed.toolResults;
  assert.ok(results.length > 0 && results.every((result) => result.output === "sunny"));
  const { messages: said } = first.response;
  const after = await ai.generateText({ ...asked, messages: [...messages, ...said], toolChoice: "none" });
  assert.ok(after.text);
});

await check("embed and embedMany", async () => {
  const model = candor.embeddingModel ? candor.embeddingModel(name) : candor.textEmbeddingModel(name);
  const values = ["a cat", "a dog"];
  const { embeddings } = await ai.embedMany({ model, values });
  const { data } = await post("/v1/embeddings", { input: values });
  embeddings.forEach((vector, place) => close(vector, data[place].embedding));
  close((await ai.embed({ model, value: "a cat" })).embedding, embeddings[0]);
});

await check("errors: APICallError with the server's message, not retryable", async () => {
  const asked = { ...greedy, model: candor.chatModel(name), prompt: "word ".repeat(5000) };
  await assert.rejects(ai.generateText(asked), (error) => {
    assert.ok(ai.APICallError.isInstance(error));
    assert.deepEqual([error.statusCode, error.isRetryable], [400, false]);
    assert.match(error.message, /maximum context length/);
    return true;
  });
});

await check("aborting a stream frees its slot", async () => {
  await endsEarly(async () => {
    const leaving = new AbortController();
    const asked = { ...greedy, model: candor.chatModel(name), maxOutputTokens: 1500, messages };
    // Fields that OpenAI does not have go by the provider's name.
    const providerOptions = { candor: { ignore_eos: true } };
    const answer = ai.streamText({ ...asked, providerOptions, abortSignal: leaving.signal });
    await answer.textStream[Symbol.asyncIterator]().next();
    assert.equal(await gauge("candor_sequences_running"), 1);
    leaving.abort();
  });
});
