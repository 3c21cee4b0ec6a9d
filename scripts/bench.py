#!/usr/bin/env python3
"""Measures OpenAI-compatible completion servers side by side, and writes a table of ratios. Standard library only.

    bench.py --candor BINARY [--model GGUF] [--args "FLAGS OF candor serve"] [NAME=URL ...]
    bench.py candor=URL [NAME=URL ...]
    bench.py --bars --candor BINARY --tools DIR [--only Q-S2,M] [--model GGUF]

With --candor the script starts and stops the server; other servers are given by URL. In each round the servers are
measured in turn, one at a time, after a warm-up round that does not count. The results are medians, and ratios of the
first server to the others. --tools DIR (with llama-bench, llama-batched-bench and llama-perplexity in it) also measures
"llama.cpp", the most that llama.cpp's own tools achieve on the machine. Writes OUT.md and OUT.json (--out).

--bars measures what Candor is expected to reach with three models, which are downloaded: the table BARS in this file. It
starts all servers itself, Candor with the flags of each row and llama-server (in DIR, too), with equal numbers of
threads and without flash attention. No prompt is in a cache. While one server is measured, the others are stopped.

Run nothing else at the same time: llama.cpp's threads spin at barriers, and a single busy process ruins a figure.
"""

import argparse
import concurrent.futures
import contextlib
import dataclasses
import functools
import json
import os
import platform
import random
import re
import shlex
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path

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


def short_prompt(i):
    return salt() + text(20, i) + "\nA long story:"


def clients(count, tokens):
    def run(url):
        def one(i):
            body = dict(prompt=short_prompt(i), max_tokens=tokens, temperature=0.8, seed=i + 1, logprobs=5)
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


def prompt_tokens(url, prompt):
    return post(url, dict(prompt=prompt, max_tokens=1, temperature=0))["usage"]["prompt_tokens"]


def long_prompt(words=1000):
    return salt() + text(words, 7)


def evaluation(url, words=1000):
    return rate(lambda: prompt_tokens(url, long_prompt(words)))


def shared_prompt():
    return salt() + text(420, 2) + "\nOnce upon a time"


def choices(url):
    prompt = shared_prompt()

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


# The tokens of prompts are SmolLM2's. With a larger vocabulary the same text has fewer.
SCENARIOS = {
    "S1": ("one client, 128 tokens, logprobs=5", "tokens/s", one_client),
    "S6": ("one client, 128 tokens, no logprobs", "tokens/s", lambda url: one_client(url, None)),
    "S2": ("16 clients, 64 tokens, logprobs=5", "tokens/s", clients(16, 64)),
    "S2b": ("2 clients, 128 tokens, logprobs=5", "tokens/s", clients(2, 128)),
    "S2c": ("4 clients, 128 tokens, logprobs=5", "tokens/s", clients(4, 128)),
    "S3": ("scoring 24 prompts with a stem of 600 tokens, echo", "prompts/s", scoring_stem),
    "S3w": ("the same with nothing in common", "prompts/s", lambda url: scoring_stem(url, cached=False)),
    "S3c": ("scoring 6 unrelated prompts of 500 tokens, echo", "prompt tokens/s", scoring_unrelated),
    "S4": ("a cold prompt of 1,400 tokens, one token", "prompt tokens/s", evaluation),
    "S5": ("n=8 of 32 tokens from a prompt of 600", "tokens/s", choices),
    "B": ("S1 while another process keeps a core busy", "tokens/s", busy_core),
}


class Tools:
    """llama.cpp's own tools, with one thread for each core and flash attention off."""

    def __init__(self, directory, model):
        self.directory, self.model = directory, model
        self.threads = len(os.sched_getaffinity(0))

    def count(self, url):
        """A server of the same model says how many tokens the prompts of the scenarios have."""
        self.short, self.shared, self.long = (
            prompt_tokens(url, prompt) for prompt in (short_prompt(0), shared_prompt(), long_prompt())
        )

    def command(self, tool, *arguments):
        return [os.path.join(self.directory, tool), "-m", self.model, "-t", str(self.threads), *map(str, arguments)]

    def run(self, tool, *arguments):
        done = subprocess.run(self.command(tool, *arguments), capture_output=True, text=True, check=True)
        return done.stdout + done.stderr

    def server(self):
        return Server(self.command("llama-server", "-np", 16, "-c", 16384, "-kvu", "-fa", "off"))

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
                return 16 * 64 / self.batched(self.short, 64, 16)
            case "S2b":
                return 2 * 128 / self.batched(self.short, 128, 2)
            case "S2c":
                return 4 * 128 / self.batched(self.short, 128, 4)
            case "S3c":
                return self.perplexity()
            case "S4":
                return self.bench(self.long, 0)
            case "S5":
                return 8 * 32 / self.batched(self.shared, 32, 8, "-pps")
        return None


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


class Server:
    """A server that is started and ended here."""

    def __init__(self, command):
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        self.log = tempfile.TemporaryFile("w+")
        self.process = subprocess.Popen([*command, "--port", str(port)], stdout=self.log, stderr=self.log)
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
        self.process.send_signal(signal.SIGCONT)
        self.process.terminate()
        self.process.wait()

    def cpu_seconds(self):
        with open(f"/proc/{self.process.pid}/stat") as stat:
            # The name, in parentheses, may have spaces.
            fields = stat.read().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def pause(self):
        """Candor measures speeds and bits in idle moments; a stopped server leaves the cores to the others."""
        self.process.send_signal(signal.SIGSTOP)

    def resume(self):
        """Returns when the server has been idle for a second."""
        self.process.send_signal(signal.SIGCONT)
        for _ in range(300):
            before = self.cpu_seconds()
            time.sleep(1)
            if self.cpu_seconds() - before < 0.05:
                return
        print(f"  {self.process.args} is not idle", file=sys.stderr)


def candor(binary, model, arguments=()):
    return Server([binary, "serve", *arguments, *(["--model", model] if model else [])])


def memory(pid):
    """MiB resident now, and at most so far."""
    with open(f"/proc/{pid}/status") as status:
        fields = dict(line.split(":", 1) for line in status if ":" in line)
    return {name: int(fields[name].split()[0]) // 1024 for name in ("VmRSS", "VmHWM")}


def interleaved(measures, rounds):
    """Name → figures of all rounds. In each round everything is measured once, in turn; a warm-up does not count."""
    figures = {name: [] for name in measures}
    for turn in range(rounds + 1):
        for name, measure in measures.items():
            try:
                figure = measure()
            except Exception as error:  # A server that cannot do it has no figure.
                if turn == 0:
                    print(f"  {name}: {type(error).__name__}: {error}", file=sys.stderr)
                figure = None
            if turn and figure:
                figures[name].append(figure)
    return {name: all for name, all in figures.items() if all}


def compare(servers, tools, names, rounds):
    """Medians: scenario → server → figure."""
    medians = {}
    for name in names:
        title, unit, measure = SCENARIOS[name]
        measures = {server: functools.partial(measure, url) for server, url in servers.items()}
        if tools:
            measures["llama.cpp"] = functools.partial(tools.measure, name)
        figures = interleaved(measures, rounds)
        medians[name] = {server: statistics.median(all) for server, all in figures.items()}
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
    with candor(binary, model, ["--parallel-sequences", "64", "--context-length", "256", *arguments]) as server:
        for count in (1, 2, 4, 8, 16, 32, 64):
            clients(count, 16)(server.url)
            grown["clients"][count] = statistics.median(clients(count, 64)(server.url) for _ in range(3))
    with candor(binary, model, ["--parallel-sequences", "2", "--context-length", "9000", *arguments]) as server:
        for words in (45, 180, 730, 2900, 5700):
            tokens = prompt_tokens(server.url, long_prompt(words))
            grown["prompt"][tokens] = statistics.median(evaluation(server.url, words) for _ in range(3))
    return grown


EXACT, INVARIANT = "--mode exact", "--mode invariant"
# As many cells as llama-server has: 16 sequences of 1,024 tokens.
EQUAL_CELLS = EXACT + " --context-length 1024 --set engine.cache_lanes=0"
# "default", or a name that fetch-model.py knows.
SMALL, GEMMA, QWEN = "default", "gemma-3-270m", "qwen2.5-coder-1.5b"


@dataclasses.dataclass(frozen=True)
class Bar:
    """Candor's figure divided by another one is to be at least `least`; for memory, at most `most`."""

    name: str
    model: str
    scenario: str
    # Of `candor serve`.
    flags: str
    # "llama-server", "llama.cpp" (its tool for this scenario), or flags of `candor serve`.
    other: str
    # The other one's, if not the same.
    other_scenario: str = ""
    least: float = 0
    # What is compared is MiB resident after the scenario.
    most: float = 0

    def sides(self):
        return (self.flags, self.scenario), (self.other, self.other_scenario or self.scenario)


BARS = (
    Bar("Q-S2", QWEN, "S2", INVARIANT, "llama-server", least=1.6),
    Bar("Q-S2", QWEN, "S2", INVARIANT, "llama.cpp", least=0.92),
    Bar("Q-S2", QWEN, "S2", EXACT, "llama-server", least=1.0),
    Bar("M", QWEN, "S2", EXACT, "llama-server", most=0.9),
    Bar("M", QWEN, "S2", EQUAL_CELLS, "llama-server", most=0.9),
    Bar("Q-S1", QWEN, "S1", EXACT, "llama.cpp", least=1.05),
    Bar("Q-S4", QWEN, "S4", EXACT, "llama-server", least=1.02),
    Bar("Q-S5", QWEN, "S5", EXACT, "llama-server", least=5),
    Bar("Q-S3", QWEN, "S3", EXACT, EXACT, "S3w", least=10),
    # Without AMX: with it, exact mode shares decodes of up to 16 sequences, too.
    Bar("G-S2", GEMMA, "S2", INVARIANT, EXACT, least=1.5),
    Bar("S2c", SMALL, "S2c", EXACT, "llama-server", least=1.35),
)


def fetch(model, binary):
    """The path of the model, which is downloaded if it is not there."""
    tool = Path(__file__).with_name("fetch-model.py")
    command = [binary, "fetch", "default"] if model == SMALL else [tool, model]
    return subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout.split()[-1]


class Servers:
    """Of one model, started when they are first needed. Only the one being measured runs."""

    def __init__(self, binary, tools, arguments, ends):
        self.binary, self.tools, self.arguments, self.ends = binary, tools, arguments, ends
        self.started = {}
        # MiB after a scenario was run once. Later runs add to llama-server's cache of prompts.
        self.resident = {}

    def server(self, name):
        if name not in self.started:
            if name == "llama-server":
                server = self.tools.server()
            else:
                server = candor(self.binary, self.tools.model, [*shlex.split(name), *self.arguments])
            self.ends.enter_context(server)
            if not self.started:
                self.tools.count(server.url)
            server.pause()
            self.started[name] = server
        return self.started[name]

    def measure(self, side):
        name, scenario = side
        if name == "llama.cpp":
            return self.tools.measure(scenario)
        server = self.server(name)
        server.resume()
        try:
            return SCENARIOS[scenario][2](server.url)
        finally:
            server.pause()
            self.resident.setdefault(side, memory(server.process.pid)["VmRSS"])


def measure_bars(bars, options, arguments):
    """Yields a row for each bar, grouped by model and scenario."""
    for model in dict.fromkeys(bar.model for bar in bars):
        tools = Tools(options.tools, options.model or fetch(model, options.candor))
        with contextlib.ExitStack() as ends:
            servers = Servers(options.candor, tools, arguments, ends)
            for scenario in dict.fromkeys(bar.scenario for bar in bars if bar.model == model):
                group = [bar for bar in bars if (bar.model, bar.scenario) == (model, scenario)]
                sides = dict.fromkeys(side for bar in group for side in bar.sides())
                # The warm-up is enough for memory.
                rounds = options.rounds if any(bar.least for bar in group) else 0
                figures = interleaved({side: functools.partial(servers.measure, side) for side in sides}, rounds)
                for bar in group:
                    if bar.most:
                        ours, others = ([servers.resident[side]] for side in bar.sides())
                    else:
                        ours, others = (figures.get(side, []) for side in bar.sides())
                    yield bar_row(bar, os.path.basename(tools.model), ours, others)


def bar_row(bar, model, ours, others):
    title, unit, _ = SCENARIOS[bar.scenario]
    ratio = statistics.median(ours) / statistics.median(others) if ours and others else None
    met = ratio is not None and (ratio <= bar.most if bar.most else ratio >= bar.least)
    return dict(
        name=bar.name,
        model=model,
        work=f"resident after {title}" if bar.most else title,
        unit="MiB" if bar.most else unit,
        flags=f"`{bar.flags}`",
        candor=ours,
        other=SCENARIOS[bar.other_scenario][0] if bar.other_scenario else f"`{bar.other}`",
        compared=others,
        ratio=ratio,
        bar=f"≤ {bar.most}" if bar.most else f"≥ {bar.least}",
        met=met,
    )


def bars_table(rows):
    def median(figures):
        return f"{statistics.median(figures):.1f}" if figures else "–"

    yield "| | model | work | unit | Candor with | | compared with | | × | bar | met |"
    yield "|---|---|---|---|---|---:|---|---:|---:|---:|---|"
    for row in rows:
        cells = [row["name"], row["model"], row["work"], row["unit"], row["flags"], median(row["candor"])]
        cells += [row["other"], median(row["compared"]), f"{row['ratio']:.2f}" if row["ratio"] else "–"]
        cells += [row["bar"], "yes" if row["met"] else "no"]
        yield "| " + " | ".join(cells) + " |"


def machine():
    try:
        with open("/proc/cpuinfo") as info:
            fields = dict(line.split(":", 1) for line in info if ":" in line)
        fields = {name.strip(): value.strip() for name, value in fields.items()}
        # What llama.cpp multiplies with.
        widest = [name for name in ("amx_int8", "avx512f", "avx2") if name in fields.get("flags", "").split()]
        cpu = " with ".join([fields["model name"], *widest[:1]])
    except (OSError, KeyError):
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


def save(out, result, table):
    with open(out + ".json", "w") as file:
        json.dump(result, file, indent=1)
    with open(out + ".md", "w") as file:
        file.write(table)


def check_bars(options, arguments):
    chosen = BARS if options.only is None else [bar for bar in BARS if bar.name in options.only.split(",")]
    head = f"{machine()}; {options.args or 'no further flags'}; medians of {options.rounds} rounds.\n\n"
    rows, table = [], head
    for row in measure_bars(chosen, options, arguments):
        rows.append(row)
        table = head + "\n".join(bars_table(rows)) + "\n"
        # Each time: all of it takes the better part of an hour.
        save(options.out, dict(machine=machine(), settings=options.args, rounds=options.rounds, bars=rows), table)
        print(row["name"], row["work"], row["candor"], row["other"], row["compared"], row["unit"], file=sys.stderr)
    print(table)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("servers", nargs="*", metavar="NAME=URL")
    parser.add_argument("--candor", metavar="BINARY", help="start this server, with its default settings")
    parser.add_argument(
        "--model", help="GGUF file, for --candor (default: its default model) and --tools; with --bars for all rows"
    )
    parser.add_argument("--args", default="", help="further flags of `candor serve`")
    parser.add_argument("--tools", metavar="DIR", help="directory of llama.cpp's tools")
    parser.add_argument("--only", help="scenarios (with --bars: rows), separated by commas; empty: none; default: all")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--bars", action="store_true", help="compare with what is expected; needs --candor and --tools")
    parser.add_argument("--latency", type=int, metavar="WORDS", help="measure latency during a prompt of this length")
    parser.add_argument("--growth", action="store_true", help="measure how cost grows (needs --candor)")
    parser.add_argument("--pid", action="append", default=[], metavar="NAME=PID", help="report this process's memory")
    parser.add_argument("--out", default="bench", help="path of the results, without extension")
    options = parser.parse_args()
    # Servers end with the script, stopped ones too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    arguments = shlex.split(options.args)
    if options.bars:
        if not (options.candor and options.tools) or options.servers:
            parser.error("--bars needs --candor and --tools, and starts all servers itself")
        return check_bars(options, arguments)
    servers = dict(server.split("=", 1) for server in options.servers)
    ours = candor(options.candor, options.model, arguments) if options.candor else None
    if ours:
        servers = {"candor": ours.url} | servers
    if not servers:
        parser.error("no server: give --candor BINARY or NAME=URL")
    tools = Tools(options.tools, options.model) if options.tools else None
    if tools and not options.model:
        parser.error("--tools needs --model")
    first = next(iter(servers.values()))
    if tools:
        tools.count(first)
    probe = post(first, dict(prompt="Hello", max_tokens=1))
    result = dict(
        machine=machine(),
        model=probe["model"],
        settings=f"{probe.get('system_fingerprint')} {options.args}".strip(),
        rounds=options.rounds,
    )
    names = list(SCENARIOS) if options.only is None else [name for name in options.only.split(",") if name]
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
    table = markdown(result)
    save(options.out, result, table)
    print(table)


if __name__ == "__main__":
    main()
