"""What is told of tokens, computed again by numpy from whole rows of logits: nothing here is Candor's arithmetic."""

import base64
import io
import math
import urllib.request
import json

import numpy as np
from report import BASE_URL, Report, equal, post

report = Report("numpy, from whole rows", "numpy")
PROMPT = "One, two, three, four. One, two, three, four. One,"
EVERYTHING = {"logprobs": 7, "logprobs_detail": True, "logits": True, "seed": 3, "max_tokens": 24}
MODES = ["raw", "biased", "penalized", "masked", "sampled"]


def complete(**fields):
    return post("/v1/completions", **{"prompt": PROMPT, **EVERYTHING, **fields})["choices"][0]


def rows(choice):
    logits = choice["logits"]
    return np.frombuffer(base64.b64decode(logits["data"]), logits["dtype"]).reshape(logits["shape"])


def log_softmax(row):
    row = row.astype(np.float64)
    largest = row.max()
    with np.errstate(divide="ignore"):
        return row - largest - np.log(np.exp(row - largest).sum())


def near(ours, numpys, what, tolerance=2e-5):
    """JSON has no infinity; what has no probability is written as -9999."""
    assert abs(ours - max(numpys, -9999.0)) <= tolerance * max(1.0, abs(ours)), f"{what}: {ours}, by numpy {numpys}"


def check_distribution(arrays, place, logprobs, chosen, what):
    """One token's entries against the distribution that numpy has made."""
    near(arrays["token_logprobs"][place], logprobs[chosen], f"{what} logprob")
    # Likeliest first, of equals the larger id.
    order = np.lexsort((-np.arange(len(logprobs)), -logprobs))
    order = order[np.isfinite(logprobs[order])]
    top = arrays["top"][place]
    for mine, numpys in zip(top, order):
        # Equals by our rounding may stand the other way round in numpy's.
        near(mine["logprob"], logprobs[numpys], f"{what} top")
        near(mine["logprob"], logprobs[mine["id"]], f"{what} top {mine['id']}")
    equal(len(top), min(7, len(order)), f"{what} top")
    equal(len({mine["id"] for mine in top}), len(top), f"{what} ids")
    probabilities = np.exp(logprobs)
    with np.errstate(invalid="ignore"):
        entropy = -np.nansum(probabilities * logprobs)
    near(arrays["entropy"][place], entropy, f"{what} entropy")
    tail = probabilities.sum() - probabilities[[mine["id"] for mine in top]].sum()
    near(arrays["tail_mass"][place], tail, f"{what} tail mass")
    rank = 1 + int((logprobs > logprobs[chosen]).sum())
    ties = int((logprobs == logprobs[chosen]).sum()) - 1
    assert rank <= arrays["rank"][place] <= rank + ties, f"{what} rank {arrays['rank'][place]}, by numpy {rank}"


@report.check("entropy, rank, tail mass and the top, of prompt and completion")
def _():
    choice = complete(echo=True, temperature=1.5, ignore_eos=True)
    arrays = choice["logprobs"]
    matrix, positions = rows(choice), choice["logits"]["positions"]
    equal(positions, list(range(1, len(arrays["tokens"]))))
    for row, position in zip(matrix, positions):
        check_distribution(arrays, position, log_softmax(row), arrays["token_ids"][position], f"token {position}")
    equal(bytes(sum(arrays["bytes"], [])).decode(errors="ignore"), choice["text"])


@report.check("tokens named by id and by text, whatever their rank")
def _():
    choice = complete(echo=True, logprobs=0, logprob_token_ids=[5, 300], logprob_tokens=[" two", "!"])
    named = choice["logprobs"]["named"]
    for row, position in zip(rows(choice), choice["logits"]["positions"]):
        logprobs = log_softmax(row)
        equal([entry["id"] for entry in named[position]][:2], [5, 300])
        equal([entry["token"] for entry in named[position]][2:], [" two", "!"])
        for entry in named[position]:
            near(entry["logprob"], logprobs[entry["id"]], f"token {position}")


def chain(row, recent, fields, allowed):
    """The five distributions as numpy makes them, and every stage's candidates: bias, penalties, mask, top-k, top-p, min-p,
    temperature, in llama-cpp-python's order."""
    logits = row.astype(np.float64).copy()
    out = {"raw": log_softmax(logits)}
    for token, bias in fields.get("logit_bias", {}).items():
        logits[int(token)] += bias
    out["biased"] = log_softmax(logits)
    for token, count in recent.items():
        repeat = fields.get("repeat_penalty", 1.0)
        logits[token] = logits[token] * repeat if logits[token] <= 0 else logits[token] / repeat
        logits[token] -= count * fields.get("frequency_penalty", 0.0) + fields.get("presence_penalty", 0.0)
    out["penalized"] = log_softmax(logits)
    if allowed is not None:
        outside = np.ones(len(logits), bool)
        outside[allowed] = False
        logits[outside] = -np.inf
    out["masked"] = log_softmax(logits)
    out["kept"] = np.exp(out["penalized"][np.isfinite(logits)]).sum()
    stages = {}
    order = np.argsort(-logits, kind="stable")
    order = order[np.isfinite(logits[order])]
    if (k := fields.get("top_k", 40)) > 0:
        order = order[:k]
        stages["top_k"] = order
    if (p := fields.get("top_p", 0.95)) < 1:
        kept = np.exp(log_softmax(logits[order])).cumsum()
        order = order[: int(np.searchsorted(kept, p)) + 1]
        stages["top_p"] = order
    if (p := fields.get("min_p", 0.05)) > 0:
        probabilities = np.exp(log_softmax(logits[order]))
        order = order[probabilities >= p * probabilities.max()]
        stages["min_p"] = order
    sampled = np.full(len(logits), -np.inf)
    sampled[order] = logits[order] / fields.get("temperature", 0.8)
    out["sampled"] = log_softmax(sampled)
    out["order"] = order
    return out, stages


def check_chain(fields, allowed=None):
    choice = complete(**fields, logprobs_mode=MODES, trace=5)
    arrays = choice["logprobs"]
    recent = {}
    for place, row in enumerate(rows(choice)):
        chosen = arrays["token_ids"][place]
        expect, stages = chain(row, recent, fields, allowed)
        for mode in MODES:
            check_distribution(arrays["modes"][mode], place, expect[mode], chosen, f"{mode} {place}")
        equal(arrays["modes"]["raw"]["token_logprobs"][place], arrays["token_logprobs"][place])
        near(arrays["kept_mass"][place], expect["kept"], f"kept mass {place}")
        trace = choice["trace"][place]
        equal(trace["id"], chosen)
        told = {stage["stage"]: stage for stage in trace["stages"]}
        for name, order in stages.items():
            equal(told[name]["candidates_out"], len(order), f"{name} {place}")
            for token in told[name]["tokens"]:
                equal(token["after"] > 0, token["id"] in order, f"{name} {place}")
        last = trace["stages"][-1]
        for token in last["tokens"]:
            near(token["after"], math.exp(expect["sampled"][token["id"]]), f"{last['stage']} {place}")
        for one, other in zip(trace["stages"], trace["stages"][1:]):
            equal(one["candidates_out"], other["candidates_in"])
        # The random number falls on the token: its probabilities added up in order.
        draw, probabilities = trace["draw"], np.exp(expect["sampled"][expect["order"]])
        at = list(expect["order"]).index(chosen)
        near(draw["low"], probabilities[:at].sum(), f"draw {place}")
        near(draw["high"], probabilities[: at + 1].sum(), f"draw {place}")
        assert draw["low"] <= draw["random"] <= draw["high"], draw
        recent[chosen] = recent.get(chosen, 0) + 1
    equal(len(choice["trace"]), len(arrays["tokens"]))


@report.check("every distribution and the trace: the defaults")
def _():
    check_chain({})


@report.check("every distribution and the trace: bias and penalties, hot")
def _():
    bias = {"260": 4.0, "28": -3.0, "30": -100.0}
    check_chain({"temperature": 1.3, "top_k": 60, "top_p": 0.9, "logit_bias": bias, "presence_penalty": 0.7,
                 "frequency_penalty": 0.3, "repeat_penalty": 1.2})


@report.check("every distribution and the trace: few tokens allowed, the seed lesson's top_k = 2")
def _():
    allowed = list(range(17, 900))
    check_chain({"allowed_token_ids": allowed, "top_k": 2, "top_p": 1.0, "min_p": 0.0}, allowed)


@report.check("a grammar: masked has what it leaves, and kept_mass its probability")
def _():
    modes = ["masked", "raw", "penalized"]
    choice = complete(grammar='root ::= " " [0-9]+', logprobs_mode=modes, ignore_eos=True, max_tokens=6)
    arrays = choice["logprobs"]
    # The ban of the end comes before the grammar.
    before = arrays["modes"]["penalized"]["token_logprobs"]
    ids = [post("/tokenize", content=text, add_special=False)["tokens"] for text in "0123456789"]
    digits = {entry[0] if isinstance(entry[0], int) else entry[0]["id"] for entry in ids}
    for place, row in enumerate(rows(choice)):
        logprobs = log_softmax(row)
        near(arrays["modes"]["raw"]["token_logprobs"][place], logprobs[arrays["token_ids"][place]], "raw")
        kept = arrays["kept_mass"][place]
        near(math.exp(arrays["token_logprobs"][place]) * kept, math.exp(before[place]), "masked")
        assert 0 < kept < 1, kept
        if place > 0:
            near(kept, math.exp(np.logaddexp.reduce([logprobs[token] for token in digits])), "kept", 5e-3)


@report.check("float16, chosen positions, and a numpy file in one line")
def _():
    body = {"prompt": PROMPT, "max_tokens": 4, "temperature": 0, "logits": {"positions": [3, 18, 19], "dtype": "float16"}}
    whole = complete(temperature=0, max_tokens=4, echo=True)
    some = post("/v1/completions", **body)["choices"][0]
    wanted = [position for position in (3, 18, 19) if position in whole["logits"]["positions"]]
    equal(some["logits"]["positions"], wanted)
    expect = rows(whole)[[position - 1 for position in wanted]]
    assert np.array_equal(rows(some), expect.astype(np.float16))
    request = urllib.request.Request(BASE_URL + "/completions", json.dumps(body).encode(),
                                     {"content-type": "application/json", "accept": "application/x-npy"})
    assert np.array_equal(np.load(io.BytesIO(urllib.request.urlopen(request).read())), rows(some))


