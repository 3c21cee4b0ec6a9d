// What the clients in Node share: how a check is told of, and the server's plain answers to hold a client's against.

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";

export const URL = process.env.CANDOR_URL;
export const BASE_URL = `${URL}/v1`;

/** Makes the function that runs a check, and prints a line for it; a check failed if it throws. */
export function reporter(client, ...packages) {
  const described = (name) => JSON.parse(readFileSync(`${import.meta.dirname}/node_modules/${name}/package.json`));
  const version = packages.map((name) => `${name} ${described(name).version}`).join(", ");
  return async (check, run) => {
    let why = "";
    try {
      await run();
    } catch (error) {
      console.error(error);
      why = `${error?.name}: ${error?.message}`.slice(0, 500);
    }
    console.log(JSON.stringify({ client, version, check, passed: why === "", why }));
  };
}

/** The plain answer of the server. */
export async function post(path, body) {
  const answer = await fetch(URL + path, {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify(body),
  });
  assert.equal(answer.status, 200);
  return answer.json();
}

/** A value of /metrics. */
export async function gauge(name) {
  const text = await (await fetch(`${URL}/metrics`)).text();
  const line = text.split("\n").find((line) => line.startsWith(`${name} `));
  assert.ok(line, `/metrics has no ${name}`);
  return Number(line.split(" ")[1]);
}

/** Numbers that are the same but for the last digit. */
export function close(some, others) {
  assert.equal(some.length, others.length);
  some.forEach((number, place) => assert.ok(Math.abs(number - others[place]) < 1e-6));
}

/** Calls `leave`, which asks for 1,500 tokens and goes away; they are not all generated. */
export async function endsEarly(leave) {
  const before = await gauge("candor_generated_tokens_total");
  await leave();
  while ((await gauge("candor_sequences_running")) > 0) {
    await new Promise((wake) => setTimeout(wake, 50));
  }
  const generated = (await gauge("candor_generated_tokens_total")) - before;
  assert.ok(generated < 1500, `${generated} tokens were generated for nobody`);
}
