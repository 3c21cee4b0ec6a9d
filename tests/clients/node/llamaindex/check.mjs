// LlamaIndex.TS, by its package for OpenAI.

import assert from "node:assert/strict";
import { OpenAIEmbedding, openai, openaiResponses } from "@llamaindex/openai";
import { tool } from "llamaindex";
import { z } from "zod";
import { BASE_URL, close, post, reporter } from "./report.mjs";

const check = reporter("LlamaIndex.TS", "llamaindex", "@llamaindex/openai");
const { model } = await post("/v1/completions", { prompt: "a", max_tokens: 1 });
// By default it waits 60 s, which a busy machine may take.
const server = { model, apiKey: "none", baseURL: BASE_URL, timeout: 3_600_000 };
const llm = openai({ ...server, temperature: 0, maxTokens: 32, maxRetries: 0 });
const messages = [{ role: "user", content: "Name a city." }];
const City = z.object({ city: z.enum(["Lansing", "Detroit"]) });

async function plain() {
  return (await post("/v1/chat/completions", { messages, max_tokens: 32, temperature: 0 })).choices[0].message.content;
}

async function joined(stream) {
  let text = "";
  for await (const chunk of stream) text += chunk.delta;
  return text;
}

await check("chat and complete: the content of a plain request", async () => {
  assert.equal((await llm.chat({ messages })).message.content, await plain());
  assert.equal((await llm.complete({ prompt: messages[0].content })).text, await plain());
});

await check("chat: a stream adds up to the same", async () => {
  assert.equal(await joined(await llm.chat({ messages, stream: true })), await plain());
});

await check("chat: a required tool call", async () => {
  const description = "The weather in a city.";
  const weather = tool({ name: "weather", description, parameters: City, execute: () => "sunny" });
  const asked = { messages, tools: [weather], additionalChatOptions: { tool_choice: "required" } };
  const { message } = await llm.chat(asked);
  const [call] = message.options.toolCall;
  City.parse(typeof call.input === "string" ? JSON.parse(call.input) : call.input);
});

await check("chat: a zod schema as responseFormat", async () => {
  City.parse(JSON.parse((await llm.chat({ messages, responseFormat: City })).message.content));
});

await check("OpenAIResponses: its defaults, and a limit", async () => {
  const { message } = await openaiResponses({ ...server, maxOutputTokens: 32 }).chat({ messages });
  assert.ok(message.content);
});

await check("OpenAIEmbedding: a text, and several", async () => {
  const embedding = new OpenAIEmbedding(server);
  const { data } = await post("/v1/embeddings", { input: ["a cat", "a dog"] });
  const vectors = await embedding.getTextEmbeddingsBatch(["a cat", "a dog"]);
  vectors.forEach((vector, place) => close(vector, data[place].embedding));
  close(await embedding.getTextEmbedding("a cat"), vectors[0]);
});
