#!/usr/bin/env python3
"""Answers the requests in a file with Ray Data and `candor batch`, and writes the answers to a folder.

    score.py in.jsonl out --url http://10.0.0.1:8000 --url http://10.0.0.2:8000
    score.py in.jsonl out --cpus 16 -- --model hf:ORG/REPO:Q4_K_M

The first asks servers that are there. The second has an engine for each 16 CPUs of a node, with the flags of `candor
serve` after `--`. Killed at any moment and run again, it goes on where it was. README.md says what is guaranteed.
"""

import argparse
import hashlib
import os
import pathlib
import sys
import threading
import time

import ray

import scorer
import table
from files import Ended, Output, Refused, read

# Nodes do not need these files: their code travels with the actors.
for module in (scorer, table):
    ray.cloudpickle.register_pickle_by_value(module)


def run(options):
    """Answers what has no answer yet; how many rows are errors in the end."""
    try:
        data = options.input.read_bytes()
    except OSError as error:
        raise Refused(f"cannot read the input: {error}") from error
    digest = hashlib.sha256(data).hexdigest()
    output = Output(options.output, read(data), digest, options.rows_per_part, options.allow_mixed)
    del data
    errors = output.check()
    todo = output.todo()
    total, done = sum(len(output.parts[number]) for number in todo), 0
    print(f"parts: {len(output.parts)}, to do: {len(todo)}; rows to do: {total}", flush=True)
    if not todo:
        return errors

    ray.init(options.address, include_dashboard=False, log_to_driver=False)
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    # They would say every 30 seconds that actors need memory.
    context.issue_detectors_config.detectors = []
    start = time.monotonic()
    for answer in answers(options, {number: output.parts[number] for number in todo}):
        if answer["status"]:
            raise Ended(answer["why"], answer["status"])
        number = answer["part"]
        errors += output.add(number, answer["file"])
        done += len(output.parts[number])
        rate = done / (time.monotonic() - start)
        left = (total - done) / rate
        print(f"{done} of {total} rows, errors: {errors}, {rate:.1f} rows/s, {left:.0f} s left", flush=True)
    if missing := output.todo():
        raise Ended(f"Ray has ended without an answer for {len(missing)} parts: run it again")
    return errors


def answers(options, parts):
    """The answer of each part, as they come."""
    # A part is one row: Ray cannot cut it, however large it is.
    rows = [{"part": number, "requests": b"\n".join(line for _, line in part)} for number, part in parts.items()]
    # An actor that only waits for servers needs hardly any.
    cpus = 0.01 if options.url else options.cpus
    actors = options.actors or (2 if options.url else engines(cpus))
    # `from_arrow` would start tasks, which need CPUs.
    dataset = ray.data.from_items(rows, override_num_blocks=len(rows)).map(
        scorer.Scorer,
        fn_constructor_args=[options.command, options.flags, options.settings],
        compute=ray.data.ActorPoolStrategy(size=actors),
        num_cpus=cpus,
    )
    reminder = Reminder(actors, cpus)
    reminder.start()
    # Fetched ahead, a part would be lost with this process.
    for batch in dataset.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
        reminder.came.set()
        yield from batch.to_pylist()


def engines(cpus):
    """How many engines with so many CPUs the nodes have room for."""
    nodes = (node["Resources"].get("CPU", 0) for node in ray.nodes() if node["Alive"])
    count = sum(int(there // cpus) for there in nodes)
    if not count:
        raise Refused(f"no node has {cpus} CPUs: choose --cpus, or --actors to wait for nodes that come later")
    return count


class Reminder(threading.Thread):
    """Says what it may be that is missing, if no part comes."""

    PAUSE = 30

    def __init__(self, actors, cpus):
        super().__init__(daemon=True)
        self.wanted = f"{actors} actors need {cpus} CPUs each"
        self.came = threading.Event()

    def run(self):
        while True:
            time.sleep(self.PAUSE)
            if not self.came.is_set():
                there, free = ray.cluster_resources().get("CPU", 0), ray.available_resources().get("CPU", 0)
                nodes = f"the nodes have {there:g}, of which {free:g} are free"
                print(f"waiting for a part: {self.wanted}; {nodes}", flush=True)
            self.came.clear()


def parse(arguments):
    at = arguments.index("--") if "--" in arguments else len(arguments)
    arguments, flags = arguments[:at], arguments[at + 1 :]
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n\n", maxsplit=1)[0],
        epilog="Flags after `--` are passed on to `candor batch`.",
    )
    parser.add_argument("input", type=pathlib.Path, help="a request on each line, as for `candor batch`")
    parser.add_argument("output", type=pathlib.Path, help="a folder on this machine")
    parser.add_argument("--url", type=url, action="append", help="a server; may be repeated (an engine for each actor)")
    parser.add_argument("--cpus", type=positive, default=1, help="CPUs of an engine, and its threads (1)")
    parser.add_argument("--actors", type=positive, help="parts at once (2 with --url, else as many engines as fit)")
    parser.add_argument("--concurrency", type=positive, help="requests at once from each actor to each server")
    parser.add_argument("--rows-per-part", type=positive, default=1024, help="requests of a part, and a file (1024)")
    parser.add_argument("--allow-mixed", action="store_true", help="allow answers of several bits classes")
    parser.add_argument("--candor", default="candor", help="the program on the nodes (candor)")
    parser.add_argument("--address", help="the cluster (RAY_ADDRESS, or else this machine alone)")
    options = parser.parse_args(arguments)
    options.command = [options.candor, "batch"]
    options.flags = ["--threads", str(options.cpus)]
    if options.url:
        options.flags = [word for address in options.url for word in ("--url", address)]
    if options.concurrency:
        options.flags += ["--concurrency", str(options.concurrency)]
    if options.allow_mixed:
        options.flags.append("--allow-mixed")
    options.flags += flags
    # Actors have the environment of their nodes.
    options.settings = {name: value for name, value in os.environ.items() if name.startswith("CANDOR_")}
    return options


def url(text):
    if not text.startswith(("http://", "https://")):
        raise argparse.ArgumentTypeError(f"{text!r} must begin with http:// or https://")
    return text


def positive(text):
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} must be a whole number from 1")
    return int(text)


if __name__ == "__main__":
    try:
        sys.exit(3 if run(parse(sys.argv[1:])) else 0)
    except Ended as ended:
        print(ended, file=sys.stderr)
        sys.exit(ended.status)
