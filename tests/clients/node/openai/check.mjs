// OpenAI's own client for Node.

import assert from "node:assert/strict";
import OpenAI from "openai";
import { zodFunction, zodResponseFormat, zodTextFormat } from "openai/helpers/zod";
import { z } from "zod";
import { BASE_URL, close, endsEarly, gauge, post, reporter } from "./report.mjs";

const check = reporter("openai (Node)", "openai");
const client = new OpenAI({ baseURL: BASE_URL, apiKey: "none", maxRetries: 0 });
const model = (await client.models.list()).data[0].id;
const prompt = "The capital of Michigan is ";
const greedy = { model, max_tokens: 12, temperature: 0 };
const messages = [{ role: "user", content: "Name a city." }];
const weather = {
  type: "function",
  function: {
    name: "weather",
    parameters: {
      type: "object",
      properties: { city: { enum: ["Lansing", "Detroit"] } },
      required: ["city"],
      additionalProperties: false,
    },
  },
};

const complete = (fields = {}) => client.completions.create({ ...greedy, prompt, ...fields });
const chat = (fields = {}) => client.chat.completions.create({ ...greedy, messages, ...fields });

async function gather(stream) {
  const chunks = [];
  for await (const chunk of stream) chunks.push(chunk);
  return chunks;
}

await check("models.list and models.retrieve", async () => {
  assert.equal((await client.models.retrieve(model)).id, model);
  await assert.rejects(client.models.retrieve("no-such-model"), OpenAI.NotFoundError);
});

await check("completions: logprobs are four arrays of one length, equal to a plain request's", async () => {
  const [choice] = (await complete({ logprobs: 3 })).choices;
  const plain = await post("/v1/completions", { ...greedy, prompt, logprobs: 3 });
  assert.deepEqual(choice, plain.choices[0]);
  for (const array of Object.values(choice.logprobs)) assert.equal(array.length, 12);
  assert.equal(choice.logprobs.tokens.join(""), choice.text);
});

await check("completions: a stream adds up to the unstreamed answer, logprobs too", async () => {
  const [whole] = (await complete({ logprobs: 2 })).choices;
  const chunks = await gather(await complete({ logprobs: 2, stream: true, stream_options: { include_usage: true } }));
  const last = chunks.pop();
  assert.deepEqual([last.choices, last.usage.completion_tokens], [[], 12]);
  const pieces = chunks.map((chunk) => chunk.choices[0]);
  assert.equal(pieces.map((piece) => piece.text).join(""), whole.text);
  for (const name of ["tokens", "token_logprobs", "top_logprobs", "text_offset"]) {
    assert.deepEqual(pieces.flatMap((piece) => piece.logprobs?.[name] ?? []), whole.logprobs[name]);
  }
});

await check("completions: null is the same as absent, as the types allow", async () => {
  const names = ["best_of", "echo", "frequency_penalty", "logit_bias", "logprobs", "n", "presence_penalty", "seed"];
  names.push("stop", "stream", "stream_options", "suffix", "top_p");
  const nulls = Object.fromEntries(names.map((name) => [name, null]));
  assert.equal((await complete(nulls)).choices[0].text, (await complete()).choices[0].text);
  const inChats = ["frequency_penalty", "logit_bias", "logprobs", "metadata", "n", "presence_penalty", "seed", "stop"];
  inChats.push("stream", "stream_options", "top_logprobs", "top_p");
  const chatNulls = Object.fromEntries(inChats.map((name) => [name, null]));
  assert.deepEqual((await chat(chatNulls)).choices, (await chat()).choices);
});

await check("completions: several prompts, token ids, n, stop, echo, a seed repeats", async () => {
  const both = await complete({ prompt: [prompt, "Once upon a time"] });
  assert.deepEqual(both.choices.map((choice) => choice.index), [0, 1]);
  const [{ text }] = (await complete()).choices;
  assert.equal(both.choices[0].text, text);
  const { tokens } = await post("/tokenize", { prompt });
  assert.equal((await complete({ prompt: tokens })).choices[0].text, text);
  assert.equal((await complete({ prompt: [tokens] })).choices[0].text, text);
  assert.equal((await complete({ echo: true })).choices[0].text, prompt + text);
  const stopped = (await complete({ stop: text.slice(2, 4) })).choices[0];
  assert.deepEqual([stopped.text, stopped.finish_reason], [text.split(text.slice(2, 4))[0], "stop"]);
  const drawn = { n: 2, seed: 7, temperature: 1.2 };
  assert.deepEqual((await complete(drawn)).choices, (await complete(drawn)).choices);
});

await check("errors: BadRequestError names the field, context_length_exceeded, NotFoundError", async () => {
  await assert.rejects(complete({ temperature: -1 }), (error) => {
    assert.ok(error instanceof OpenAI.BadRequestError);
    assert.deepEqual([error.param, error.code, error.type], ["temperature", null, "invalid_request_error"]);
    assert.ok(error.requestID);
    return true;
  });
  for (const stream of [false, true]) {
    await assert.rejects(complete({ prompt: "word ".repeat(5000), stream }), { code: "context_length_exceeded" });
  }
  await assert.rejects(complete({ model: "no-such-model" }), OpenAI.NotFoundError);
});

if (process.env.CANDOR_KEYED_URL) {
  await check("errors: AuthenticationError without the key, an answer with it", async () => {
    const baseURL = `${process.env.CANDOR_KEYED_URL}/v1`;
    const wrong = new OpenAI({ baseURL, apiKey: "wrong", maxRetries: 0 });
    await assert.rejects(wrong.models.list(), OpenAI.AuthenticationError);
    const right = new OpenAI({ baseURL, apiKey: process.env.CANDOR_KEY });
    assert.equal((await right.models.list()).data.length, 1);
  });
}

await check("chat: an answer with logprobs, and the same in a stream", async () => {
  const asked = { logprobs: true, top_logprobs: 2 };
  const [whole] = (await chat(asked)).choices;
  const pieces = (await gather(await chat({ ...asked, stream: true }))).map((chunk) => chunk.choices[0]);
  assert.equal(pieces.map((piece) => piece.delta.content ?? "").join(""), whole.message.content);
  assert.deepEqual(pieces.flatMap((piece) => piece.logprobs?.content ?? []), whole.logprobs.content);
  assert.equal(pieces.at(-1).finish_reason, whole.finish_reason);
});

await check("chat: a forced tool call, its result goes back, and the call in a stream", async () => {
  const forced = { tools: [weather], tool_choice: { type: "function", function: { name: "weather" } }, max_tokens: 64 };
  const { message } = (await chat(forced)).choices[0];
  const [call] = message.tool_calls;
  assert.ok(["Lansing", "Detroit"].includes(JSON.parse(call.function.arguments).city));
  const result = { role: "tool", tool_call_id: call.id, content: "sunny" };
  const after = await chat({ messages: [...messages, message, result], tools: [weather], tool_choice: "none" });
  assert.ok(after.choices[0].message.content);
  const stream = client.chat.completions.stream({ ...greedy, messages, ...forced });
  const final = await stream.finalChatCompletion();
  assert.equal(final.choices[0].message.tool_calls[0].function.arguments, call.function.arguments);
});

await check("chat: runTools calls the function, sends its result back and asks again", async () => {
  const calls = [];
  const called = (given) => (calls.push(given), "sunny");
  const tool = { type: "function", function: { ...weather.function, parse: JSON.parse, function: called } };
  const asked = { ...greedy, max_tokens: 64, messages, tools: [tool], tool_choice: "required" };
  const runner = client.chat.completions.runTools({ ...asked, parallel_tool_calls: false }, { maxChatCompletions: 2 });
  await runner.done();
  assert.deepEqual(runner.messages.map(({ role }) => role), ["user", "assistant", "tool", "assistant", "tool"]);
  for (const { city } of calls) assert.ok(["Lansing", "Detroit"].includes(city));
});

await check("chat.completions.parse with zod: response_format and tools", async () => {
  const City = z.object({ name: z.string().max(20), inhabitants: z.int().min(0).max(99999999) });
  const asked = { ...greedy, messages, max_tokens: 200 };
  const parsed = await client.chat.completions.parse({ ...asked, response_format: zodResponseFormat(City, "city") });
  City.parse(parsed.choices[0].message.parsed);
  const tools = [zodFunction({ name: "city", parameters: City })];
  const called = await client.chat.completions.parse({ ...asked, tools, tool_choice: "required" });
  City.parse(called.choices[0].message.tool_calls[0].function.parsed_arguments);
});

await check("responses: an answer and a stream of it, parse and stream with zod", async () => {
  const asked = { model, temperature: 0, max_output_tokens: 12, input: "Name a city." };
  const response = await client.responses.create(asked);
  assert.equal(response.output_text, (await chat()).choices[0].message.content);
  const events = await gather(await client.responses.create({ ...asked, stream: true }));
  const deltas = events.filter((event) => event.type === "response.output_text.delta");
  assert.equal(deltas.map((event) => event.delta).join(""), response.output_text);
  assert.equal(events.at(-1).response.usage.output_tokens, response.usage.output_tokens);
  const City = z.object({ name: z.string().max(20), inhabitants: z.int().min(0).max(99999999) });
  const format = { ...asked, max_output_tokens: 200, text: { format: zodTextFormat(City, "city") } };
  const parsed = await client.responses.parse(format);
  City.parse(parsed.output_parsed);
  const streamed = await client.responses.stream(format).finalResponse();
  assert.deepEqual(streamed.output_parsed, parsed.output_parsed);
});

await check("embeddings: the client's default (base64) and float are the same numbers; dimensions", async () => {
  const embed = async (fields) => {
    const { data } = await client.embeddings.create({ model, ...fields });
    return data.map((item) => item.embedding);
  };
  const input = ["a cat", "a dog"];
  const [decoded, floats] = [await embed({ input }), await embed({ input, encoding_format: "float" })];
  decoded.forEach((vector, place) => close(vector, floats[place]));
  assert.equal((await embed({ input, dimensions: 16 }))[0].length, 16);
});

await check("16 requests at once get the bits of one alone", async () => {
  const alone = (await complete({ logprobs: 2 })).choices;
  const answers = await Promise.all(Array.from({ length: 16 }, () => complete({ logprobs: 2 })));
  for (const answer of answers) assert.deepEqual(answer.choices, alone);
});

await check("withResponse has x-request-id", async () => {
  const { data, request_id } = await complete().withResponse();
  assert.ok(request_id);
  assert.equal(data._request_id, request_id);
});

await check("aborting a stream frees its slot", async () => {
  await endsEarly(async () => {
    const stream = await complete({ max_tokens: 1500, stream: true, ignore_eos: true });
    await stream[Symbol.asyncIterator]().next();
    assert.equal(await gauge("candor_sequences_running"), 1);
    stream.controller.abort();
  });
});
