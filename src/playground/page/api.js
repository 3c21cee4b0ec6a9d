// The server's public API, which is all that the page uses.

/** @import { Body, Completion, Field, Model, Scores } from "./types.js" */

/** An error in OpenAI's format, or no answer at all (status 0). */
export class ApiError extends Error {
  /**
   * @param {number} status
   * @param {{message?: string, param?: string | null, code?: string | null}} error
   */
  constructor(status, error) {
    super(error.message ?? `The server answered with status ${status}.`);
    this.status = status;
    this.param = error.param ?? null;
    this.code = error.code ?? null;
  }
}

/** The API key, if the server requires one: stored until the browser's tab is closed. */
export const key = {
  get value() {
    return stored(() => sessionStorage.getItem("key")) ?? "";
  },
  set value(key) {
    // Other characters cannot be sent in a header.
    if (!/^[\x21-\x7e]*$/.test(key)) throw new Error("An API key consists of printable ASCII characters without spaces.");
    stored(() => sessionStorage.setItem("key", key));
  },
};

/**
 * Accesses the browser's storage; null where it is blocked.
 * @template T
 * @param {() => T} access
 */
export function stored(access) {
  try {
    return access();
  } catch {
    return null;
  }
}

/**
 * @param {string} path relative to the page, which a proxy may serve below any path
 * @param {Body} [body]
 * @param {AbortSignal} [signal]
 */
async function send(path, body, signal) {
  /** @type {Record<string, string>} */
  const headers = {};
  if (body) headers["content-type"] = "application/json";
  if (key.value) headers["authorization"] = `Bearer ${key.value}`;
  let response;
  try {
    response = await fetch(path, { method: body ? "POST" : "GET", headers, body: body && JSON.stringify(body), signal });
  } catch (error) {
    if (signal?.aborted) throw error;
    throw new ApiError(0, { message: "Cannot reach the server. Is it still running?" });
  }
  if (!response.ok) {
    const answer = await response.json().catch(() => ({}));
    throw new ApiError(response.status, answer.error ?? {});
  }
  return response;
}

/** @returns {Promise<Model[]>} */
export async function models() {
  return (await (await send("v1/models")).json()).data;
}

/**
 * The fields of a completion request: bounds, defaults and descriptions.
 * @returns {Promise<Record<string, Field>>}
 */
export async function fields() {
  const document = await (await send("openapi.json")).json();
  let schema = document.paths["/v1/completions"].post.requestBody.content["application/json"].schema;
  if (schema.$ref) schema = document.components.schemas[schema.$ref.split("/").pop()];
  return schema.properties;
}

/**
 * Facts about a model's tokenizer.
 * @param {string} model
 * @param {AbortSignal} [signal]
 * @returns {Promise<{eos_token: string | null}>}
 */
export async function tokenizer(model, signal) {
  return (await send(`tokenizer_info?model=${encodeURIComponent(model)}`, undefined, signal)).json();
}

/**
 * @param {Body} body
 * @param {AbortSignal} [signal]
 * @returns {Promise<Completion>}
 */
export async function complete(body, signal) {
  return (await send("v1/completions", body, signal)).json();
}

/**
 * @param {Body} body
 * @param {AbortSignal} [signal]
 * @returns {Promise<Scores>}
 */
export async function score(body, signal) {
  return (await send("v1/score", body, signal)).json();
}

/**
 * The events of a streamed completion as they arrive.
 * @param {Body} body
 * @param {AbortSignal} [signal]
 * @returns {AsyncGenerator<Completion>}
 */
export async function* stream(body, signal) {
  const streamed = { ...body, stream: true, stream_options: { include_usage: true } };
  const response = await send("v1/completions", streamed, signal);
  for await (const data of events(response, signal)) {
    if (data === "[DONE]") return;
    const event = JSON.parse(data);
    if (event.error) throw new ApiError(Number(event.error.code) || 500, event.error);
    yield event;
  }
  throw new ApiError(0, { message: "The answer ended early. Is the server still running?" });
}

/**
 * The data of each server-sent event. The server writes each event's data in one line.
 * @param {Response} response
 * @param {AbortSignal} [signal]
 */
async function* events(response, signal) {
  if (!response.body) return;
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  /** The pieces of an unfinished line: an echoed prompt makes a long one. @type {string[]} */
  let pieces = [];
  try {
    for (;;) {
      const { done, value } = await reader.read().catch((error) => {
        if (signal?.aborted) throw error;
        throw new ApiError(0, { message: "The connection was lost in the middle of the answer. Is the server still running?" });
      });
      if (done) return;
      const [first, ...others] = value.split("\n");
      pieces.push(first);
      for (const next of others) {
        const line = pieces.join("");
        pieces = [next];
        if (line.startsWith("data: ")) yield line.slice(6).trimEnd();
      }
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}
