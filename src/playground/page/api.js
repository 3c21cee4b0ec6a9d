// The server, by its public API and nothing else.

/** @import { Body, Completion, Field, Model, Scores } from "./types.js" */

/** An answer in OpenAI's form of errors, or none at all (status 0). */
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

/** The API key, if the server wants one: kept for as long as the browser's tab is open. */
export const key = {
  get value() {
    return kept(() => sessionStorage.getItem("key")) ?? "";
  },
  set value(key) {
    // Others can stand in no header, and are no key.
    if (!/^[\x21-\x7e]*$/.test(key)) throw new Error("A key is of letters, digits and signs of ASCII, without blanks.");
    kept(() => sessionStorage.setItem("key", key));
  },
};

/**
 * What a browser keeps, where it may.
 * @template T
 * @param {() => T} access
 */
export function kept(access) {
  try {
    return access();
  } catch {
    return null;
  }
}

/**
 * @param {string} path as seen from the page, which a proxy may have put anywhere
 * @param {Body} [body]
 * @param {AbortSignal} [signal]
 */
async function ask(path, body, signal) {
  /** @type {Record<string, string>} */
  const headers = {};
  if (body) headers["content-type"] = "application/json";
  if (key.value) headers["authorization"] = `Bearer ${key.value}`;
  let response;
  try {
    response = await fetch(path, { method: body ? "POST" : "GET", headers, body: body && JSON.stringify(body), signal });
  } catch (error) {
    if (signal?.aborted) throw error;
    throw new ApiError(0, { message: "The server cannot be reached. Does it still run?" });
  }
  if (!response.ok) {
    const answer = await response.json().catch(() => ({}));
    throw new ApiError(response.status, answer.error ?? {});
  }
  return response;
}

/** @returns {Promise<Model[]>} */
export async function models() {
  return (await (await ask("v1/models")).json()).data;
}

/**
 * The fields of a completion's request: their bounds, defaults and a line on each.
 * @returns {Promise<Record<string, Field>>}
 */
export async function fields() {
  const document = await (await ask("openapi.json")).json();
  let schema = document.paths["/v1/completions"].post.requestBody.content["application/json"].schema;
  if (schema.$ref) schema = document.components.schemas[schema.$ref.split("/").pop()];
  return schema.properties;
}

/**
 * What a model's tokenizer says of itself.
 * @param {string} model
 * @param {AbortSignal} [signal]
 * @returns {Promise<{eos_token: string | null}>}
 */
export async function tokenizer(model, signal) {
  return (await ask(`tokenizer_info?model=${encodeURIComponent(model)}`, undefined, signal)).json();
}

/**
 * @param {Body} body
 * @param {AbortSignal} [signal]
 * @returns {Promise<Completion>}
 */
export async function complete(body, signal) {
  return (await ask("v1/completions", body, signal)).json();
}

/**
 * @param {Body} body
 * @param {AbortSignal} [signal]
 * @returns {Promise<Scores>}
 */
export async function score(body, signal) {
  return (await ask("v1/score", body, signal)).json();
}

/**
 * The events of a streamed completion, as they come.
 * @param {Body} body
 * @param {AbortSignal} [signal]
 * @returns {AsyncGenerator<Completion>}
 */
export async function* stream(body, signal) {
  const whole = { ...body, stream: true, stream_options: { include_usage: true } };
  const response = await ask("v1/completions", whole, signal);
  for await (const data of events(response, signal)) {
    if (data === "[DONE]") return;
    const event = JSON.parse(data);
    if (event.error) throw new ApiError(Number(event.error.code) || 500, event.error);
    yield event;
  }
  throw new ApiError(0, { message: "The stream broke off before its end. Does the server still run?" });
}

/**
 * What stands behind `data:` in each of the server-sent events. The server writes each in one line.
 * @param {Response} response
 * @param {AbortSignal} [signal]
 */
async function* events(response, signal) {
  if (!response.body) return;
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  /** The beginning of a line: an echoed prompt is a long one, in many pieces. @type {string[]} */
  let begun = [];
  try {
    for (;;) {
      const { done, value } = await reader.read().catch((error) => {
        if (signal?.aborted) throw error;
        throw new ApiError(0, { message: "The connection broke in the middle of the answer. Does the server still run?" });
      });
      if (done) return;
      const [first, ...others] = value.split("\n");
      begun.push(first);
      for (const next of others) {
        const line = begun.join("");
        begun = [next];
        if (line.startsWith("data: ")) yield line.slice(6).trimEnd();
      }
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}
