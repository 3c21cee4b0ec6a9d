#!/usr/bin/env python3
"""Keeps a Candor server busy with all kinds of requests at once, and checks every answer. Standard library only.

    soak.py --candor BINARY [--model SOURCE] [--minutes 20] [--clients 32] [--seed 1] [--out soak]

The script starts and stops the server. First it sends a pool of requests, all greedy or seeded, one by one to the idle
server; these answers are the expected ones from then on. Then clients mix requests from the pool with invalid requests,
disconnects, other routes and slow reads. This checks the promise of exact mode: an answer has the same bits on a busy
server as on an idle one. At the end the server must be idle, must answer the pool as at the start, must not have grown,
and must exit cleanly.

Writes OUT.md and OUT.json, and the first mismatches to OUT.mismatches.json. The exit status is 0 if nothing failed, 1 if
something did, and 130 after Ctrl-C, which ends the load early and still reports.
"""

import argparse
import collections
import dataclasses
import http.client
import json
import os
import random
import re
import shlex
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time

HOST = "127.0.0.1"
COMPLETIONS = "/v1/completions"
# Seconds without a byte after which an answer is given up: on a machine that others use, too, a queue takes minutes.
PATIENCE = 400
# The server keeps the threads for blocking work this long after their last use, and a bit.
THREADS_LINGER = 12
# What may grow from the first tenth of the run to its end.
GROWTH_RSS_SHARE, GROWTH_RSS_KIB, GROWTH_COUNT = 0.05, 20 * 1024, 4
# Nats between the likeliest two tokens, below which the smallest error decides between them.
NEAR_TIE = 1e-3
# Counters of /metrics that must stay at nought.
FAULTS = ("candor_invariant_violations_total", "candor_decode_errors_total", "candor_worker_restarts_total")
# Mismatches, and failures of each kind, that are kept in full; all are counted.
KEPT = 8


class Wrong(Exception):
    """An answer that breaks the contract."""


class Refused(Exception):
    """The server is full, and says when to come back."""


# --- The pool: requests whose answers are determined.

WORDS = (
    "river stone lantern winter market bridge copper violet engine harbour orchard pepper saddle thunder willow "
    "anchor barrel candle desert ember feather garden hammer island jacket kettle ladder meadow needle olive"
).split()
OPENINGS = (
    "Once upon a time",
    "The capital of Michigan is",
    "1, 2, 3, 4,",
    "def fibonacci(n):\n",
    "Dear Sir or Madam,\n\n",
    "Q: What is the largest planet?\nA:",
    "She opened the door and",
    "",
)
UNICODE = (
    "Repeat after me: 🚀🚀🚀🚀",
    "Привет, как дела? Сегодня",
    "東京は日本の首都です。大阪は",
    "naïve café e\u0301toile – «ça va?»",
    "مرحبا بالعالم، اليوم",
    "👩‍👩‍👧‍👦 is a family; 🏳️‍🌈 is a",
    "\u200bzero\u00a0width\ttabs\r\nand lines",
    "<|im_start|>user\nSay hi<|im_end|>\n<|im_start|>assistant\n",
)
GRAMMARS = (
    'root ::= "yes" | "no"',
    "root ::= [0-9]{1,6}",
    'root ::= word (" " word){0,4} "."\nword ::= [a-z]{1,8}',
    'root ::= "{" pair ("," pair)? "}"\npair ::= "\\"" [a-z]{1,6} "\\":" [0-9]{1,3}',
    "root ::= [а-я]{3,9}",
    'root ::= ("a" | "b")+ "c"?',
)
STOPS = ([" the"], ["\n"], [".", ","], "and", [" of the", "\n\n", "e"], [" 9,", "8"])
# Some 50 to 600 tokens.
STEM_WORDS = (36, 80, 150, 230, 320, 420)


def words(rng, count):
    return " ".join(rng.choice(WORDS) + ("." if rng.random() < 0.08 else "") for _ in range(count))


def short(rng):
    return f"{words(rng, rng.randrange(12))} {rng.choice(OPENINGS)}".lstrip()


def with_stem(rng, stems):
    return f"{rng.choice(stems)}\nQuestion: {words(rng, rng.randint(2, 10))}?\nAnswer: {rng.choice(WORDS)}"


def ids(rng, most=60):
    """Any ids, so characters that begin and do not end are among them; low enough for every vocabulary."""
    return [rng.randrange(300, 20_000) for _ in range(rng.randint(1, most))]


def some(rng, **fields):
    """About half of the fields."""
    return {name: value for name, value in fields.items() if rng.random() < 0.5}


def length(rng, most=48):
    return {"max_tokens": rng.randint(1, most)}


def logprobs(rng, chance=0.6):
    return {"logprobs": rng.randint(0, 10)} if rng.random() < chance else {}


def seeded(rng):
    return {"seed": rng.randrange(2**31), "temperature": round(rng.uniform(0.2, 1.8), 2)}


def cuts(rng):
    return some(
        rng,
        top_k=rng.choice([0, 1, 2, 20, 200]),
        top_p=rng.choice([0.1, 0.5, 0.9, 1]),
        min_p=rng.choice([0, 0.02, 0.2]),
        typical_p=rng.choice([0.3, 0.9, 1]),
    )


def determined(rng):
    return {"temperature": 0} if rng.random() < 0.4 else seeded(rng) | cuts(rng)


def greedy(rng, stems):
    return {"prompt": short(rng), "temperature": 0} | length(rng) | logprobs(rng)


def sampled(rng, stems):
    return {"prompt": short(rng)} | seeded(rng) | cuts(rng) | length(rng) | logprobs(rng)


def penalised(rng, stems):
    penalties = some(
        rng,
        repeat_penalty=rng.choice([0.9, 1.1, 1.5]),
        frequency_penalty=rng.choice([-0.5, 0.4, 1.5]),
        presence_penalty=rng.choice([-0.5, 0.4, 1.5]),
        min_tokens=rng.randint(1, 20),
    )
    return {"prompt": short(rng)} | determined(rng) | penalties | length(rng) | logprobs(rng)


def mirostat(rng, stems):
    steering = {"mirostat_mode": rng.randint(1, 2)} | some(rng, mirostat_tau=rng.randint(2, 8), mirostat_eta=0.2)
    return {"prompt": short(rng)} | seeded(rng) | steering | length(rng, 24) | logprobs(rng)


def scored(rng, stems):
    body = {"prompt": with_stem(rng, stems), "max_tokens": 0, "echo": True} | logprobs(rng, 1)
    # A word has at least a token.
    return body | some(rng, scored_from=rng.randint(0, len(body["prompt"].split())))


def echoed(rng, stems):
    return {"prompt": with_stem(rng, stems), "echo": True} | determined(rng) | length(rng, 8) | logprobs(rng, 0.9)


def stemmed(rng, stems):
    return {"prompt": with_stem(rng, stems)} | determined(rng) | length(rng, 24) | logprobs(rng)


def by_ids(rng, stems):
    prompt = ids(rng) if rng.random() < 0.7 else [ids(rng, 20) for _ in range(rng.randint(1, 3))]
    return {"prompt": prompt} | determined(rng) | some(rng, echo=True) | length(rng, 16) | logprobs(rng)


def choices(rng, stems):
    prompt = with_stem(rng, stems[:4]) if rng.random() < 0.5 else short(rng)
    return {"prompt": prompt, "n": rng.randint(2, 4)} | seeded(rng) | length(rng, 16) | logprobs(rng)


def best_of(rng, stems):
    best = rng.randint(2, 4)
    counts = {"best_of": best, "n": rng.randint(1, best)}
    return {"prompt": short(rng)} | counts | seeded(rng) | length(rng, 12) | logprobs(rng)


def several(rng, stems):
    prompts = [short(rng) if rng.random() < 0.6 else with_stem(rng, stems[:3]) for _ in range(rng.randint(2, 5))]
    more = {"n": 2} if rng.random() < 0.3 else {}
    return {"prompt": prompts} | more | determined(rng) | some(rng, echo=True) | length(rng, 12) | logprobs(rng)


def stopped(rng, stems):
    return {"prompt": short(rng), "stop": rng.choice(STOPS)} | determined(rng) | length(rng) | logprobs(rng)


def biased(rng, stems):
    if rng.random() < 0.3:
        bias = {"logit_bias": {rng.choice(WORDS): rng.choice([5, 10, -100])}, "logit_bias_type": "tokens"}
    else:
        bias = {"logit_bias": {str(rng.randrange(300, 20_000)): rng.choice([-100, 5, 20]) for _ in range(5)}}
    return {"prompt": short(rng)} | bias | determined(rng) | length(rng, 16) | logprobs(rng)


def with_grammar(rng, stems):
    return {"prompt": short(rng), "grammar": rng.choice(GRAMMARS)} | determined(rng) | length(rng, 16) | logprobs(rng)


def uncached(rng, stems):
    body = {"prompt": with_stem(rng, stems[:3]), "cache_prompt": False}
    return body | determined(rng) | some(rng, echo=True) | length(rng, 8) | logprobs(rng)


def in_unicode(rng, stems):
    return {"prompt": rng.choice(UNICODE)} | determined(rng) | some(rng, echo=True) | length(rng, 24) | logprobs(rng)


# The kinds, and how many of a pool of some hundred.
KINDS = {
    greedy: 9, sampled: 10, penalised: 5, mirostat: 4, scored: 18, echoed: 10, stemmed: 9, by_ids: 7, choices: 7,
    best_of: 4, several: 5, stopped: 5, biased: 5, with_grammar: 5, uncached: 5, in_unicode: 7,
}  # fmt: skip


@dataclasses.dataclass
class Question:
    kind: str
    body: dict
    # The answer of the idle server, in the form of `normal`.
    expected: dict | None = None


def make_pool(seed, size):
    rng = random.Random(seed)
    stems = [words(rng, count) for count in STEM_WORDS]
    pool = {}
    while len(pool) < size:
        kind = rng.choices(list(KINDS), KINDS.values())[0]
        body = kind(rng, stems)
        pool.setdefault(json.dumps(body), Question(kind.__name__, body))
    return list(pool.values())


def may_stream(body):
    return body.get("best_of", 1) <= body.get("n", 1)


def as_stream(rng, body):
    usage = rng.choice([None, {"include_usage": True}, {"include_usage": False}])
    return body | {"stream": True} | ({"stream_options": usage} if usage else {})


def wants_usage(body):
    return not body.get("stream") or (body.get("stream_options") or {}).get("include_usage", False)


def expected_choices(body):
    prompt = body["prompt"]
    prompts = len(prompt) if isinstance(prompt, list) and not isinstance(prompt[0], int) else 1
    return prompts * body.get("n", 1)


# --- Answers: whole and streamed ones in one form, and how two of them differ.


def no_key_twice(pairs):
    fields = dict(pairs)
    if len(fields) != len(pairs):
        raise Wrong(f"a key stands twice: {pairs}")
    return fields


def parse(data):
    try:
        return json.loads(data, object_pairs_hook=no_key_twice)
    except ValueError as error:
        raise Wrong(f"not JSON ({error}): {data[:300]!r}") from None


def normal(answer):
    """The answer without what differs each time: id, created, cached_tokens."""
    usage = dict(answer["usage"])
    usage["prompt_tokens_details"] = dict(usage["prompt_tokens_details"])
    del usage["prompt_tokens_details"]["cached_tokens"]
    return {"head": head(answer), "choices": [normal_choice(choice) for choice in answer["choices"]], "usage": usage}


def head(answer):
    return {name: value for name, value in answer.items() if name not in ("id", "created", "choices", "usage")}


def normal_choice(choice):
    """With the likeliest tokens as pairs, so that their order counts."""
    arrays = choice["logprobs"]
    if arrays is None:
        return choice
    pairs = [top and list(map(list, top.items())) for top in arrays["top_logprobs"]]
    return choice | {"logprobs": arrays | {"top_logprobs": pairs}}


def events(data):
    """The bodies of a stream's events; the last must be [DONE]. Comments keep a connection alive."""
    blocks = [block for block in data.decode().split("\n\n") if block and not block.startswith(":")]
    for block in blocks:
        if not block.startswith("data: "):
            raise Wrong(f"an event is not a line of data: {block[:300]!r}")
    if not blocks or blocks[-1] != "data: [DONE]":
        raise Wrong(f"the stream broke off: {data[-300:]!r}")
    return [parse(block[len("data: ") :]) for block in blocks[:-1]]


def joined(chunks, body):
    """What a stream's chunks add up to, in the form of `normal`; without usage unless it was asked for."""
    usage = None
    if wants_usage(body):
        last = chunks.pop()
        if last["choices"] != []:
            raise Wrong(f"the last chunk is not the usage: {last}")
        usage = normal(last)["usage"]
    parts = [nothing_yet(index, body) for index in range(expected_choices(body))]
    for chunk in chunks:
        if head(chunk) != head(chunks[0]) or (chunk["id"], chunk["created"]) != (chunks[0]["id"], chunks[0]["created"]):
            raise Wrong(f"chunks of one stream have different heads: {chunk}")
        if chunk.get("usage", None) is not None or ("usage" in chunk) != (usage is not None):
            raise Wrong(f"usage in the wrong chunk: {chunk}")
        [piece] = chunk["choices"]
        add(parts[piece["index"]], piece)
    if any(part["finish_reason"] is None for part in parts):
        raise Wrong("a choice of the stream has no finish_reason")
    return {"head": head(chunks[0]), "choices": [normal_choice(part) for part in parts], "usage": usage}


def nothing_yet(index, body):
    wanted = body.get("logprobs") is not None
    arrays = {"text_offset": [], "token_logprobs": [], "tokens": [], "top_logprobs": []} if wanted else None
    return {"text": "", "index": index, "logprobs": arrays, "finish_reason": None}


def add(part, piece):
    if part["finish_reason"] is not None:
        raise Wrong(f"a choice goes on after its finish_reason: {piece}")
    part["text"] += piece["text"]
    part["finish_reason"] = piece["finish_reason"]
    for name, values in (piece["logprobs"] or {}).items():
        part["logprobs"][name] += values


def check_shape(body, answer):
    """What holds for every answer, so that the expected ones are not wrong alike."""
    if [choice["index"] for choice in answer["choices"]] != list(range(expected_choices(body))):
        raise Wrong("the number of choices is wrong")
    for choice in answer["choices"]:
        arrays = choice["logprobs"]
        if (arrays is None) != (body.get("logprobs") is None):
            raise Wrong("logprobs are there or not, against the request")
        if arrays and len({len(values) for values in arrays.values()}) != 1:
            raise Wrong("the four arrays have different lengths")
        if choice["finish_reason"] not in ("stop", "length"):
            raise Wrong(f"the finish_reason is {choice['finish_reason']!r}")


def verdict(expected, got):
    """How two answers differ: None, "text", "near tie", "logprobs" or "rest"; and the largest difference of a
    logprob as far as the tokens agree."""
    if got["usage"] is None:
        expected = expected | {"usage": None}
    pairs = list(zip(expected["choices"], got["choices"]))
    largest = max((logprob_difference(a, b) for a, b in pairs), default=0.0)
    if expected == got:
        return None, largest
    others = [(a, b) for a, b in pairs if a["text"] != b["text"] or tokens(a) != tokens(b)]
    if others:
        return ("near tie" if all(is_near_tie(a, b) for a, b in others) else "text"), largest
    return ("logprobs" if any(numbers(a) != numbers(b) for a, b in pairs) else "rest"), largest


def tokens(choice):
    return (choice["logprobs"] or {}).get("tokens", [])


def numbers(choice):
    arrays = choice["logprobs"] or {}
    return arrays.get("token_logprobs"), arrays.get("top_logprobs")


def first_difference(a, b):
    return next((place for place, (x, y) in enumerate(zip(a, b)) if x != y), min(len(a), len(b)))


def is_near_tie(expected, got):
    place = first_difference(tokens(expected), tokens(got))
    if place >= len(tokens(expected)):
        return False
    likeliest = sorted((logprob for _, logprob in expected["logprobs"]["top_logprobs"][place] or []), reverse=True)
    return len(likeliest) > 1 and likeliest[0] - likeliest[1] <= NEAR_TIE


def logprob_difference(expected, got):
    if expected == got or not (expected["logprobs"] and got["logprobs"]):
        return 0.0
    # The row at the first other token has seen the same text, too; its own token has not the same logprob.
    same = first_difference(tokens(expected), tokens(got))
    differences = [0.0]
    scores = [arrays["logprobs"]["token_logprobs"][:same] for arrays in (expected, got)]
    differences += [abs(a - b) for a, b in zip(*scores) if a is not None and b is not None]
    tops = [arrays["logprobs"]["top_logprobs"][: same + 1] for arrays in (expected, got)]
    for a, b in zip(*tops):
        a, b = dict(a or []), dict(b or [])
        differences += [abs(a[text] - b[text]) for text in a.keys() & b.keys()]
    return max(differences)


# --- Bad requests.


@dataclasses.dataclass
class Bad:
    name: str
    status: int
    # A dict is sent as JSON.
    body: dict | bytes = b""
    method: str = "POST"
    path: str = COMPLETIONS
    content_type: str = "application/json"
    param: str | None = None
    code: str | None = None


def bad_fields():
    deep = f'root ::= {"(" * 20_000}"a"{")" * 20_000}'
    cases = [
        ("prompt", [5, True, {"text": "a"}, [], [[]], ["a", 5], [[1], "a"], [-1], [1.5], [2**31], [2**64 - 1]]),
        ("prompt", [["a"] * 1025, [None]]),
        ("max_tokens", [-2, "5", 1e300]),
        ("logprobs", [-1, 101, True]),
        ("echo", ["yes"]),
        ("n", [0, 129, "2"]),
        ("best_of", [0, 1000]),
        ("stop", ["", ["a", ""], [1], ["a"] * 17, "a" * 1025]),
        ("seed", ["1", 1.5]),
        ("logit_bias", [[1], {"-1": 1}, {"2147483647": 1}, {"a": 1}, {"1": "x"}, {"1": 1e9}]),
        ("logit_bias_type", ["words"]),
        ("temperature", [-0.1, "hot"]),
        ("top_k", [-2, 2**32]),
        ("top_p", [1.1]),
        ("repeat_penalty", [0]),
        ("presence_penalty", [-2.1]),
        ("mirostat_mode", [3]),
        ("grammar", [5, "", 'root ::= root "a"', "root ::= undefined", 'root ::= "a', 'root ::= "a"{5000}', deep]),
        ("grammar", ["a" * 65_537]),
        ("cache_prompt", ["no"]),
        ("model", [5]),
        ("unheard_of", [1]),
        ("maxTokens", [1]),
        ("stream", ["true"]),
    ]
    for field, values in cases:
        for value in values:
            body = {"prompt": "Once", "max_tokens": 2, field: value}
            yield Bad(f"{field}: {json.dumps(value)[:40]}", 400, body, param=field)


def bad_bodies():
    whole = json.dumps({"prompt": "Once upon a time", "max_tokens": 3, "logit_bias": {"300": 1.5}}).encode()
    for name, body in {
        "no body": b"",
        "spaces": b"   ",
        "truncated at once": whole[:1],
        "truncated in a string": whole[:20],
        "truncated before the end": whole[:-1],
        "more after it": whole + b" x",
        "an array": b"[]",
        "null": b"null",
        "a string": b'"prompt"',
        "NaN": b'{"temperature": NaN}',
        "a number out of range": b'{"temperature": 1e400}',
        "a key twice": b'{"prompt": "a", "prompt": "b"}',
        "a key twice, deep": b'{"logit_bias": {"300": 1, "300": 2}}',
        "not UTF-8": b'{"prompt": "\xff"}',
        "half a surrogate": b'{"prompt": "\\ud800"}',
        "single quotes": b"{'prompt': 'a'}",
        "objects, deep": b'{"prompt":' * 20_000 + b"1" + b"}" * 20_000,
        "arrays, deep": b'{"prompt":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    }.items():
        yield Bad(name, 400, body)


def bad_requests(body_bytes):
    yield from bad_fields()
    yield from bad_bodies()
    yield Bad("n above best_of", 400, {"n": 3, "best_of": 2}, param="best_of")
    yield Bad("a streamed best_of", 400, {"best_of": 2, "stream": True}, param="best_of")
    yield Bad("stream_options alone", 400, {"stream_options": {"include_usage": True}}, param="stream_options")
    usage = {"stream": True, "stream_options": {"usage": True}}
    yield Bad("an unknown stream option", 400, usage, param="stream_options.usage")
    yield Bad("too many sequences", 400, {"prompt": ["a"] * 100, "n": 100}, param="n")
    for max_tokens in (0, 1):
        body = {"prompt": [300] * 20_000, "max_tokens": max_tokens}
        yield Bad("a prompt too long", 400, body, param="prompt", code="context_length_exceeded")
    yield Bad("a text too long", 400, {"prompt": "a b " * 20_000}, param="prompt", code="context_length_exceeded")
    yield Bad("another model", 404, {"model": "gpt-4", "prompt": "a"}, param="model", code="model_not_found")
    yield Bad("a body too large", 413, b'{"prompt": "' + b"a" * body_bytes + b'"}')
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x"):
        yield Bad(kind, 415, b"{}", content_type=kind)
    for method, path in (("GET", COMPLETIONS), ("PUT", COMPLETIONS), ("DELETE", COMPLETIONS), ("POST", "/v1/models")):
        yield Bad(f"{method} {path}", 405, method=method, path=path)
    yield Bad("POST /health", 405, b"{}", path="/health")
    for path in ("/v1/nothing", "/v1/completions/", "/v1/models/none", "/%ff", "/v1/../etc/passwd"):
        yield Bad(f"GET {path}", 404, method="GET", path=path)
    # Not UTF-8: wrong in itself, or the name of no model.
    yield Bad("GET /v1/models/%ff", 400, method="GET", path="/v1/models/%ff")
    yield Bad("a chat without messages", 400, {}, path="/v1/chat/completions", param="messages")


def error_object(answer):
    """The error object, whose four parts are always there."""
    body = parse(answer.data)
    if not answer.content_type.startswith("application/json") or list(body) != ["error"]:
        raise Wrong(f"not an error object: {answer}")
    error = body["error"]
    if set(error) != {"message", "type", "param", "code"} or not error["message"] or not isinstance(error["type"], str):
        raise Wrong(f"the error object lacks a part: {answer}")
    if not all(error[name] is None or isinstance(error[name], str) for name in ("param", "code")):
        raise Wrong(f"a part of the error object is no text: {answer}")
    return error


def check_refusal(answer):
    """503 and 429 are allowed if they say when to come back."""
    if answer.status in (429, 503):
        error_object(answer)
        if not (answer.retry_after or "").isdigit():
            raise Wrong(f"a refusal without Retry-After: {answer}")
        raise Refused()


def check_bad(bad, answer):
    if answer.status != bad.status:
        check_refusal(answer)
        raise Wrong(f"status {answer.status} in place of {bad.status}: {answer}")
    error = error_object(answer)
    for name in ("param", "code"):
        wanted = getattr(bad, name)
        if wanted is not None and error[name] != wanted:
            raise Wrong(f"the error's {name} is not {wanted!r}: {answer}")


# --- HTTP.


@dataclasses.dataclass
class Answer:
    status: int
    content_type: str
    retry_after: str | None
    data: bytes

    def __str__(self):
        return f"{self.status} {self.content_type} {self.data[:400]!r}"


def whole(response):
    return response.read()


class Connection:
    """A connection that is kept from request to request until it is closed."""

    def __init__(self, port, count=lambda group, name: None):
        self.count = count
        self.http = http.client.HTTPConnection(HOST, port, timeout=PATIENCE)

    def close(self):
        self.http.close()

    def narrow(self):
        """Connects with so little room for what comes that the server feels a slow reader."""
        self.close()
        self.http.sock = socket.socket()
        self.http.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        self.http.sock.settimeout(PATIENCE)
        self.http.sock.connect((self.http.host, self.http.port))

    def ask(self, method, path, body=None, content_type="application/json", read=whole):
        headers = {"content-type": content_type} if body is not None else {}
        kept = self.http.sock is not None
        try:
            response = self.send(method, path, body, headers)
        except ConnectionError:
            self.close()
            # A server may close a connection that rests; that shows with the next request only.
            if not kept:
                raise
            self.count("connections", "closed while at rest")
            response = self.send(method, path, body, headers)
        fields = response.headers
        data = read(response)
        self.count("statuses", str(response.status))
        return Answer(response.status, fields.get("content-type", ""), fields.get("retry-after"), data)

    def send(self, method, path, body, headers):
        try:
            self.http.request(method, path, body, headers)
        except (BrokenPipeError, ConnectionResetError):
            # Who refuses a large body answers before all of it is sent.
            pass
        return self.http.getresponse()

    def complete(self, body, read=whole):
        """An answer to a good request, in the form of `normal`."""
        answer = self.ask("POST", COMPLETIONS, json.dumps(body).encode(), read=read)
        check_refusal(answer)
        if answer.status != 200:
            raise Wrong(f"a good request was answered with {answer}")
        kind = "text/event-stream" if body.get("stream") else "application/json"
        if not answer.content_type.startswith(kind):
            raise Wrong(f"the content type is not {kind}: {answer}")
        return joined(events(answer.data), body) if body.get("stream") else normal(parse(answer.data))


def raw(body):
    """A request as bytes, for those who do not wait for the answer."""
    data = json.dumps(body).encode()
    head = f"POST {COMPLETIONS} HTTP/1.1\r\nhost: {HOST}\r\ncontent-type: application/json\r\n"
    return f"{head}content-length: {len(data)}\r\n\r\n".encode() + data


# --- Clients that leave. Each is given a fresh socket, which is closed when the function returns.


def leave_at_once(sock, rng):
    time.sleep(rng.choice([0, rng.uniform(0, 0.5)]))


def leave_amid_the_body(sock, rng):
    data = raw({"prompt": words(rng, 400), "max_tokens": 8})
    sock.sendall(data[: rng.randrange(len(data))])
    time.sleep(rng.uniform(0, 0.2))


def leave_after_sending(sock, rng):
    sock.sendall(raw({"prompt": short(rng), "max_tokens": 200, "stream": rng.random() < 0.5}))


def leave_amid_the_prompt(sock, rng):
    scored = {"echo": True, "logprobs": rng.randint(0, 10)} if rng.random() < 0.5 else {}
    # Not known to the cache, so that it takes seconds.
    body = {"prompt": words(rng, rng.randint(300, 700)), "max_tokens": 8, "stream": rng.random() < 0.5} | scored
    sock.sendall(raw(body))
    time.sleep(rng.uniform(0.05, 2.0))


def leave_amid_a_stream(sock, rng):
    sock.sendall(raw({"prompt": short(rng), "max_tokens": 200, "min_tokens": 200, "stream": True} | logprobs(rng)))
    wanted, data = rng.randrange(20_000), b""
    # A refusal ends no connection: whoever waited on would wait for ever.
    while len(data) < wanted and data[:12] in (b"", b"HTTP/1.1 200") and b"[DONE]" not in data:
        more = sock.recv(4096)
        if not more:
            break
        data += more


def leave_many_choices(sock, rng):
    body = {"prompt": short(rng), "n": 8, "max_tokens": 64, "stream": rng.random() < 0.5} | logprobs(rng)
    sock.sendall(raw(body))
    time.sleep(rng.uniform(0, 1.5))


LEAVERS = (
    leave_at_once,
    leave_amid_the_body,
    leave_after_sending,
    leave_amid_the_prompt,
    leave_amid_a_stream,
    leave_many_choices,
)


# --- What is counted.


class Tally:
    """Counts, failures and mismatches, from all threads."""

    def __init__(self):
        self.lock = threading.Lock()
        self.counts = collections.defaultdict(collections.Counter)
        self.failures, self.mismatches = [], []
        self.largest = 0.0

    def count(self, group, name):
        with self.lock:
            self.counts[group][name] += 1

    def fail(self, where, what):
        with self.lock:
            self.counts["failures"][where] += 1
            if self.counts["failures"][where] <= KEPT:
                self.failures.append({"where": where, "what": what})
                print(f"  {where}: {what[:500]}", file=sys.stderr)

    def compare(self, phase, question, body, got):
        how, largest = verdict(question.expected, got)
        with self.lock:
            self.counts["checked"][f"{phase}, {'streamed' if body.get('stream') else 'whole'}"] += 1
            self.largest = max(self.largest, largest)
            if how is None:
                return
            self.counts["mismatches"][how] += 1
            if len(self.mismatches) < KEPT:
                shown = {"phase": phase, "kind": question.kind, "differs": how, "largest_logprob_difference": largest}
                self.mismatches.append(shown | {"request": body, "expected": question.expected, "got": got})
                print(f"  mismatch ({how}, {largest:.2e}) of {json.dumps(body)[:300]}", file=sys.stderr)


# --- The server.


def free_port():
    with socket.socket() as listener:
        listener.bind((HOST, 0))
        return listener.getsockname()[1]


class Server:
    def __init__(self, binary, model, arguments):
        self.port = free_port()
        command = [binary, "serve", "--port", str(self.port), *arguments]
        if model:
            command += ["--model", model]
        self.log = tempfile.TemporaryFile("w+", errors="replace")
        # In a session of its own, so that a Ctrl-C reaches us only.
        self.process = subprocess.Popen(command, stderr=self.log, start_new_session=True)

    def wait_until_ready(self):
        while True:
            try:
                if self.get("/health").status == 200:
                    return
            except OSError:
                pass
            if self.ended():
                sys.exit(f"the server ended:\n{self.log_text()}")
            time.sleep(0.05)

    def get(self, path):
        connection = Connection(self.port)
        try:
            return connection.ask("GET", path)
        finally:
            connection.close()

    def metrics(self):
        """The figures by name, those with labels added up; None if the server has none."""
        answer = self.get("/metrics")
        return None if answer.status == 404 else parse_metrics(answer)

    def sample(self):
        pid = self.process.pid
        with open(f"/proc/{pid}/status") as status:
            fields = dict(line.split(":", 1) for line in status if ":" in line)
        return {
            "rss_kib": int(fields["VmRSS"].split()[0]),
            "threads": int(fields["Threads"]),
            "descriptors": len(os.listdir(f"/proc/{pid}/fd")),
        }

    def ended(self):
        return self.process.poll() is not None

    def end(self):
        """The exit code after SIGTERM; None if it had to be killed."""
        self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(60)
        except subprocess.TimeoutExpired:
            self.kill()
            return None

    def kill(self):
        self.process.kill()
        self.process.wait()

    def log_text(self):
        self.log.seek(0)
        return self.log.read()

    def error_lines(self):
        found = re.compile(r"^\S+\s+ERROR\b|panicked at")
        return [line for line in self.log_text().splitlines() if found.search(line)]


def is_ours(error_line):
    """Not llama.cpp's, which takes a client's bad grammar for an error."""
    return re.match(r"\S+\s+ERROR\s+(?!candor\b)", error_line) is None


def parse_metrics(answer):
    if answer.status != 200 or not answer.content_type.startswith("text/plain"):
        raise Wrong(f"/metrics was answered with {answer}")
    figures = collections.Counter()
    for line in answer.data.decode().splitlines():
        if line and not line.startswith("#"):
            matched = re.fullmatch(r"([a-zA-Z_:][\w:]*)(?:\{.*\})? (\S+)(?: \d+)?", line)
            if not matched:
                raise Wrong(f"/metrics has a line that cannot be read: {line!r}")
            figures[matched[1]] += float(matched[2])
    return figures


def what_runs(figures):
    """What figures tell of an engine that is not idle."""
    found = []
    for name in ("candor_sequences_running", "candor_requests_waiting"):
        if figures.get(name) != 0:
            found.append(f"{name} is {figures.get(name)}")
    free, slots = figures.get("candor_slots_free"), figures.get("candor_slots")
    if free is None or free != slots:
        found.append(f"candor_slots_free is {free}, candor_slots {slots}")
    return found


def grown(base, end):
    """What has grown by more than is allowed."""
    room = {"rss_kib": max(base["rss_kib"] * GROWTH_RSS_SHARE, GROWTH_RSS_KIB)}
    return [
        f"{name} grew from {base[name]} to {end[name]}"
        for name in base
        if end[name] - base[name] > room.get(name, GROWTH_COUNT)
    ]


# --- Threads.


class Client(threading.Thread):
    """Does one thing after the other, as its own random numbers have it."""

    MIX = {"checked": 70, "bad": 10, "leaving": 12, "other": 5, "slow": 3}

    def __init__(self, soak, number):
        super().__init__(daemon=True)
        self.soak, self.tally = soak, soak.tally
        self.rng = random.Random(f"{soak.options.seed} {number}")
        self.connection = Connection(soak.server.port, self.tally.count)
        self.resting = False
        # For messages about failures.
        self.doing = ""

    def run(self):
        while not self.soak.stop.is_set():
            self.rest_if_told()
            what = self.rng.choices(list(self.MIX), self.MIX.values())[0]
            if self.rng.random() < 0.3:
                self.connection.close()
            try:
                getattr(self, what)()
                self.tally.count("requests", what)
            except Refused:
                self.connection.close()
                self.tally.count("refusals", what)
                self.soak.stop.wait(self.rng.uniform(0.1, 1))
            except Exception as error:  # Whatever it is, it is a finding, and no reason to stop.
                self.connection.close()
                self.tally.fail(what, f"{type(error).__name__}: {error} | {self.doing[:1000]}")
                self.soak.stop.wait(0.5)
        self.connection.close()
        self.resting = True

    def rest_if_told(self):
        if not self.soak.go.is_set():
            self.connection.close()
            self.resting = True
            self.soak.go.wait()
            self.resting = False

    def checked(self):
        question = self.rng.choice(self.soak.pool)
        streamed = may_stream(question.body) and self.rng.random() < 0.5
        body = as_stream(self.rng, question.body) if streamed else question.body
        self.doing = json.dumps(body)
        self.tally.compare("busy", question, body, self.connection.complete(body))

    def slow(self):
        question = self.rng.choice(self.soak.large)
        body = as_stream(self.rng, question.body)
        self.doing = json.dumps(body)
        self.connection.narrow()
        answer = self.connection.complete(body, read=self.read_slowly)
        self.connection.close()
        self.tally.compare("read slowly", question, body, answer)

    def read_slowly(self, response):
        data, until = b"", time.monotonic() + self.rng.uniform(2, 6)
        while time.monotonic() < until:
            piece = response.read1(self.rng.randint(1, 60))
            if not piece:
                return data
            data += piece
            time.sleep(self.rng.uniform(0, 0.1))
        return data + response.read()

    def bad(self):
        bad = self.rng.choice(self.soak.bad)
        body = bad.body
        if isinstance(body, dict):
            # An error comes before any byte of a stream.
            if not body.keys() & {"stream", "stream_options"} and self.rng.random() < 0.2 and bad.param != "best_of":
                body = body | {"stream": True}
            body = json.dumps(body).encode()
        self.doing = f"{bad.name} {body[:300]!r}"
        answer = self.connection.ask(bad.method, bad.path, body if bad.method != "GET" else None, bad.content_type)
        check_bad(bad, answer)
        self.tally.count("bad", str(bad.status))

    def leaving(self):
        leave = self.rng.choice(LEAVERS)
        self.doing = leave.__name__
        with socket.create_connection((HOST, self.soak.server.port), timeout=PATIENCE) as sock:
            if self.rng.random() < 0.5:
                # Closes with a reset, as one whose process was killed.
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            leave(sock, self.rng)
        self.tally.count("leaving", leave.__name__.replace("_", " "))

    def other(self):
        path = self.rng.choice(self.soak.routes)
        self.doing = f"GET {path}"
        answer = self.connection.ask("GET", path)
        if answer.status != 200:
            raise Wrong(f"answered with {answer}")
        if path == "/metrics":
            parse_metrics(answer)
        else:
            parse(answer.data)
        self.tally.count("other", path if path in ("/health", "/metrics") else "models")


class Probe(threading.Thread):
    """Seconds that /health takes, twice a second; our own threads' turns are in them."""

    def __init__(self, soak):
        super().__init__(daemon=True)
        self.soak, self.seconds = soak, []

    def run(self):
        while not self.soak.stop.wait(0.5):
            begun = time.perf_counter()
            try:
                answer = self.soak.server.get("/health")
                if answer.status != 200:
                    raise Wrong(f"answered with {answer}")
                self.seconds.append(time.perf_counter() - begun)
            except Exception as error:
                self.soak.tally.fail("/health", f"{type(error).__name__}: {error}")

    def latencies(self):
        times = sorted(self.seconds)
        if not times:
            return None
        return {"p50_s": times[len(times) // 2], "p99_s": times[int(len(times) * 0.99)], "max_s": times[-1]}


class Sampler(threading.Thread):
    """Memory, threads and descriptors every five seconds; tells how it goes each minute."""

    def __init__(self, soak):
        super().__init__(daemon=True)
        self.soak, self.samples = soak, []

    def run(self):
        begun = time.monotonic()
        while True:
            try:
                sample = self.soak.server.sample()
            except (OSError, KeyError):  # The server is gone, which others tell.
                return
            self.samples.append({"s": round(time.monotonic() - begun, 1)} | sample)
            if len(self.samples) % 12 == 0:
                self.tell()
            if self.soak.stop.wait(5):
                return

    def tell(self):
        counts = self.soak.tally.counts
        last = self.samples[-1]
        print(
            f"  {last['s'] / 60:.0f} min: {sum(counts['requests'].values())} requests, "
            f"{sum(counts['mismatches'].values())} mismatches, {sum(counts['failures'].values())} failures, "
            f"{last['rss_kib'] // 1024} MiB",
            file=sys.stderr,
        )


# --- The run.


class Soak:
    def __init__(self, options):
        self.options, self.tally = options, Tally()
        self.pool = make_pool(options.seed, options.pool)
        self.bad = list(bad_requests(options.body_bytes))
        self.stop, self.go = threading.Event(), threading.Event()
        self.go.set()
        self.server = Server(options.candor, options.model, shlex.split(options.args))
        self.probe, self.sampler, self.clients = Probe(self), Sampler(self), []
        # What stands against a clean run, beside mismatches and failures of requests.
        self.findings = []
        self.base = self.end = None
        self.interrupted = False

    def run(self):
        """All phases; Ctrl-C passes over those that are left."""
        try:
            self.server.wait_until_ready()
            self.look_around()
            self.ask_alone("idle")
            self.load()
            self.stop_clients()
            self.check_idle()
            self.ask_alone("alone again")
            self.check_growth()
            self.check_faults()
        except KeyboardInterrupt:
            self.interrupted = True
            print("  interrupted", file=sys.stderr)
        except Exception as error:  # What was seen until here is told all the same.
            self.findings.append(f"the run broke off: {type(error).__name__}: {error}")
        try:
            self.stop_clients()
            self.end_server()
        except KeyboardInterrupt:
            self.findings.append("interrupted twice: the server was killed")
            self.server.kill()

    def look_around(self):
        """Which routes there are."""
        names = [model["id"] for model in parse(self.server.get("/v1/models").data)["data"]]
        self.routes = ["/health", "/v1/models", *(f"/v1/models/{name}" for name in names)]
        self.has_metrics = self.server.metrics() is not None
        if self.has_metrics:
            self.routes.append("/metrics")

    def ask_alone(self, phase):
        """The pool, one by one: what is expected at first, a comparison later."""
        print(f"  {phase}: {len(self.pool)} requests, one by one", file=sys.stderr)
        connection = Connection(self.server.port, self.tally.count)
        for question in self.pool:
            try:
                answer = connection.complete(question.body)
                if question.expected is None:
                    check_shape(question.body, answer)
                    question.expected = answer
                else:
                    self.tally.compare(phase, question, question.body, answer)
            except Exception as error:
                connection.close()
                if self.server.ended():
                    raise Wrong(f"the server ended, at {json.dumps(question.body)[:1000]}") from error
                self.tally.fail(phase, f"{type(error).__name__}: {error} | {json.dumps(question.body)[:1000]}")
        connection.close()
        # Nothing can be compared with what was not answered.
        self.pool = [question for question in self.pool if question.expected is not None]
        streamed = [question for question in self.pool if may_stream(question.body)]
        streamed.sort(key=lambda question: len(json.dumps(question.expected)), reverse=True)
        self.large = streamed[: max(1, len(streamed) // 8)]

    def load(self):
        seconds, begun = self.options.minutes * 60, time.monotonic()
        print(f"  load: {self.options.clients} clients, {self.options.minutes:g} minutes", file=sys.stderr)
        self.clients = [Client(self, number) for number in range(self.options.clients)]
        for thread in (self.probe, self.sampler, *self.clients):
            thread.start()
        while (over := time.monotonic() - begun) < seconds:
            self.check_alive()
            if self.base is None and over >= seconds / 10:
                begun += self.take_base()
            time.sleep(0.2)

    def check_alive(self):
        if self.server.ended():
            raise Wrong("the server ended under load")

    def take_base(self):
        """What the server holds after the first tenth, at rest as at the end. Returns the seconds that it took."""
        begun = time.monotonic()
        self.go.clear()
        if not self.wait(lambda: all(client.resting for client in self.clients), PATIENCE):
            self.check_alive()
            raise Wrong(f"a client had no answer for {PATIENCE} s")
        time.sleep(THREADS_LINGER)
        self.check_alive()
        self.base = self.server.sample()
        self.go.set()
        return time.monotonic() - begun

    def wait(self, true, seconds):
        """Whether it becomes true in time."""
        until = time.monotonic() + seconds
        while not true():
            if time.monotonic() > until or self.server.ended():
                return False
            time.sleep(0.2)
        return True

    def stop_clients(self):
        self.stop.set()
        self.go.set()
        until = time.monotonic() + PATIENCE + 10
        for thread in (self.probe, self.sampler, *self.clients):
            if thread.ident is not None:
                thread.join(max(0, until - time.monotonic()))
        if stuck := sum(client.is_alive() for client in self.clients):
            self.findings.append(f"{stuck} clients had no answer for {PATIENCE} s")
        self.clients = []

    def check_idle(self):
        if not self.has_metrics:
            time.sleep(3)
            return
        if not self.wait(lambda: not what_runs(self.server.metrics()), 30):
            self.findings += [f"not idle after 30 s: {what}" for what in what_runs(self.server.metrics())]

    def check_growth(self):
        """Waits a while for threads that linger, then compares with the base."""
        if self.base is not None:
            self.wait(lambda: not grown(self.base, self.server.sample()), THREADS_LINGER + 20)
            self.end = self.server.sample()
            self.findings += grown(self.base, self.end)

    def check_faults(self):
        figures = (self.server.metrics() if self.has_metrics else None) or {}
        self.findings += [f"{name} is {figures[name]:g}" for name in FAULTS if figures.get(name, 0) != 0]

    def end_server(self):
        if self.server.ended():
            self.findings.append(f"the server had ended, with {self.server.process.returncode}")
        elif (code := self.server.end()) != 0:
            self.findings.append(f"after SIGTERM the server's exit code is {code} (None: it had to be killed)")

    def result(self):
        errors = self.server.error_lines()
        counts = {group: dict(sorted(names.items())) for group, names in self.tally.counts.items()}
        failed = [f"{count} failures: {where}" for where, count in counts.get("failures", {}).items()]
        failed += [f"{count} mismatches: {how}" for how, count in counts.get("mismatches", {}).items()]
        failed += self.findings
        if ours := sum(map(is_ours, errors)):
            failed.append(f"{ours} ERROR lines or panics of the server itself in its log")
        first = next((question.expected["head"] for question in self.pool if question.expected), {})
        return {
            "model": first.get("model"),
            "system_fingerprint": first.get("system_fingerprint"),
            "settings": self.options.args,
            "minutes": self.options.minutes,
            "clients": self.options.clients,
            "seed": self.options.seed,
            "pool": len(self.pool),
            "interrupted": self.interrupted,
            "failed": failed,
            "counts": counts,
            "largest_logprob_difference": self.tally.largest,
            "health": self.probe.latencies(),
            "base": self.base,
            "end": self.end,
            "error_lines": len(errors),
            "first_error_lines": errors[:KEPT],
            "failures": self.tally.failures,
            "samples": self.sampler.samples,
        }


def markdown(result):
    counts = result["counts"]

    def listed(group):
        names = counts.get(group, {})
        return f"{sum(names.values())}" + (f" ({', '.join(f'{k}: {v}' for k, v in names.items())})" if names else "")

    rows = [
        ("requests answered as they should, by kind", listed("requests")),
        ("statuses", listed("statuses")),
        ("answers compared", listed("checked")),
        ("mismatches", listed("mismatches")),
        ("largest difference of a logprob", f"{result['largest_logprob_difference']:.3g}"),
        ("bad requests, by status", listed("bad")),
        ("clients that left", listed("leaving")),
        ("other routes", listed("other")),
        ("refusals (503, 429)", listed("refusals")),
        ("kept connections closed by the server", listed("connections")),
        ("failures", listed("failures")),
        ("ERROR lines in the log", str(result["error_lines"])),
    ]
    if health := result["health"]:
        rows.append(("/health", ", ".join(f"{name[:-2]} {seconds * 1000:.1f} ms" for name, seconds in health.items())))
    for name, title in (("rss_kib", "RSS, KiB"), ("threads", "threads"), ("descriptors", "descriptors")):
        if samples := result["samples"]:
            base, end = (result[key][name] if result[key] else "–" for key in ("base", "end"))
            most = max(sample[name] for sample in samples)
            rows.append((title, f"start {samples[0][name]}, at rest after a tenth {base}, most {most}, end {end}"))
    lines = [
        f"{result['model']}; {result['system_fingerprint']} {result['settings']}".strip()
        + f"; {result['clients']} clients, {result['minutes']:g} minutes, seed {result['seed']}, "
        + f"pool of {result['pool']}{', interrupted' if result['interrupted'] else ''}.",
        "",
        "| | |",
        "|---|---|",
        *(f"| {title} | {value} |" for title, value in rows),
        "",
        "Nothing failed." if not result["failed"] else "Failed:",
        *(["", *(f"- {what}" for what in result["failed"])] if result["failed"] else []),
    ]
    return "\n".join(lines) + "\n"


def write(path, text):
    with open(path, "w") as file:
        file.write(text)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--candor", metavar="BINARY", required=True, help="the server to start")
    parser.add_argument("--model", metavar="SOURCE", help="its model, instead of the default one")
    parser.add_argument("--args", default="", help="further flags of `candor serve`")
    parser.add_argument("--minutes", type=float, default=20, help="duration of the load; the requests on the idle server come in addition")
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--seed", type=int, default=1, help="seed of the pool and of the clients' behaviour")
    parser.add_argument("--pool", type=int, default=200, help="requests with known answers")
    parser.add_argument("--body-bytes", type=int, default=8 << 20, help="the server's limits.body_bytes")
    parser.add_argument("--out", default="soak", help="path of the results, without extension")
    options = parser.parse_args()
    # Whoever ends us otherwise gets the report, too, and no server stays behind; also if a shell has put us into the
    # background, where it has Ctrl-C ignored.
    for ending in (signal.SIGINT, signal.SIGTERM):
        signal.signal(ending, signal.default_int_handler)
    soak = Soak(options)
    soak.run()
    result = soak.result()
    write(options.out + ".json", json.dumps(result, indent=1))
    write(options.out + ".mismatches.json", json.dumps(soak.tally.mismatches, indent=1, ensure_ascii=False))
    write(options.out + ".md", table := markdown(result))
    print(table)
    sys.exit(1 if result["failed"] else 130 if result["interrupted"] else 0)


if __name__ == "__main__":
    main()
