#!/usr/bin/env python3
"""Runs many more clients than the server has slots, and reports how it copes. Standard library only.

    overload.py --candor BINARY [--model SOURCE] [--clients 500] [--slots 8] [--seconds 60] [--args "FLAGS"]

Each client streams one short request after another; after a 503 or 429 it waits as long as Retry-After says. Meanwhile
/health and /metrics are requested ten times a second. The report has the number of answers by status, the time from a
request to its first token (including the wait), the latency of /health and /metrics, and the server's memory.
"""

import argparse
import asyncio
import json
import multiprocessing
import os
import shlex
import signal
import socket
import subprocess
import time
import urllib.request


def percentile(values, share):
    """The value that this share of the values does not exceed."""
    return sorted(values)[min(len(values) - 1, int(share * len(values)))] if values else float("nan")


def resident_mib(pid):
    with open(f"/proc/{pid}/status") as status:
        for line in status:
            if line.startswith("VmRSS"):
                return int(line.split()[1]) / 1024
    return 0.0


async def ask(port, method, path, body=b""):
    """Sends a request on a connection of its own; yields its status, its headers, and then each piece of its body."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        head = f"{method} {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n"
        if body:
            head += f"content-type: application/json\r\ncontent-length: {len(body)}\r\n"
        writer.write(head.encode() + b"\r\n" + body)
        lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        headers = dict(line.lower().split(": ", 1) for line in lines[1:] if ": " in line)
        yield int(lines[0].split()[1]), headers
        while piece := await reader.read(65536):
            yield piece
    finally:
        writer.close()


async def client(number, port, until, seen):
    body = json.dumps({"prompt": f"Client {number} asks: what is the capital of Michigan?", "max_tokens": 16,
                       "temperature": 0, "logprobs": 2, "stream": True}).encode()
    while time.monotonic() < until:
        started, first, status, whole = time.monotonic(), None, None, b""
        async for piece in ask(port, "POST", "/v1/completions", body):
            if status is None:
                status, headers = piece
                continue
            if status == 200 and first is None and b'"text"' in piece:
                first = time.monotonic() - started
            whole += piece
        seen["statuses"][status] = seen["statuses"].get(status, 0) + 1
        if status == 200:
            seen["first"].append(first)
            seen["broken"] += b"[DONE]" not in whole
        else:
            seen["broken"] += "retry-after" not in headers
            await asyncio.sleep(int(headers.get("retry-after", 1)))


async def watch(port, pid, seconds):
    """A process of its own: five hundred clients in one would have it wait for them, not for the server."""
    seen = {"/health": [], "/metrics": [], "memory": []}
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        for path in ("/health", "/metrics"):
            started = time.monotonic()
            async for piece in ask(port, "GET", path):
                pass
            seen[path].append(time.monotonic() - started)
        seen["memory"].append(resident_mib(pid))
        await asyncio.sleep(0.1)
    return seen


def watch_apart(port, pid, seconds, told):
    told.put(asyncio.run(watch(port, pid, seconds)))


async def load(arguments, port, pid):
    seen = {"statuses": {}, "first": [], "broken": 0}
    told = multiprocessing.Queue()
    watcher = multiprocessing.Process(target=watch_apart, args=(port, pid, arguments.seconds, told))
    watcher.start()
    until = time.monotonic() + arguments.seconds
    await asyncio.gather(*(client(number, port, until, seen) for number in range(arguments.clients)))
    seen.update(told.get())
    watcher.join()
    return seen


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--candor", metavar="BINARY", required=True)
    parser.add_argument("--model", metavar="SOURCE", default="default")
    parser.add_argument("--clients", type=int, default=500)
    parser.add_argument("--slots", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--args", default="", help="further flags of `candor serve`")
    arguments = parser.parse_args()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = subprocess.Popen([arguments.candor, "serve", "--port", str(port), "--model", arguments.model,
                               "--parallel-sequences", str(arguments.slots), *shlex.split(arguments.args)],
                              stderr=subprocess.DEVNULL)
    try:
        while True:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health").close()
                break
            except OSError:
                if server.poll() is not None:
                    raise SystemExit("the server ended") from None
                time.sleep(0.2)
        seen = asyncio.run(load(arguments, port, server.pid))
    finally:
        server.send_signal(signal.SIGTERM)
        server.wait()
    memory = seen["memory"]
    print(f"{arguments.clients} clients on {arguments.slots} slots, {arguments.seconds:.0f} s, {os.cpu_count()} cores")
    print("answers by status: " + ", ".join(f"{status}: {count}" for status, count in sorted(seen["statuses"].items())))
    print(f"broken streams, or refusals without Retry-After: {seen['broken']}")
    for name, values, scale, unit in (("time to first token", seen["first"], 1, "s"), ("/health", seen["/health"], 1000, "ms"),
                                      ("/metrics", seen["/metrics"], 1000, "ms")):
        shown = ", ".join(f"p{share * 100:g} {percentile(values, share) * scale:.1f}" for share in (0.5, 0.9, 0.99, 1))
        print(f"{name} ({unit}, {len(values)} times): {shown}")
    print(f"memory: {memory[len(memory) // 10]:.0f} MiB after a tenth, {max(memory):.0f} at most, {memory[-1]:.0f} at the end")
    print(f"exit status {server.returncode}")


if __name__ == "__main__":
    main()
