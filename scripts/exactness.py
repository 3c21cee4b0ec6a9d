#!/usr/bin/env python3
"""Looks for requests whose answer depends on anything else. Uses the requests and clients of soak.py. Standard library only.

    exactness.py --candor BINARY [--model SOURCE] [--args FLAGS] [--requests 2000] [--minutes M] [--questions 150]
                 [--clients 12] [--longest 1200] [--asked] [--seed 1] [--out exactness]

The script generates questions of all kinds: every sampler, grammars and schemas, echo, n, best_of, biases, stop strings,
and prompts of token ids, cut out of a few long ones at random positions near all kinds of boundaries. It sends each one
alone to an idle server with `cache_prompt: false` and stores the answer. Then clients keep a second server busy. They send
the same questions in random order, streamed and not, with and without the cache, while other clients fill the cache with
similar prompts and disconnect at random moments. Every answer is compared with the stored one, by receipts: text, tokens,
and every bit of every log-probability.

With --asked the second server is in throughput mode, and the questions set `exact: true`.

Prints a table row and writes OUT.json. The exit status is 0 if all answers were equal, 1 if not, and 130 after Ctrl-C,
which ends the second part early and still reports.
"""

import argparse
import collections
import json
import random
import shlex
import signal
import socket
import struct
import sys
import threading
import time

import soak

# --- Questions, beside those of soak.py.

SCHEMAS = (
    {"type": "object", "properties": {"name": {"type": "string", "maxLength": 12}, "age": {"type": "integer"}},
     "required": ["name", "age"], "additionalProperties": False},
    {"type": "array", "items": {"enum": ["red", "green", "blue"]}, "minItems": 1, "maxItems": 4},
    {"anyOf": [{"type": "boolean"}, {"type": "number", "minimum": 0, "maximum": 1000}]},
)  # fmt: skip


class Long:
    """A few long prompts of ids, which others begin with."""

    def __init__(self, rng, longest):
        self.longest = longest
        self.stems = [[rng.randrange(300, 20_000) for _ in range(longest)] for _ in range(3)]

    def beginning(self, rng, length):
        return rng.choice(self.stems)[: min(length, self.longest)]


def border(rng, longest):
    """A length at which something ends: groups of 8 rows, chunks of 64 and 128, the 256 that llama.cpp pads to, and the
    reference's 512; or a little before or behind it."""
    at = rng.choice([8, 16, 64, 128, 256, 512, 512, 1024])
    return max(1, min(longest, at * rng.randint(1, max(1, min(6, longest // at))) + rng.randint(-2, 9)))


def at_a_border(rng, long):
    body = {"prompt": long.beginning(rng, border(rng, long.longest))}
    scores = {"echo": True, "logprobs": rng.randint(0, 5)} if rng.random() < 0.5 else soak.logprobs(rng)
    return body | soak.determined(rng) | scores | {"max_tokens": rng.choice([0, 1, 2, 8]) if "echo" in scores else 8}


def branched(rng, long):
    """Parts from what others begin with, anywhere."""
    body = {"prompt": long.beginning(rng, rng.randint(1, long.longest)) + soak.ids(rng, 40)}
    return body | soak.determined(rng) | soak.some(rng, echo=True) | soak.length(rng, 12) | soak.logprobs(rng)


def structured(rng, long):
    how = rng.choice(
        [
            {"json_schema": rng.choice(SCHEMAS)},
            {"regex": rng.choice(["[a-z]{3,8}(, [a-z]{3,8}){0,3}", "-?[0-9]{1,4}\\.[0-9]{2}", "(yes|no|perhaps)!?"])},
            {"choice": rng.sample(soak.WORDS, 5)},
        ]
    )
    return {"prompt": soak.short(rng)} | how | soak.determined(rng) | soak.length(rng, 24) | soak.logprobs(rng)


OWN = {at_a_border: 30, branched: 20, structured: 8}


class Question:
    def __init__(self, kind, body):
        self.kind, self.body, self.expected = kind, body, None


def make_questions(options):
    rng = random.Random(options.seed)
    long = Long(rng, options.longest)
    stems = [soak.words(rng, count) for count in soak.STEM_WORDS if count * 3 < options.longest * 2]
    kinds = soak.KINDS | OWN
    questions = []
    while len(questions) < options.questions:
        kind = rng.choices(list(kinds), kinds.values())[0]
        body = kind(rng, long if kind in OWN else stems)
        body.pop("cache_prompt", None)
        questions.append(Question(kind.__name__, body))
    return questions, long


# --- Answers.


def told(answer):
    """What must be equal."""
    receipt = answer["receipt"]
    choices = [{name: value for name, value in it.items() if name != "cached_tokens"} for it in receipt["choices"]]
    return {
        "choices": [soak.normal_choice(choice) for choice in answer["choices"]],
        "receipt": {"prompts": receipt["prompts"], "choices": choices},
        "fingerprint": answer["system_fingerprint"],
    }


def ask(connection, body):
    """The answer, parsed."""
    answer = connection.ask("POST", soak.COMPLETIONS, json.dumps(body).encode())
    soak.check_refusal(answer)
    if answer.status != 200:
        raise soak.Wrong(f"a good request was answered with {answer}")
    return soak.parse(answer.data)


def scores(receipt):
    """How many log-probabilities it has."""
    return sum(len(part["token_logprobs"] or []) for part in receipt["prompts"] + receipt["choices"])


def same(expected, got):
    # As text: a zero may have a sign.
    return json.dumps(expected) == json.dumps(got)


# --- Clients.


class Client(threading.Thread):
    MIX = {"whole": 50, "streamed": 15, "nearly": 15, "leaving": 20}

    def __init__(self, run, number):
        super().__init__(daemon=True)
        self.run_, self.rng = run, random.Random(f"{run.options.seed} {number}")
        self.connection = soak.Connection(run.server.port)

    def run(self):
        while not self.run_.over:
            what = self.rng.choices(list(self.MIX), self.MIX.values())[0]
            try:
                getattr(self, what)()
            except soak.Refused:
                time.sleep(0.2)
            except Exception as error:  # Whatever it is, it is a finding, and no reason to stop.
                self.connection.close()
                self.run_.fail(f"{what}: {type(error).__name__}: {error}")
                time.sleep(0.5)
        self.connection.close()

    def asked(self, question):
        body = question.body | self.run_.asked
        return body | {"cache_prompt": False} if self.rng.random() < 0.2 else body

    def whole(self):
        question = self.rng.choice(self.run_.questions)
        body = self.asked(question) | {"receipt": True}
        answer = ask(self.connection, body)
        usage = answer["usage"]
        cached, prompts = usage["prompt_tokens_details"]["cached_tokens"], usage["prompt_tokens"]
        how = "nothing cached" if cached == 0 else "all cached" if cached == prompts else "partly cached"
        got = told(answer)
        self.run_.compare(question, body, how, question.expected, got, scores(got["receipt"]))

    def streamed(self):
        question = self.rng.choice(self.run_.questions)
        if not soak.may_stream(question.body):
            return
        body = soak.as_stream(self.rng, self.asked(question))
        joined = self.connection.complete(body)
        got = question.expected | {"choices": joined["choices"], "fingerprint": joined["head"]["system_fingerprint"]}
        values = sum(len(choice["logprobs"]["token_logprobs"]) for choice in got["choices"] if choice["logprobs"])
        self.run_.compare(question, body, "streamed", question.expected, got, values)

    def nearly(self):
        """What is nearly a question, and stays in the cache."""
        body = dict(self.rng.choice(self.run_.questions).body)
        if isinstance(body["prompt"], list) and isinstance(body["prompt"][0], int):
            body["prompt"] = body["prompt"][: self.rng.randint(1, len(body["prompt"]))] + soak.ids(self.rng, 9)
        body |= {"seed": self.rng.randrange(2**31), "max_tokens": self.rng.randint(1, 30)}
        body |= soak.some(self.rng, temperature=1.3, echo=True, logprobs=2)
        body |= self.rng.choice([{}, {"n": 2, "best_of": 2}])
        ask(self.connection, body)
        self.run_.count("nearly the same")

    def leaving(self):
        rng = self.rng
        with socket.create_connection((soak.HOST, self.run_.server.port), timeout=soak.PATIENCE) as sock:
            if rng.random() < 0.5:
                # Closes with a reset, as one whose process was killed.
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            if rng.random() < 0.5:
                rng.choice(soak.LEAVERS)(sock, rng)
            else:
                # Others wait for what it evaluates, and it goes.
                prompt = self.run_.long.beginning(rng, rng.randint(1, self.run_.long.longest))
                scores = {"echo": True, "logprobs": 1} if rng.random() < 0.5 else {}
                sock.sendall(soak.raw({"prompt": prompt, "max_tokens": 100, "stream": rng.random() < 0.5} | scores))
                time.sleep(rng.uniform(0, 1.0))
        self.run_.count("left")


class Run:
    def __init__(self, options):
        self.options = options
        self.questions, self.long = make_questions(options)
        self.asked = {"exact": True} if options.asked else {}
        self.lock, self.left = threading.Lock(), options.requests
        self.counts, self.kinds = collections.Counter(), collections.Counter()
        self.differences, self.failures = [], []
        self.values = 0
        self.server = None
        self.stopped = self.interrupted = False

    @property
    def over(self):
        return self.stopped or self.left <= 0

    def count(self, what):
        with self.lock:
            self.counts[what] += 1

    def fail(self, what):
        with self.lock:
            self.failures.append(what)
            print(f"  {what[:500]}", file=sys.stderr)

    def compare(self, question, body, how, expected, got, values):
        equal = same(expected, got)
        with self.lock:
            self.left -= 1
            self.counts[how] += 1
            self.kinds[question.kind] += 1
            self.values += values
            if self.left % 100 == 0:
                print(f"  {self.left} to go, {len(self.differences)} different", file=sys.stderr)
            if not equal:
                self.differences.append(
                    {"kind": question.kind, "how": how, "request": body, "expected": expected, "got": got}
                )
                print(f"  different ({how}): {json.dumps(body)[:300]}", file=sys.stderr)

    def start(self, *more):
        self.server = soak.Server(self.options.candor, self.options.model, shlex.split(self.options.args) + list(more))
        self.server.wait_until_ready()

    def ask_alone(self):
        self.start()
        print(f"  alone: {len(self.questions)} requests, one by one, nothing cached", file=sys.stderr)
        connection = soak.Connection(self.server.port)
        for number, question in enumerate(self.questions):
            if number % 25 == 0:
                print(f"  {len(self.questions) - number} to ask", file=sys.stderr)
            answer = ask(connection, question.body | {"cache_prompt": False, "receipt": True})
            if answer["usage"]["prompt_tokens_details"]["cached_tokens"] and question.body.get("best_of", 1) == 1:
                if question.body.get("n", 1) == 1:
                    raise soak.Wrong(f"cells were taken from the cache: {json.dumps(question.body)[:300]}")
            question.expected = told(answer)
        connection.close()
        self.end()

    def ask_beside(self):
        self.start(*(["--mode", "throughput"] if self.options.asked else []))
        print(f"  beside {self.options.clients} clients: {self.options.requests} requests", file=sys.stderr)
        clients = [Client(self, number) for number in range(self.options.clients)]
        for client in clients:
            client.start()
        until = time.monotonic() + self.options.minutes * 60
        while any(client.is_alive() for client in clients):
            try:
                time.sleep(0.5)
            except KeyboardInterrupt:
                if self.interrupted:
                    raise
                self.stopped = self.interrupted = True
            self.stopped |= time.monotonic() > until
            if self.server.ended():
                sys.exit(f"the server ended:\n{self.server.log_text()[-3000:]}")
        self.end()

    def end(self):
        if (code := self.server.end()) != 0:
            self.fail(f"after SIGTERM the server's exit code is {code}")

    def result(self):
        fingerprint = self.questions[0].expected["fingerprint"]
        return {
            "fingerprint": fingerprint,
            "args": self.options.args,
            "asked": self.options.asked,
            "questions": len(self.questions),
            "compared": self.options.requests - self.left,
            "logprobs": self.values,
            "counts": dict(sorted(self.counts.items())),
            "kinds": dict(sorted(self.kinds.items())),
            "different": len(self.differences),
            "interrupted": self.interrupted,
            "failures": self.failures,
            "differences": self.differences[:8],
        }


def line(result):
    counts = ", ".join(f"{count} {what}" for what, count in result["counts"].items())
    return (
        f"| {result['fingerprint']} {result['args']}{' (asked for)' if result['asked'] else ''} | {result['questions']} "
        f"| {result['compared']} ({counts}) | {result['logprobs']} | {result['different']} |"
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--candor", metavar="BINARY", required=True, help="the server to start")
    parser.add_argument("--model", metavar="SOURCE", help="its model, instead of the default one")
    parser.add_argument("--args", default="", help="further flags of `candor serve`, for both servers")
    parser.add_argument("--requests", type=int, default=2000, help="answers to compare")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="maximum time for comparing")
    parser.add_argument("--questions", type=int, default=150, help="requests with known answers")
    parser.add_argument("--clients", type=int, default=12)
    parser.add_argument("--longest", type=int, default=1200, help="tokens of the longest prompts")
    parser.add_argument("--asked", action="store_true", help="use `exact: true` on a server in throughput mode")
    parser.add_argument("--seed", type=int, default=1, help="seed of the questions and of the clients' behaviour")
    parser.add_argument("--out", default="exactness", help="path of the results, without extension")
    options = parser.parse_args()
    # Also of a job in the background, in which a shell has Ctrl-C ignored.
    for ending in (signal.SIGINT, signal.SIGTERM):
        signal.signal(ending, signal.default_int_handler)
    run = Run(options)
    try:
        run.ask_alone()
        run.ask_beside()
    finally:
        if run.server and not run.server.ended():
            run.server.kill()
    result = run.result()
    soak.write(options.out + ".json", json.dumps(result, indent=1))
    print("| server | questions | answers compared | log-probabilities compared | different |")
    print("|---|---:|---|---:|---:|")
    print(line(result))
    sys.exit(1 if result["different"] or result["failures"] else 130 if result["interrupted"] else 0)


if __name__ == "__main__":
    main()
