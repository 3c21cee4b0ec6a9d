#!/usr/bin/env python3
"""lm-evaluation-harness against a running Candor, held against llama-cpp-python with the rows paired right.

    CANDOR_URL=http://127.0.0.1:8000 CANDOR_MODEL=model.gguf tests/clients/lm_eval/check.py

CANDOR_MODEL is the file that the server serves. A JSON object a line says how each check went; figures go to stderr.
"""

import ctypes
import json
import math
import os
import re
import subprocess
import sys
import tempfile
import time
import traceback
import urllib.request
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[2]
SCRATCH = tempfile.TemporaryDirectory()
# The tasks are local: nothing is to be looked up, and nothing of an earlier run to be read.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_HOME"] = SCRATCH.name

import llama_cpp  # noqa: E402
import lm_eval  # noqa: E402
import numpy as np  # noqa: E402
from lm_eval.tasks import TaskManager  # noqa: E402

URL = os.environ["CANDOR_URL"].rstrip("/")
MODEL = os.environ["CANDOR_MODEL"]

CHOICES = ["local_facts", "local_letters", "local_tongues"]
TEXTS, ANSWERS = "local_texts", "local_answers"
# max_length of the harness, and a shorter one that cuts texts into windows.
LENGTH, SHORT_LENGTH = 2048, 130
# What the harness's gguf asks for, as it says nothing: the default of a completion.
GGUF_MAX_TOKENS = 16

# Two servers that compute the same rows differ by the rounding of f32 in the softmax: one step is 2e-6 at -20.
TOLERANCE = 1e-5


class Reference:
    """What llama-cpp-python's low-level interface computes for ids, each sequence evaluated on an empty context."""

    def __init__(self, path):
        # One thread: two that wait for each other take minutes on a busy machine. The numbers are the same.
        self.llama = llama_cpp.Llama(
            path, n_ctx=LENGTH, n_batch=512, logits_all=True, flash_attn=False, n_threads=1, n_threads_batch=1,
            verbose=False,
        )
        self.known = {}

    @property
    def adds_bos(self):
        return bool(self.llama._model.add_bos_token())

    @property
    def prefix(self):
        """What the harness puts before a text that nothing precedes: BOS, else EOS; also EOS if BOS has the id 0."""
        bos = self.llama.token_bos()
        return bos if bos > 0 else self.llama.token_eos()

    def tokenize(self, text, add_bos=False):
        return self.llama.tokenize(text.encode(), add_bos=add_bos, special=True)

    def written(self, ids):
        """The ids' text, control tokens as they are written."""
        return b"".join(self.piece(token) for token in ids).decode()

    def piece(self, token):
        buffer = ctypes.create_string_buffer(1024)
        size = llama_cpp.llama_token_to_piece(self.llama._model.vocab, token, buffer, len(buffer), 0, True)
        return buffer.raw[:size]

    def clear(self):
        self.llama.reset()
        self.llama._ctx.kv_cache_clear()

    def score(self, ids):
        """For each token its logprob, whether it is the likeliest, and its logprob in the row after the right one."""
        key = tuple(ids)
        if key not in self.known:
            self.clear()
            self.llama.eval(ids)
            rows = self.llama.logits_to_logprobs(self.llama._scores)
            right, greedy, shifted = [None], [None], [None]
            for place in range(1, len(ids)):
                row = rows[place - 1]
                right.append(float(row[ids[place]]))
                greedy.append(int(row.argmax()) == ids[place])
                shifted.append(float(rows[place][ids[place]]))
            self.known[key] = right, greedy, shifted
        return self.known[key]

    def complete(self, prompt, max_tokens, stop):
        self.clear()
        answer = self.llama.create_completion(prompt, max_tokens=max_tokens, stop=stop, temperature=0)
        return answer["choices"][0]["text"]

    def chat(self, messages, max_tokens, stop):
        self.clear()
        answer = self.llama.create_chat_completion(messages, max_tokens=max_tokens, stop=stop, temperature=0)
        return answer["choices"][0]["message"]["content"]


class Score:
    """A loglikelihood by the reference, and by the reference with its rows shifted by one."""

    def __init__(self, reference, sequences):
        parts = [(reference.score(ids), count) for ids, count in sequences]
        self.tokens = sum(count for _, count in parts)
        self.right = sum(sum(right[-count:]) for (right, _, _), count in parts)
        self.shifted = sum(sum(shifted[-count:]) for (_, _, shifted), count in parts)
        self.greedy = all(all(greedy[-count:]) for (_, greedy, _), count in parts)

    @property
    def bound(self):
        return TOLERANCE * self.tokens


# How each of the harness's models makes ids of what it scores: sequences of ids, each with the number of ids at its end
# that count. Written anew here, so that a mistake there shows.


def gguf_sequences(reference, context, continuation):
    """The text whole; what counts are the tokens that lie in the continuation."""
    ids = reference.tokenize(context + continuation, add_bos=reference.adds_bos)
    count, left = 0, len(continuation.encode())
    while left >= len(reference.piece(ids[-1 - count])):
        left -= len(reference.piece(ids[-1 - count]))
        count += 1
    return [(ids, count)]


def ids_sequences(reference, context, continuation):
    """The context's tokens, and those of the whole text that are beyond their number. No BOS."""
    before = reference.tokenize(context)
    after = reference.tokenize(context + continuation)[len(before) :]
    return [(before + after, len(after))]


def string_sequences(reference, context, continuation):
    """The same, written out as text, and made tokens of by the server."""
    return [retold(reference, *ids_sequences(reference, context, continuation)[0])]


def ids_windows(reference, text, max_length):
    """A text in windows of max_length - 2 tokens; each starts with the token before it, the first with BOS or EOS."""
    tokens = [reference.prefix] + reference.tokenize(text)
    size = max_length - 2
    windows = []
    for start in range(1, len(tokens), size):
        end = min(start + size, len(tokens))
        windows.append((tokens[max(end - size - 1, 0) : end], end - start))
    return windows


def string_windows(reference, text, max_length):
    """The same as text. A BOS at its start has no entry in the answer, and the harness counts one: it takes the entry
    of the text's second token for that of the first, and loses the first (docs/lm-evaluation-harness.md)."""
    windows = [retold(reference, ids, count) for ids, count in ids_windows(reference, text, max_length)]
    if reference.prefix == reference.llama.token_bos():
        ids, count = windows[0]
        windows[0] = ids, count - 1
    return windows


def retold(reference, ids, count):
    told = reference.tokenize(reference.written(ids), add_bos=reference.adds_bos)
    assert told[-count:] == ids[-count:], "the text's tokens are others than those it was made of"
    return told, count


def harness(kind, tasks, **model_args):
    """Runs the harness with a kind of model as its command does, and says what it took."""
    batch_size = model_args.pop("batch_size", 1)
    start = time.monotonic()
    results = lm_eval.simple_evaluate(
        model=kind,
        model_args=model_args,
        tasks=tasks,
        batch_size=batch_size,
        task_manager=TaskManager(include_path=str(HERE / "tasks")),
        apply_chat_template=kind == "local-chat-completions",
        bootstrap_iters=0,
    )
    seconds = time.monotonic() - start
    print(f"{kind} {model_args} {tasks}: {seconds:.1f} s", file=sys.stderr)
    return results


def completions(tasks, **model_args):
    return harness("local-completions", tasks, model=name(), base_url=f"{URL}/v1/completions",
                   tokenizer_backend="remote", **model_args)


def gguf_command(tasks, out):
    """The harness's command in a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "lm_eval", "run", "--model", "gguf", "--model_args", f"base_url={URL}",
         "--include_path", str(HERE / "tasks"), "--tasks", ",".join(tasks), "--log_samples", "--output_path", out],
        stdout=sys.stderr,
    )


def samples_written(out, task):
    """What the harness's command wrote of a task, in the shape that answers() has."""
    (path,) = Path(out).glob(f"*/samples_{task}_*.jsonl")
    samples = [json.loads(line) for line in path.read_text().splitlines()]
    samples.sort(key=lambda sample: sample["doc_id"])
    return [[as_answer(resps[0]) for resps in sample["resps"]] for sample in samples]


def as_answer(value):
    """A pair as the harness has it; its files hold what they could not write as numbers as text."""
    logprob, greedy = value
    return float(logprob), greedy in (True, "True")


def name():
    with urllib.request.urlopen(f"{URL}/v1/models") as answer:
        return json.load(answer)["data"][0]["id"]


def prompt_tokens():
    """The counters of prompt tokens, by where they came from."""
    with urllib.request.urlopen(f"{URL}/metrics") as answer:
        text = answer.read().decode()
    found = re.findall(r'^candor_prompt_tokens_total{source="(\w+)"} (\d+)', text, re.M)
    return {source: int(value) for source, value in found}


def samples(results, task):
    return sorted(results["samples"][task], key=lambda sample: sample["doc_id"])


def answers(results, task):
    return [[resps[0] for resps in sample["resps"]] for sample in samples(results, task)]


def hold(condition, message):
    if not condition:
        raise AssertionError(message)


def hold_near(what, got, score):
    off = abs(got - score.right)
    hold(off <= score.bound, f"{what}: {got} is not {score.right}: off by {off:.2e}, allowed {score.bound:.0e}")
    hold(abs(got - score.shifted) > score.bound, f"{what}: {got} is what rows shifted by one give, too")
    return off / score.tokens


def hold_metric(results, task, metric, expected):
    got = results["results"][task][f"{metric},none"]
    hold(math.isclose(got, expected, rel_tol=2 * TOLERANCE), f"{task}: {metric} is {got}, not {expected}")
    print(f"{task} {metric} {got:.4f}", file=sys.stderr)


def hold_choices(reference, results, task, sequences):
    """Each answer's loglikelihood, whether it is greedy, and the accuracies."""
    worst, right, right_by_length, flags = 0, 0, 0, set()
    for sample, got in zip(samples(results, task), answers(results, task)):
        scores = [Score(reference, sequences(reference, *arguments)) for arguments in sample["arguments"]]
        for arguments, (logprob, greedy), score in zip(sample["arguments"], got, scores):
            worst = max(worst, hold_near(f"{task}: {arguments[1]!r}", logprob, score))
            hold(greedy == score.greedy, f"{task}: {arguments[1]!r} greedy: {greedy}, not {score.greedy}")
            flags.add(greedy)
        gold, choices = choices_of(task, sample["doc"])
        right += best([score.right for score in scores]) == gold
        right_by_length += best([score.right / len(choice) for score, choice in zip(scores, choices)]) == gold
    count = len(samples(results, task))
    hold_metric(results, task, "acc", right / count)
    if "acc_norm,none" in results["results"][task]:
        hold_metric(results, task, "acc_norm", right_by_length / count)
    print(f"{task}: furthest off {worst:.2e} a token; greedy: {flags}", file=sys.stderr)
    return flags


def choices_of(task, document):
    return document["answer"], document.get("choices", "ABCD")


def best(values):
    return int(np.argmax(values))


def hold_texts(reference, results, windows, max_length=LENGTH):
    """Each text's loglikelihood, and the perplexities."""
    worst, total, words, size = 0, 0, 0, 0
    for sample, (got,) in zip(samples(results, TEXTS), answers(results, TEXTS)):
        text = sample["doc"]["text"]
        score = Score(reference, windows(reference, text, max_length))
        worst = max(worst, hold_near(f"{TEXTS}: {text[:20]!r}", got, score))
        total += score.right
        words += len(re.split(r"\s+", text))
        size += len(text.encode())
    hold_metric(results, TEXTS, "word_perplexity", math.exp(-total / words))
    hold_metric(results, TEXTS, "byte_perplexity", math.exp(-total / size))
    hold_metric(results, TEXTS, "bits_per_byte", -total / size / math.log(2))
    print(f"{TEXTS}: furthest off {worst:.2e} a token", file=sys.stderr)


def hold_answers(results, expected):
    for sample, (got,) in zip(samples(results, ANSWERS), answers(results, ANSWERS)):
        prompt, settings = sample["arguments"][0]
        wanted = expected(prompt, settings)
        hold(got == wanted, f"{ANSWERS}: {got!r} is not {wanted!r}")


def hold_same(one, other, tasks, what):
    """Every bit of every loglikelihood."""
    for task in tasks:
        hold(one[task] == other[task], f"{task}: {what}: {one[task]} is not {other[task]}")


def all_answers(results, tasks):
    return {task: answers(results, task) for task in tasks}


class Checks:
    """The checks, in order; what one has run another may compare with."""

    def __init__(self):
        self.reference = Reference(MODEL)
        self.runs = {}

    def gguf_shares_the_examples(self):
        """Of every prompt but the first, the examples are there already."""
        before = prompt_tokens()
        self.runs["gguf facts"] = harness("gguf", ["local_facts"], base_url=URL)
        after = prompt_tokens()
        cached = after["cached"] - before["cached"]
        prompts = [
            gguf_sequences(self.reference, *arguments)[0][0]
            for sample in samples(self.runs["gguf facts"], "local_facts")
            for arguments in sample["arguments"]
        ]
        # Eight tokens at a time are taken over.
        shared = len(os.path.commonprefix(prompts)) // 8 * 8
        least = shared * (len(prompts) - 1)
        print(f"{len(prompts)} prompts, {sum(map(len, prompts))} tokens, {cached} cached", file=sys.stderr)
        hold(shared > 0 and cached >= least, f"{cached} tokens were cached, of {least} that prompts have in common")

    def gguf_scores(self):
        results = self.runs["gguf facts"]
        flags = hold_choices(self.reference, results, "local_facts", gguf_sequences)
        rest = CHOICES[1:]
        others = self.runs["gguf"] = harness("gguf", rest, base_url=URL)
        for task in rest:
            flags |= hold_choices(self.reference, others, task, gguf_sequences)
        hold(flags == {True, False}, "all answers are greedy, or none is: the tasks do not tell")

    def gguf_generates(self):
        results = harness("gguf", [ANSWERS], base_url=URL)
        hold_answers(
            results,
            lambda prompt, settings: self.reference.complete(prompt, GGUF_MAX_TOKENS, settings["until"]).strip(),
        )

    def completions_by_ids(self):
        results = self.runs["ids"] = completions([*CHOICES, TEXTS], batch_size=8)
        for task in CHOICES:
            hold_choices(self.reference, results, task, ids_sequences)
        hold_texts(self.reference, results, ids_windows)

    def completions_by_strings(self):
        results = completions([*CHOICES, TEXTS], batch_size=4, tokenized_requests=False)
        for task in CHOICES:
            hold_choices(self.reference, results, task, string_sequences)
        hold_texts(self.reference, results, string_windows)

    def completions_in_windows(self):
        results = completions([TEXTS], batch_size=8, max_length=SHORT_LENGTH)
        hold_texts(self.reference, results, ids_windows, SHORT_LENGTH)

    def completions_generates(self):
        results = completions([ANSWERS], batch_size=4)
        hold_answers(
            results,
            lambda prompt, settings: self.reference.complete(
                self.reference.tokenize(prompt), settings["max_gen_toks"], settings["until"]
            ),
        )

    def chat_generates(self):
        results = harness("local-chat-completions", [ANSWERS], model=name(), base_url=f"{URL}/v1/chat/completions")
        hold_answers(
            results,
            lambda messages, settings: self.reference.chat(
                json.loads(messages[0]), settings["max_gen_toks"], settings["until"]
            ),
        )

    def same_bits_when_busy(self):
        """Again, eight requests at a time, beside another harness."""
        with tempfile.TemporaryDirectory() as out:
            beside = gguf_command(CHOICES, out)
            busy = completions([*CHOICES, TEXTS], num_concurrent=8)
            hold(beside.wait() == 0, "the harness's command failed")
            again = {task: samples_written(out, task) for task in CHOICES}
        tasks = [*CHOICES, TEXTS]
        hold_same(all_answers(busy, tasks), all_answers(self.runs["ids"], tasks), tasks, "local-completions, busy")
        first = all_answers(self.runs["gguf facts"], CHOICES[:1]) | all_answers(self.runs["gguf"], CHOICES[1:])
        hold_same(again, first, CHOICES, "gguf, busy")

    def same_bits_by_both(self):
        """Where no BOS is added, both models send the same tokens."""
        first = all_answers(self.runs["gguf facts"], CHOICES[:1]) | all_answers(self.runs["gguf"], CHOICES[1:])
        hold_same(first, all_answers(self.runs["ids"], CHOICES), CHOICES, "gguf and local-completions")

    def shifted_rows_are_told(self):
        """The negative control: rows shifted by one, as a server might pair them, fail everywhere."""
        for task in CHOICES:
            for sample in samples(self.runs["ids"], task):
                for arguments in sample["arguments"]:
                    score = Score(self.reference, ids_sequences(self.reference, *arguments))
                    off = abs(score.shifted - score.right)
                    hold(off > 100 * score.bound, f"{task}: {arguments[1]!r}: shifted rows are off by {off:.2e} only")


def main():
    os.chdir(ROOT)  # The tasks name their files from here.
    checks = Checks()
    todo = [
        ("gguf: the examples that prompts share are evaluated once", checks.gguf_shares_the_examples),
        ("gguf: loglikelihoods, greedy flags and accuracies", checks.gguf_scores),
        ("gguf: generate_until", checks.gguf_generates),
        ("local-completions, batches of ids: scores and perplexities", checks.completions_by_ids),
        ("local-completions, strings: scores and perplexities", checks.completions_by_strings),
        ("local-completions: perplexity in windows", checks.completions_in_windows),
        ("local-completions: generate_until", checks.completions_generates),
        ("local-chat-completions: generate_until", checks.chat_generates),
        ("the same bits again, when busy", checks.same_bits_when_busy),
    ]
    if not checks.reference.adds_bos:
        todo.append(("gguf and local-completions: the same bits", checks.same_bits_by_both))
    todo.append(("rows shifted by one fail", checks.shifted_rows_are_told))
    for title, check in todo:
        try:
            check()
            why = ""
        except Exception as error:
            traceback.print_exc()
            why = f"{type(error).__name__}: {error}"[:2000]
        line = {"client": "lm-evaluation-harness", "version": f"lm_eval {lm_eval.__version__}", "check": title, "passed": not why}
        print(json.dumps(line | {"why": why}, ensure_ascii=False), flush=True)


if __name__ == "__main__":
    main()
