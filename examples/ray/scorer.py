"""What runs on the nodes of the cluster: actors that send requests to servers, or to an engine of their own."""

import contextlib
import json
import math
import pathlib
import re
import subprocess
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pyarrow as pa
import ray
import requests

from files import ROW
from origins import Ended, Refused, key_of, message, models, new_session


class Scorer:
    """Answers requests, one part after another. It asks its own server, and others while that one cannot answer."""

    def __init__(self, options, shared):
        self.options = options
        self.shared = shared
        self.admitted = set()
        with reporting_to(shared):
            self.engine = Engine(options.engine) if options.engine else None
        urls = [self.engine.url] if self.engine else options.url
        home = ray.get(shared.next_index.remote()) % len(urls)
        self.servers = [Server(url) for url in urls[home:] + urls[:home]]
        self.lock = threading.Lock()
        self.last_answer = time.monotonic()
        self.pool = ThreadPoolExecutor(options.concurrency)
        self.session = new_session(options)

    def __call__(self, part):
        with reporting_to(self.shared):
            rows = list(self.pool.map(self.ask, part["line"].to_pylist()))
        return pa.Table.from_pylist(rows, ROW).append_column("part", part["part"])

    def ask(self, line):
        """The row of a request: its answer, or why it has none."""
        request = json.loads(line)
        body = json.dumps(request["body"]).encode()
        broken = failed = 0
        # When a server may have this request again; others may have it at once.
        waits = {}
        while True:
            server = self.choose(waits)
            try:
                answer = self.session.post(server.url + request["url"], body, timeout=(10, self.options.timeout))
            except requests.RequestException as error:
                server.is_ready = False
                broken += 1
                # It may be what ends the servers.
                if broken == 8:
                    return {"custom_id": request["custom_id"], "error": f"no answer in {broken} attempts: {error}"}
                continue
            now = self.last_answer = time.monotonic()
            status = answer.status_code
            if status in (429, 503):
                waits[server] = now + seconds(answer.headers.get("retry-after"))
            elif status in (408, 500, 502, 504) and failed < 2:
                failed += 1
                waits[server] = now + 1
            elif status in (401, 403):
                raise Refused(f"{server.url} answers {status}: {message(answer.text)} Set its key as CANDOR_API_KEY.")
            else:
                return self.row(request, server, answer)

    def row(self, request, server, answer):
        text = answer.content.decode(errors="replace")
        key = key_of(request)
        weights, _ = server.models.get(key[0], (None, None))
        bits_class = answer.headers.get("x-candor-bits-class")
        is_fine = answer.status_code == 200
        if is_fine and (key, weights, bits_class) not in self.admitted:
            if why := ray.get(self.shared.refusal.remote(key, weights, bits_class)):
                raise Refused(why)
            self.admitted.add((key, weights, bits_class))
        return {
            "custom_id": request["custom_id"],
            "status_code": answer.status_code,
            "body": text,
            "error": None if is_fine else message(text),
            "request_id": answer.headers.get("x-request-id"),
            "bits_class": bits_class,
            "weights": weights,
            "server": server.url,
        }

    def choose(self, waits):
        """The first server that may have a request; waits until there is one."""
        while True:
            now = time.monotonic()
            with self.lock:
                may = (it for it in self.servers if max(it.not_before, waits.get(it, 0)) <= now)
                server = next(may, None)
                if server and not server.is_ready:
                    # This thread finds out; others take the next server meanwhile.
                    server.not_before = math.inf
            if server and (server.is_ready or self.is_back(server)):
                return server
            if now - self.last_answer > self.options.patience and not any(server.is_ready for server in self.servers):
                names = ", ".join(server.url for server in self.servers)
                raise Ended(f"no server has answered for {self.options.patience:.0f} seconds: {names}")
            if not server:
                time.sleep(0.1)

    def is_back(self, server):
        """Whether a server that did not answer is ready again. It may be another one now, with other models."""
        if self.engine:
            server.url = self.engine.running()
        try:
            is_ready = self.session.get(f"{server.url}/health", timeout=10).status_code == 200
            if is_ready:
                server.models = models(self.session, server.url)
        except requests.RequestException:
            is_ready = False
        server.is_ready = is_ready
        server.not_before = time.monotonic() + (0 if is_ready else 1)
        return is_ready


def seconds(retry_after):
    """The value of `Retry-After`, if it is a number of seconds; it may also be a date."""
    return float(retry_after) if retry_after and retry_after.isdigit() else 1.0


class Server:
    """A server as one actor sees it."""

    def __init__(self, url):
        self.url = url
        self.models = {}
        # Whether it was ready when it was last heard of.
        self.is_ready = False
        # When it may be asked whether it is ready.
        self.not_before = 0.0


class Engine:
    """`candor serve` on this node, for as long as this process lives."""

    # The shell becomes the server. What it leaves behind ends the server once this process is gone, however it ended:
    # then the pipe is closed.
    COMMAND = 'exec 3<&0; (read -r _ <&3; kill $$) & exec "$@" 3<&- < /dev/null'

    def __init__(self, command):
        self.command = command
        self.lock = threading.Lock()
        self.start()

    def start(self):
        self.log = tempfile.NamedTemporaryFile(prefix="candor-", suffix=".log")
        shell = ["sh", "-c", self.COMMAND, "sh", *self.command]
        self.process = subprocess.Popen(shell, stdin=subprocess.PIPE, stdout=self.log, stderr=self.log)
        while True:
            text = pathlib.Path(self.log.name).read_text(errors="replace")
            if ready := re.search(r"ready: (http://\S+)", text):
                self.url = ready[1]
                return
            if self.process.poll() is not None:
                raise Refused(f"`{' '.join(self.command)}` ended before it was ready:\n{text.strip()}")
            time.sleep(0.1)

    def running(self):
        """Its address; it is started again if it has ended."""
        with self.lock:
            if self.process.poll() is not None:
                self.process.stdin.close()
                self.start()
            return self.url


class Shared:
    """What all actors share: an actor of its own."""

    def __init__(self, origins):
        self.origins = origins
        self.scorers = 0
        self.ended = None

    def next_index(self):
        self.scorers += 1
        return self.scorers - 1

    def refusal(self, *origin):
        """Why an answer may not be mixed with the others, or none."""
        try:
            self.origins.admit(*origin)
        except Refused as refused:
            return str(refused)

    def end(self, why, status):
        self.ended = self.ended or (why, status)

    def why_ended(self):
        return self.ended


@contextlib.contextmanager
def reporting_to(shared):
    """Keeps the reason why a run ends. Ray reports it too, among its own, or only that an actor has died."""
    try:
        yield
    except Ended as ended:
        ray.get(shared.end.remote(str(ended), ended.status))
        raise
