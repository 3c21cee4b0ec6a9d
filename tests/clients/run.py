#!/usr/bin/env python3
"""Runs real clients against a Candor server, and reports for each client what worked. Standard library only.

    run.py --candor BINARY [--url URL] [--only NAME] [--without NAME] [--write docs/clients.md]

A client is a script that reads CANDOR_URL from its environment and prints one JSON object per line:

    {"client": "openai (Python)", "version": "3.57.0", "check": "what was tried", "passed": true, "why": ""}

Other lines are passed on to standard error. These are the forms of clients:

    python/NAME_client.py    with its requirements in python/NAME.txt; each gets a venv
    DIR/check.py             with DIR/requirements.txt, for clients of more than one file
    node/NAME/check.mjs      with package.json and package-lock.json, and perhaps .npmrc; scripts/node.txt pins Node itself
    rust/                    a cargo project

Requirements are installed once, in $XDG_CACHE_HOME/candor/clients (or ~/.cache/...), and again when they change.
A client that lacks something of others, which cannot be had here, exits with 77: it is listed as not run.
The exit status is 0 if every check of every client passed, and 1 if one failed, or if a client printed none.
"""

import argparse
import contextlib
import dataclasses
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import time

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent
sys.path.insert(0, str(ROOT / "scripts"))

from rig import (  # noqa: E402
    CACHE,
    Unprepared,
    node_environment,
    plain_environment,
    python_environment,
    run_tool,
    server,
)

# The key of the second server, which refuses those who come without it.
KEY = "a-key-for-tests"
# The exit status of a client that was not run because a program or model of others is missing; it says which.
NOT_RUN = 77
# Between these, --write puts what came out.
BEGIN, END = "<!-- what ran: make test-clients -->", "<!-- end of what ran -->"


@dataclasses.dataclass
class Client:
    name: str
    kind: str
    # The script, or the project's folder.
    path: pathlib.Path
    requirements: pathlib.Path


@dataclasses.dataclass
class Outcome:
    client: str
    version: str = ""
    checks: list = dataclasses.field(default_factory=list)
    # Why the client as a whole failed; empty if it did not.
    why: str = ""
    # Not run is not failed: something that is no part of the project is missing.
    was_run: bool = True

    def failed(self):
        return [check for check in self.checks if not check["passed"]]

    def passed(self):
        return [check for check in self.checks if check["passed"]]

    def is_good(self):
        return not self.was_run or (bool(self.checks) and not self.failed() and not self.why)


def say(text):
    print(f"clients: {text}", file=sys.stderr, flush=True)


# --- Which clients there are.


def discover():
    clients = []
    for script in sorted((HERE / "python").glob("*_client.py")):
        name = script.stem[: -len("_client")]
        clients.append(Client(f"python/{name}", "python", script, script.with_name(f"{name}.txt")))
    for script in sorted(HERE.glob("*/check.py")):
        clients.append(Client(script.parent.name, "python", script, script.with_name("requirements.txt")))
    for script in sorted((HERE / "node").glob("*/check.mjs")):
        clients.append(Client(f"node/{script.parent.name}", "node", script, script.with_name("package-lock.json")))
    if (HERE / "rust" / "Cargo.toml").exists():
        clients.append(Client("rust", "rust", HERE / "rust", HERE / "rust" / "Cargo.lock"))
    return clients


def is_named(client, names):
    """By its whole name, or by a part of it: `node`, `openai`, `node/openai`."""
    return any(name == client.name or name in client.name.split("/") for name in names)


# --- What they need.


def command_of(client):
    """Installs what the client needs; what to run."""
    if client.kind == "python":
        return [python_environment(client.name, client.requirements) / "python", client.path]
    if client.kind == "node":
        tools, place = node_environment(client.name, client.path.parent)
        # Modules are looked for beside the script that asks for them.
        shutil.copy(client.path, place)
        shutil.copy(HERE / "node" / "report.mjs", place)
        return [tools / "node", place / client.path.name]
    if not shutil.which("cargo"):
        raise Unprepared("There is no cargo. https://rustup.rs installs it.")
    target = CACHE / "clients" / "rust-target"
    say("building rust")
    run_tool(
        ["cargo", "build", "--quiet", "--locked"], cwd=client.path, env=dict(os.environ, CARGO_TARGET_DIR=str(target))
    )
    return [target / "debug" / "candor-client-check"]


# --- Servers.


def default_model(binary):
    """The path of the GGUF file."""
    fetch = subprocess.run(
        [binary, "fetch", "default"], check=True, stdout=subprocess.PIPE, text=True, env=plain_environment()
    )
    return fetch.stdout.strip()


# --- The run.


def run_client(client, variables):
    """What came out, for each name that the client's checks give."""
    try:
        command = command_of(client)
    except (Unprepared, OSError) as error:
        say(f"{client.name}: {error}")
        return [Outcome(client.name, why=str(error))]
    say(f"running {client.name}")
    process = subprocess.Popen(
        [str(part) for part in command],
        stdout=subprocess.PIPE,
        text=True,
        env=dict(plain_environment(), **variables),
        cwd=tempfile.gettempdir(),
    )
    outcomes = {}
    for line in process.stdout:
        take(line, outcomes)
    status = process.wait()
    if status == NOT_RUN and not outcomes:
        return [Outcome(client.name, why="not run: what it needs cannot be had", was_run=False)]
    if not outcomes:
        return [Outcome(client.name, why=f"printed no check, and ended with status {status}")]
    found = list(outcomes.values())
    if status != 0 and not any(outcome.failed() for outcome in found):
        found[-1].why = f"ended with status {status}"
    return found


def take(line, outcomes):
    """Puts a check with the others of its client; passes on what is none."""
    try:
        check = json.loads(line)
        name, version, what = check["client"], check["version"], check["check"]
        passed = check["passed"] = check["passed"] is True
        why = check.setdefault("why", "")
    except (ValueError, KeyError, TypeError):
        print(line, end="", file=sys.stderr)
        return
    outcomes.setdefault(name, Outcome(name, version)).checks.append(check)
    say(f"  {'passed' if passed else 'FAILED'}  {what}{'' if passed else ': ' + why}")


def one_line(text):
    return " ".join(text.split()).replace("|", "\\|")[:300]


def results_of(outcomes):
    """For each client its row of the table, and the lines of its checks."""
    results = {}
    for outcome in outcomes:
        why = "; ".join(f"{check['check']}: {check['why']}" for check in outcome.failed()) or outcome.why
        counts = f"{len(outcome.passed())} | {len(outcome.failed())}"
        cells = [outcome.client, outcome.version or "–", counts, one_line(why)]
        row = "| " + " | ".join(cells).strip() + " |"
        checks = []
        for check in outcome.checks:
            failure = "" if check["passed"] else f" – **failed**: {one_line(check['why'])}"
            checks.append(f"- {one_line(check['check'])}{failure}")
        results[outcome.client] = row, checks
    return results


def results_in(text):
    """The same, from what `report` made of it."""
    results = {}
    for line in text.splitlines():
        if line.startswith("| ") and not line.startswith("| client |"):
            results[line.split(" | ")[0].removeprefix("| ")] = line, []
        elif line.startswith("**"):
            checks = results[line.strip("*")][1]
        elif line.startswith("- "):
            checks.append(line)
    return results


def report(results):
    lines = ["| client | version | passed | failed | why |", "|---|---|---:|---:|---|"]
    lines += [row for row, _ in results.values()]
    for name, (_, checks) in results.items():
        if checks:
            lines += ["", f"**{name}**", "", *checks]
    return "\n".join(lines)


def write(path, results, some):
    """Puts the results into the page; if they are those of `some` clients, the others keep theirs."""
    page = path.read_text()
    before, rest = page.split(BEGIN)
    old, after = rest.split(END)
    if some:
        results = {**results_in(old), **results}
    path.write_text(f"{before}{BEGIN}\n\n{report(results)}\n\n{END}{after}")


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--candor", metavar="BINARY", help="the server to start")
    parser.add_argument(
        "--url",
        help="a running server to ask instead, with the default model, embeddings.pooling set, and nobody else on it; "
        "with --candor, only the second server, which has a key, is started",
    )
    parser.add_argument("--only", metavar="NAME", action="append", help="this: python, openai, node/openai; repeatable")
    parser.add_argument("--without", metavar="NAME", action="append", default=[], help="not this; repeatable")
    parser.add_argument("--write", metavar="FILE", type=pathlib.Path, help="put the results into this page")
    parser.add_argument("--list", action="store_true", help="print the names of the clients")
    options = parser.parse_args()
    if not (options.candor or options.url or options.list):
        parser.error("--candor or --url is needed")
    if options.write and not options.candor:
        parser.error("--write goes with --candor: so it is known which program answered")
    return options


@contextlib.contextmanager
def variables_of(options):
    """The environment of the clients, while there are servers for it."""
    with contextlib.ExitStack() as stack:
        variables = {}
        url = options.url
        if options.candor:
            variables["CANDOR_MODEL"] = default_model(options.candor)
            # For a client that needs another model.
            variables["CANDOR_BINARY"] = str(pathlib.Path(options.candor).resolve())
            tiny = ["--model", str(ROOT / "tests/models/llama2-vocab-tiny.gguf"), "--api-key", KEY]
            variables["CANDOR_KEYED_URL"] = stack.enter_context(server(options.candor, *tiny))
            variables["CANDOR_KEY"] = KEY
            # The default model is not one for embeddings: without this they are refused.
            url = url or stack.enter_context(server(options.candor, "--set", "embeddings.pooling=mean"))
        variables["CANDOR_URL"] = url.rstrip("/")
        yield variables


def main():
    options = arguments()
    clients = [
        client
        for client in discover()
        if (not options.only or is_named(client, options.only)) and not is_named(client, options.without)
    ]
    if not options.list and not options.candor and any(client.name == "lm_eval" for client in clients):
        say("lm_eval is left out: it computes anew what the server computes, and needs --candor to know of which file")
        clients = [client for client in clients if client.name != "lm_eval"]
    if options.list or not clients:
        print("\n".join(client.name for client in clients) or "clients: none of this name")
        return 0 if clients else 1
    began = time.monotonic()
    with variables_of(options) as variables:
        outcomes = [outcome for client in clients for outcome in run_client(client, variables)]
    print(report(results_of(outcomes)))
    ran = [outcome for outcome in outcomes if outcome.was_run]
    if options.write:
        some = bool(options.only or options.without)
        write(options.write, results_of(ran if some else outcomes), some)
    say(f"{sum(outcome.is_good() for outcome in ran)} of {len(ran)} clients passed in whole, "
        f"after {time.monotonic() - began:.0f} s")
    return 0 if all(outcome.is_good() for outcome in outcomes) else 1


if __name__ == "__main__":
    sys.exit(main())
