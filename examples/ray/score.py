#!/usr/bin/env python3
"""Sends the requests in a file to Candor servers with Ray Data, and writes the answers to a folder.

    score.py in.jsonl out --url http://10.0.0.1:8000 --url http://10.0.0.2:8000
    score.py in.jsonl out --engine --cpus 16 -- --model hf:ORG/REPO:Q4_K_M

The first asks servers that are there. The second starts one for each 16 CPUs of a node, with the flags after `--`.
Killed at any moment and run again, it goes on where it was. README.md says what is guaranteed.
"""

import argparse
import hashlib
import json
import os
import pathlib
import sys
import time

import pyarrow as pa
import ray
import requests
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

import origins
import scorer
from files import Output, read
from origins import Ended, Origins, Refused, key_of, models, new_session
from scorer import Scorer, Shared

# Nodes do not need these files: their code travels with the actors.
for module in (origins, scorer):
    ray.cloudpickle.register_pickle_by_value(module)


def run(options):
    """Answers what has no answer yet; how many rows are errors in the end."""
    data = options.input.read_bytes()
    found = read(data)
    output = Output(options.output, found, hashlib.sha256(data).hexdigest(), options.rows_per_part)
    known = Origins(options.allow_mixed)
    errors = output.check(known)
    admit_servers(known, options, {key_of(request) for request in found})
    todo = [number for number in range(len(output.parts)) if not output.is_done(number)]
    print(f"{len(found)} requests in {len(output.parts)} parts; parts to do: {len(todo)}", flush=True)
    if not todo:
        return errors

    ray.init(options.address, include_dashboard=False, log_to_driver=False)
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    # They would say every 30 seconds that actors need memory.
    context.issue_detectors_config.detectors = []
    start, done = time.monotonic(), 0
    total = sum(len(output.parts[number]) for number in todo)
    for table in answers(options, known, {number: output.parts[number] for number in todo}):
        rows, failed = output.add(table)
        done, errors = done + rows, errors + failed
        if rows:
            rate = done / (time.monotonic() - start)
            left = (total - done) / rate
            print(f"{done} of {total} rows, errors: {errors}, {rate:.1f} rows/s, {left:.0f} s left", flush=True)
    return errors


def answers(options, known, parts):
    """The answers, as they come."""
    tables = [
        pa.table({"line": [json.dumps(request) for request in part], "part": [number] * len(part)})
        for number, part in parts.items()
    ]
    # On this node: it must not be lost with another.
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    shared = ray.remote(Shared).options(num_cpus=0, scheduling_strategy=here).remote(known)
    dataset = ray.data.from_arrow(tables).map_batches(
        Scorer,
        fn_constructor_args=[options, shared],
        # Whole parts.
        batch_size=None,
        batch_format="pyarrow",
        compute=ray.data.ActorPoolStrategy(size=options.actors or engines(options.cpus)),
        # An actor that only waits for servers needs hardly any.
        num_cpus=options.cpus if options.engine else 0.01,
    )
    try:
        yield from dataset.iter_batches(batch_size=None, batch_format="pyarrow")
    except Exception:
        if ended := ray.get(shared.why_ended.remote()):
            raise Ended(*ended) from None
        raise


def engines(cpus):
    """How many engines with so many CPUs the nodes have room for."""
    nodes = (node["Resources"].get("CPU", 0) for node in ray.nodes() if node["Alive"])
    count = sum(int(there // cpus) for there in nodes)
    if not count:
        raise Refused(f"no node has {cpus} CPUs: choose --cpus")
    return count


def admit_servers(known, options, keys):
    """Compares the servers that answer now, before anything is sent to one."""
    session = new_session(options)
    for url in options.url:
        try:
            found = models(session, url)
        except requests.RequestException:
            print(f"{url} does not answer yet", flush=True)
            continue
        for name, is_exact in keys:
            if name not in found:
                raise Refused(f"{url} has no model `{name}`; it has {', '.join(filter(None, found))}")
            weights, bits_class = found[name]
            # Null until the model is loaded. The class of exact requests is known by their answers.
            if weights and not is_exact:
                try:
                    known.admit((name, is_exact), weights, bits_class)
                except Refused as refused:
                    raise Refused(f"{url}: {refused}") from refused


def parse(arguments):
    at = arguments.index("--") if "--" in arguments else len(arguments)
    arguments, flags = arguments[:at], arguments[at + 1 :]
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n", maxsplit=1)[0])
    parser.add_argument("input", type=pathlib.Path, help="a request on each line, as for `candor batch`")
    parser.add_argument("output", type=pathlib.Path, help="a folder on this machine")
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--url", action="append", default=[], help="a server; may be repeated")
    where.add_argument("--engine", action="store_true", help="servers on the nodes; their flags come after `--`")
    parser.add_argument("--cpus", type=int, default=1, help="CPUs of an engine, and its threads (1)")
    parser.add_argument("--actors", type=int, help="how many engines (as many as fit), or actors (two for each URL)")
    parser.add_argument("--candor", default="candor", help="the program on the nodes (candor)")
    parser.add_argument("--address", help="the cluster (RAY_ADDRESS, or else this machine alone)")
    parser.add_argument("--concurrency", type=int, default=16, help="requests at once, for each actor (16)")
    parser.add_argument("--rows-per-part", type=int, default=256, help="requests for each file of the output (256)")
    parser.add_argument("--allow-mixed", action="store_true", help="allow answers of several bits classes")
    parser.add_argument("--timeout", type=float, default=3600, help="seconds for an answer (3600)")
    parser.add_argument("--patience", type=float, default=600, help="seconds without any answer, then it ends (600)")
    options = parser.parse_args(arguments)
    if flags and not options.engine:
        parser.error("flags after `--` are for --engine")
    options.url = [url.rstrip("/") for url in options.url]
    options.key = os.environ.get("CANDOR_API_KEY")
    if options.engine:
        options.engine = [options.candor, "serve", "--port", "0", "--threads", str(options.cpus), *flags]
    else:
        # So that a server need not wait for the slowest request of a part.
        options.actors = options.actors or 2 * len(options.url)
    return options


if __name__ == "__main__":
    try:
        sys.exit(3 if run(parse(sys.argv[1:])) else 0)
    except Ended as ended:
        print(ended, file=sys.stderr)
        sys.exit(ended.status)
