#!/usr/bin/env python3
"""Compares `candor batch` with clients that send the same requests themselves. Standard library only.

    batch-bench.py --candor BINARY [--model SOURCE] [--prompts 2000] [--stems 50] [--args "FLAGS OF THE SERVER"]

The prompts are questions after one of several stems, in random order; each is scored with `echo`, as
lm-evaluation-harness does. They are sent, each time to a server that has just started,

- by `candor batch`, to one server and to two,
- by 16 clients, stem after stem,
- by 8 clients in random order, as the harness with num_concurrent=8 does,
- by 1 client in random order, as the harness does by default.

The table has the time, the prompt tokens per second, and how many prompt tokens were evaluated. --only names some of them.
"""

import argparse
import contextlib
import http.client
import json
import pathlib
import random
import shlex
import subprocess
import tempfile
import threading
import time
import urllib.parse
import urllib.request

import rig

WORDS = "the keeper of light wrote down every ship and storm that passed his rock in a book with a blue cover".split()


def make_prompts(count, stems, stem_words, draw):
    def text(words):
        return " ".join(draw.choice(WORDS) for _ in range(words))

    stems = [f"{number}. {text(stem_words)}" for number in range(stems)]
    return [f"{stems[number % len(stems)]}\nQuestion {number}: {text(8)}\nAnswer: yes" for number in range(count)]


def body_of(prompt):
    return {"prompt": prompt, "max_tokens": 1, "temperature": 0, "echo": True, "logprobs": 1}


def evaluated(url):
    """Prompt tokens that the server has evaluated, and all."""
    with urllib.request.urlopen(f"{url}/metrics") as answer:
        lines = answer.read().decode().splitlines()
    count = {"evaluated": 0, "cached": 0}
    for line in lines:
        for source in count:
            if line.startswith("candor_prompt_tokens_total") and f'"{source}"' in line:
                count[source] += int(line.split()[-1])
    return count["evaluated"], sum(count.values())


def by_clients(url, prompts, clients):
    """Each client sends the next prompt when it has its answer."""
    address = urllib.parse.urlsplit(url).netloc
    waiting, lock = iter(prompts), threading.Lock()

    def run():
        connection = http.client.HTTPConnection(address)
        while True:
            with lock:
                prompt = next(waiting, None)
            if prompt is None:
                return
            headers = {"content-type": "application/json"}
            connection.request("POST", "/v1/completions", json.dumps(body_of(prompt)), headers)
            answer = connection.getresponse()
            answer.read()
            assert answer.status == 200, answer.status

    threads = [threading.Thread(target=run) for _ in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def by_batch(candor, urls, prompts):
    with tempfile.TemporaryDirectory() as folder:
        source, target = pathlib.Path(folder) / "in.jsonl", pathlib.Path(folder) / "out.jsonl"
        with open(source, "w", encoding="utf-8") as lines:
            for number, prompt in enumerate(prompts):
                line = {"custom_id": str(number), "method": "POST", "url": "/v1/completions", "body": body_of(prompt)}
                print(json.dumps(line), file=lines)
        flags = [part for url in urls for part in ("--url", url)]
        subprocess.run([candor, "batch", source, target, *flags], check=True, stdout=subprocess.DEVNULL)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--candor", required=True)
    parser.add_argument("--model", default="default")
    parser.add_argument("--prompts", type=int, default=2000)
    parser.add_argument("--stems", type=int, default=50)
    parser.add_argument("--stem-words", type=int, default=300)
    parser.add_argument("--args", default="", help="flags for the servers")
    parser.add_argument("--only", help="names of runs, with commas")
    options = parser.parse_args()
    draw = random.Random(1)
    ordered = sorted(
        make_prompts(options.prompts, options.stems, options.stem_words, draw),
        key=lambda prompt: int(prompt.split(".")[0]),
    )
    shuffled = draw.sample(ordered, len(ordered))
    runs = {
        "batch": (1, lambda urls: by_batch(options.candor, urls, shuffled)),
        "ordered-16": (1, lambda urls: by_clients(urls[0], ordered, 16)),
        "random-8": (1, lambda urls: by_clients(urls[0], shuffled, 8)),
        "random-1": (1, lambda urls: by_clients(urls[0], shuffled, 1)),
        "batch-two-servers": (2, lambda urls: by_batch(options.candor, urls, shuffled)),
    }
    flags = ["--model", options.model, *shlex.split(options.args)]
    print(f"{'':18} {'seconds':>8} {'tokens/s':>9} {'evaluated':>10} {'of':>9}", flush=True)
    for name in options.only.split(",") if options.only else runs:
        count, run = runs[name]
        with contextlib.ExitStack() as stack:
            urls = [stack.enter_context(rig.server(options.candor, *flags)) for _ in range(count)]
            before = [evaluated(url) for url in urls]
            start = time.monotonic()
            run(urls)
            seconds = time.monotonic() - start
            after = [evaluated(url) for url in urls]
        new, total = (sum(one[at] for one in after) - sum(one[at] for one in before) for at in (0, 1))
        print(f"{name:18} {seconds:8.1f} {total / seconds:9.0f} {new:10} {total:9}", flush=True)


if __name__ == "__main__":
    main()
