#!/usr/bin/env python3
"""Measures OpenAI-compatible completion servers side by side, and writes a table of ratios. Standard library only.

    bench.py --candor BINARY [--model GGUF] [--args "FLAGS OF candor serve"] [NAME=URL ...]
    bench.py candor=URL [NAME=URL ...]

With --candor the script starts and stops the server; other servers are given by URL. In each round the servers are
measured in turn, one at a time, after a warm-up round that does not count. The results are medians, and ratios of the
first server to the others. --tools DIR (with llama-bench, llama-batched-bench and llama-perplexity in it) also measures
"llama.cpp", the most that llama.cpp's own tools achieve on the machine. Writes OUT.md and OUT.json (--out).

Run nothing else at the same time: llama.cpp's threads spin at barriers, and a single busy process ruins a figure.
"""

import argparse
import concurrent.futures
import json
import os
import platform
import random
import re
import shlex
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request

WORDS = (
    "river stone lantern winter market bridge copper violet engine harbour orchard pepper saddle thunder willow "
    "anchor barrel candle desert ember feather garden hammer island jacket kettle ladder meadow needle olive"
).split()


def text(words, seed):
    chosen = random.Random(seed)
    return "The " + " ".join(chosen.choice(WORDS) + ("." if i % 11 == 10 else "") for i in range(words))


def salt(count=[0]):
    """Different for each request of each run, so that no server finds the prompt in its cache."""
    count[0] += 1
    return f"[{os.getpid()}-{count[0]}] "


def request(url, body):
    data = json.dumps(body).encode()
    return urllib.request.Request(url + "/v1/completions", data, {"content-type": "application/json"})


def post(url, body):
    with urllib.request.urlopen(request(url, body), timeout=900) as answer:
        return json.load(answer)


def stream(url, body):
    """Seconds from the request to each chunk with a token."""
    begun, times = time.perf_counter(), []
    with urllib.request.urlopen(request(url, body | {"stream": True}), timeout=900) as answer:
        for line in answer:
            if line.startswith(b"data: {") and json.loads(line[6:])["choices"][0].get("finish_reason") is None:
                times.append(time.perf_counter() - begun)
    return times


def rate(work):
    """What `work` counts, per second."""
    begun = time.perf_counter()
    count = work()
    return count / (time.perf_counter() - begun)


def at_once(clients, work, items):
    with concurrent.futures.ThreadPoolExecutor(clients) as pool:
        return list(pool.map(work, items))


STORY = "Write a very long story about a sailor and the sea.\nOnce upon a time"


def one_client(url, logprobs=5, tokens=128):
    body = dict(prompt=salt() + STORY, max_tokens=tokens, temperature=0.8, seed=3)
    if logprobs is not None:
        body["logprobs"] = logprobs
    return rate(lambda: post(url, body)["usage"]["completion_tokens"])


def clients(count, tokens):
    def run(url):
        def one(i):
            prompt = salt() + text(20, i) + "\nA long story:"
            body = dict(prompt=prompt, max_tokens=tokens, temperature=0.8, seed=i + 1, logprobs=5)
            return post(url, body)["usage"]["completion_tokens"]

        return rate(lambda: sum(at_once(count, one, range(count))))

    return run


def scored(url, prompt):
    answer = post(url, dict(prompt=prompt, max_tokens=1, temperature=0, logprobs=1, echo=True))
    arrays = answer["choices"][0]["logprobs"]
    if len((arrays.get("token_logprobs") or arrays.get("content"))) < 300:
        raise RuntimeError("no prompt logprobs came back")
    return answer["usage"]["prompt_tokens"]


def unrelated(i):
    return text(350, 500 + i)


def scoring_unrelated(url):
    return rate(lambda: sum(at_once(2, lambda i: scored(url, salt() + unrelated(i)), range(6))))


def scoring_stem(url, cached=True):
    stem = salt() + text(420, 1)

    def one(i):
        question = "\nQuestion: " + text(8, 1000 + i) + "\nAnswer: " + WORDS[i % len(WORDS)]
        # The salt in front leaves nothing in common.
        scored(url, (stem if cached else salt() + stem) + question)
        return 1

    count = 24 if cached else 8
    return rate(lambda: sum(at_once(4, one, range(count))))


def long_prompt(url, words=1000):
    body = dict(prompt=salt() + text(words, 7), max_tokens=1, temperature=0)
    return rate(lambda: post(url, body)["usage"]["prompt_tokens"])


def choices(url):
    prompt = salt() + text(420, 2) + "\nOnce upon a time"

    def run():
        body = dict(prompt=prompt, max_tokens=32, temperature=1.0, seed=5, n=8, logprobs=1)
        answer = post(url, body)
        made = answer["usage"]["completion_tokens"]
        if len(answer["choices"]) < 8:
            # A server that does not know `n` is asked eight times.
            more = [body | dict(n=1, seed=6 + i) for i in range(7)]
            made += sum(at_once(8, lambda body: post(url, body)["usage"]["completion_tokens"], more))
        return made

    return rate(run)


def busy_core(url):
    """One client, while another process keeps a core busy."""
    other = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        time.sleep(0.5)
        return one_client(url)
    finally:
        other.kill()
        other.wait()


SCENARIOS = {
    "S1": ("one client, 128 tokens, logprobs=5", "tokens/s", one_client),
    "S6": ("one client, 128 tokens, no logprobs", "tokens/s", lambda url: one_client(url, None)),
    "S2": ("16 clients, 64 tokens, logprobs=5", "tokens/s", clients(16, 64)),
    "S2b": ("2 clients, 128 tokens, logprobs=5", "tokens/s", clients(2, 128)),
    "S2c": ("4 clients, 128 tokens, logprobs=5", "tokens/s", clients(4, 128)),
    "S3": ("scoring 24 prompts with a stem of 600 tokens, echo", "prompts/s", scoring_stem),
    "S3w": ("the same with nothing in common", "prompts/s", lambda url: scoring_stem(url, cached=False)),
    "S3c": ("scoring 6 unrelated prompts of 500 tokens, echo", "prompt tokens/s", scoring_unrelated),
    "S4": ("a cold prompt of 1,400 tokens, one token", "prompt tokens/s", long_prompt),
    "S5": ("n=8 of 32 tokens from a prompt of 600", "tokens/s", choices),
    "B": ("S1 while another process keeps a core busy", "tokens/s", busy_core),
}


class Tools:
    """llama.cpp's own tools, with one thread for each core and flash attention off."""

    def __init__(self, directory, model):
        self.directory, self.model = directory, model
        self.threads = str(len(os.sched_getaffinity(0)))

    def run(self, tool, *arguments):
        command = [os.path.join(self.directory, tool), "-m", self.model, "-t", self.threads, *map(str, arguments)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        return done.stdout + done.stderr

    def bench(self, prompt, generate):
        out = self.run("llama-bench", "-p", prompt, "-n", generate, "-r", 1, "-fa", 0, "-o", "json")
        return json.loads(out[out.index("[") : out.rindex("]") + 1])[-1]["avg_ts"]

    def batched(self, prompt, generate, sequences, *more):
        """Seconds for the prompts and their continuations."""
        room = (prompt + generate) * sequences + 512
        out = self.run(
            "llama-batched-bench", "-fa", "off", "-c", room, "-npp", prompt, "-ntg", generate, "-npl", sequences, *more
        )
        rows = [line.strip("| \n").split("|") for line in out.splitlines() if re.match(r"\|\s+\d", line)]
        return float(rows[-1][-2])

    def perplexity(self):
        with tempfile.NamedTemporaryFile("w", suffix=".txt") as file:
            file.write("\n".join(unrelated(i) for i in range(6)))
            file.flush()
            out = self.run("llama-perplexity", "-f", file.name, "-fa", "off", "-c", 512, "-b", 512)
        return 512 / float(re.search(r"([\d.]+) seconds per pass", out).group(1))

    def measure(self, scenario):
        match scenario:
            case "S1" | "S6":
                return self.bench(0, 128)
            case "S2":
                return 16 * 64 / self.batched(50, 64, 16)
            case "S2b":
                return 2 * 128 / self.batched(50, 128, 2)
            case "S2c":
                return 4 * 128 / self.batched(50, 128, 4)
            case "S3c":
                return self.perplexity()
            case "S4":
                return self.bench(1400, 0)
            case "S5":
                return 8 * 32 / self.batched(600, 32, 8, "-pps")
        return None


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


class Candor:
    """A server of ours, started and ended here."""

    def __init__(self, binary, model, arguments=()):
        self.url = f"http://127.0.0.1:{free_port()}"
        command = [binary, "serve", "--port", self.url.rsplit(":", 1)[1], *arguments]
        if model:
            command += ["--model", model]
        self.log = tempfile.TemporaryFile("w+")
        self.process = subprocess.Popen(command, stderr=self.log)
        while True:
            try:
                urllib.request.urlopen(self.url + "/health").close()
                return
            except (urllib.error.URLError, ConnectionError):
                if self.process.poll() is not None:
                    self.log.seek(0)
                    sys.exit(f"the server ended:\n{self.log.read()}")
                time.sleep(0.05)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.terminate()
        self.process.wait()


def memory(pid):
    """MiB resident now, and at most so far."""
    with open(f"/proc/{pid}/status") as status:
        fields = dict(line.split(":", 1) for line in status if ":" in line)
    return {name: int(fields[name].split()[0]) // 1024 for name in ("VmRSS", "VmHWM")}


def compare(servers, tools, names, rounds):
    """Medians: scenario → server → figure."""
    medians = {}
    for name in names:
        title, unit, measure = SCENARIOS[name]
        figures = {server: [] for server in [*servers, *(["llama.cpp"] if tools else [])]}
        for turn in range(rounds + 1):
            for server in figures:
                try:
                    figure = tools.measure(name) if server == "llama.cpp" else measure(servers[server])
                except Exception as error:  # A server that cannot do it has no figure.
                    if turn == 0:
                        print(f"  {name}: {server}: {type(error).__name__}: {error}", file=sys.stderr)
                    figure = None
                if turn and figure:
                    figures[server].append(figure)
        medians[name] = {server: statistics.median(all) for server, all in figures.items() if all}
        print(name, title, {server: round(figure, 2) for server, figure in medians[name].items()}, unit, file=sys.stderr)
    return medians


def latency(url, long_words, rounds):
    """While a long prompt is evaluated: seconds to the first token of a short request, and between the tokens of a
    stream that was there before."""
    firsts, gaps = [], []
    for _ in range(rounds):
        times = []
        body = dict(prompt=salt() + STORY, max_tokens=1500, temperature=0.8, seed=1)
        streaming = threading.Thread(target=lambda: times.extend(stream(url, body)))
        begun = time.perf_counter()
        streaming.start()
        time.sleep(1.0)
        since = time.perf_counter() - begun
        span = []

        def evaluate():
            start = time.perf_counter()
            post(url, dict(prompt=salt() + text(long_words, 3), max_tokens=1))
            span.append(time.perf_counter() - start)

        evaluating = threading.Thread(target=evaluate)
        evaluating.start()
        time.sleep(0.3)
        for _ in range(3):
            if evaluating.is_alive():
                firsts.append(stream(url, dict(prompt=salt() + "Hello, my name is", max_tokens=4))[0])
        evaluating.join()
        until = since + span[0]
        streaming.join()
        gaps += [b - a for a, b in zip(times, times[1:]) if since < a < until]
    gaps.sort()
    return {
        "ttft_s": statistics.median(firsts),
        "ttft_max_s": max(firsts),
        "gap_p50_s": statistics.median(gaps) if gaps else None,
        "gap_p99_s": gaps[int(len(gaps) * 0.99)] if gaps else None,
        "prompt_s": span[0],
    }


def growth(binary, model, arguments):
    """How cost grows: tokens/s against clients, prompt tokens/s against length."""
    grown = {"clients": {}, "prompt": {}}
    with Candor(binary, model, ["--parallel-sequences", "64", "--context-length", "256", *arguments]) as server:
        for count in (1, 2, 4, 8, 16, 32, 64):
            clients(count, 16)(server.url)
            grown["clients"][count] = statistics.median(clients(count, 64)(server.url) for _ in range(3))
    with Candor(binary, model, ["--parallel-sequences", "2", "--context-length", "9000", *arguments]) as server:
        for words in (45, 180, 730, 2900, 5700):
            body = dict(prompt=salt() + text(words, 7), max_tokens=1)
            tokens = post(server.url, body)["usage"]["prompt_tokens"]
            grown["prompt"][tokens] = statistics.median(long_prompt(server.url, words) for _ in range(3))
    return grown


def machine():
    try:
        with open("/proc/cpuinfo") as info:
            cpu = next(line.split(":", 1)[1].strip() for line in info if line.startswith("model name"))
    except (OSError, StopIteration):
        cpu = platform.processor()
    return f"{cpu}, {len(os.sched_getaffinity(0))} cores, {platform.system()} {platform.machine()}"


def markdown(result):
    lines = [f"{result['machine']}; {result['model']}; {result['settings']}; medians of {result['rounds']} rounds.", ""]
    if result.get("compared"):
        servers = list(dict.fromkeys(server for row in result["compared"].values() for server in row))
        first, others = servers[0], servers[1:]
        lines.append(f"| | work | unit | {first} |" + "".join(f" {o} | × |" for o in others))
        lines.append("|---|---|---|---:|" + "---:|---:|" * len(others))
        for name, row in result["compared"].items():
            title, unit, _ = SCENARIOS[name]
            cells = [f"{row[first]:.1f}" if first in row else "–"]
            for other in others:
                known = other in row and first in row
                cells += [f"{row[other]:.1f}" if other in row else "–", f"{row[first] / row[other]:.2f}" if known else "–"]
            lines.append(f"| {name} | {title} | {unit} | " + " | ".join(cells) + " |")
        lines.append("")
    for server, figures in result.get("memory", {}).items():
        lines.append(f"Memory of {server}: {figures['VmRSS']} MiB resident, {figures['VmHWM']} MiB at most.")
    for server, figures in result.get("latency", {}).items():
        measured = ", ".join(f"{name} {value:.3f}" for name, value in figures.items() if value is not None)
        lines.append(f"While a long prompt is evaluated, {server}: {measured}.")
    if grown := result.get("growth"):
        lines += ["", "| clients | tokens/s |", "|---:|---:|"]
        lines += [f"| {count} | {figure:.0f} |" for count, figure in grown["clients"].items()]
        lines += ["", "| tokens of a prompt | prompt tokens/s |", "|---:|---:|"]
        lines += [f"| {count} | {figure:.0f} |" for count, figure in grown["prompt"].items()]
    return "\n".join(lines) + "\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("servers", nargs="*", metavar="NAME=URL")
    parser.add_argument("--candor", metavar="BINARY", help="start this server, with its default settings")
    parser.add_argument("--model", help="GGUF file, for --candor (default: its default model) and --tools")
    parser.add_argument("--args", default="", help="further flags of `candor serve`")
    parser.add_argument("--tools", metavar="DIR", help="directory of llama.cpp's tools")
    parser.add_argument("--only", default=",".join(SCENARIOS), help="scenarios, separated by commas; empty: none")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--latency", type=int, metavar="WORDS", help="measure latency during a prompt of this length")
    parser.add_argument("--growth", action="store_true", help="measure how cost grows (needs --candor)")
    parser.add_argument("--pid", action="append", default=[], metavar="NAME=PID", help="report this process's memory")
    parser.add_argument("--out", default="bench", help="path of the results, without extension")
    options = parser.parse_args()
    arguments = shlex.split(options.args)
    servers = dict(server.split("=", 1) for server in options.servers)
    ours = Candor(options.candor, options.model, arguments) if options.candor else None
    if ours:
        servers = {"candor": ours.url} | servers
    if not servers:
        parser.error("no server: give --candor BINARY or NAME=URL")
    tools = Tools(options.tools, options.model) if options.tools else None
    if tools and not options.model:
        parser.error("--tools needs --model")
    first = next(iter(servers.values()))
    probe = post(first, dict(prompt="Hello", max_tokens=1))
    result = dict(
        machine=machine(),
        model=probe["model"],
        settings=f"{probe.get('system_fingerprint')} {options.args}".strip(),
        rounds=options.rounds,
    )
    names = [name for name in options.only.split(",") if name]
    if names:
        result["compared"] = compare(servers, tools, names, options.rounds)
    if options.latency:
        result["latency"] = {name: latency(url, options.latency, options.rounds) for name, url in servers.items()}
    pids = dict(pid.split("=", 1) for pid in options.pid) | ({"candor": ours.process.pid} if ours else {})
    result["memory"] = {name: memory(pid) for name, pid in pids.items()}
    if ours:
        ours.__exit__()
        if options.growth:
            result["growth"] = growth(options.candor, options.model, arguments)
    with open(options.out + ".json", "w") as file:
        json.dump(result, file, indent=1)
    table = markdown(result)
    with open(options.out + ".md", "w") as file:
        file.write(table)
    print(table)


if __name__ == "__main__":
    main()
