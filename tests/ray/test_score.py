"""examples/ray/score.py, with servers and drivers that are killed: no answer is lost, doubled, mixed or changed."""

import collections
import contextlib
import http.client
import json
import os
import pathlib
import random
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
import unittest
import urllib.parse
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pandas
import pyarrow.parquet as pq
from ray.cluster_utils import Cluster
from rig import running

CANDOR = os.environ["TEST_CANDOR"]
# The flags of every server.
FLAGS = ["--threads", "1", "--model", os.environ["TEST_MODEL"]]
SCORE = pathlib.Path(__file__).resolve().parent.parent.parent / "examples/ray/score.py"
# What two answers to one request do not have in common.
CHANGING = re.compile(r'"(id|created|cached_tokens)":("[^"]*"|\d+)')
CLASS_HEADER = "x-candor-bits-class"
# The request that a server refuses.
WRONG = "077"


def requests():
    """200 requests: ten stems, and twenty questions after each."""
    for number in range(200):
        stem = f"Report {number % 10}. " + "The weather was fine, and the ships came in. " * (5 + number % 10)
        text = f"{stem}Ship {number} carried"
        url, body = "/v1/completions", {"prompt": text, "temperature": 0, "logprobs": 3, "max_tokens": 4}
        if number % 4 == 1:
            body = {"prompt": text, "echo": True, "logprobs": 5, "max_tokens": 0}
        elif number % 4 == 2:
            body = {"prompt": text, "seed": number, "max_tokens": 6}
        elif number % 4 == 3:
            url, body = "/v1/score", {"stem": text, "choices": [" wheat", " letters"]}
        custom_id = f"{number:03}"
        if custom_id == WRONG:
            body["temperature"] = -1
        yield {"custom_id": custom_id, "method": "POST", "url": url, "body": body}


def ask(url, path, body=None):
    """Status, headers and text of an answer."""
    connection = http.client.HTTPConnection(urllib.parse.urlsplit(url).netloc)
    with contextlib.closing(connection):
        headers = {"content-type": "application/json"}
        connection.request("POST" if body else "GET", path, body and json.dumps(body), headers)
        answer = connection.getresponse()
        return answer.status, answer.headers, answer.read().decode()


def unchanging(text):
    return CHANGING.sub(r'"\1":…', text)


def parts(folder):
    return sorted(folder.glob("part-*.parquet"))


def rows(folder):
    return [row for part in parts(folder) for row in pq.read_table(part).to_pylist()]


@contextlib.contextmanager
def other_class(url, name, after=0):
    """A server in front of another, which after some requests says that it has this bits class."""
    lock, count = threading.Lock(), 0

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self):
            self.forward(None, after == 0)

        def do_POST(self):
            nonlocal count
            with lock:
                count += 1
                is_other = count > after
            self.forward(json.loads(self.rfile.read(int(self.headers["content-length"]))), is_other)

        def forward(self, body, is_other):
            status, headers, text = ask(url, self.path, body)
            own = headers[CLASS_HEADER]
            if is_other:
                text = re.sub(r'"bits_class":"[^"]*"', f'"bits_class":"{name}"', text)
                own = own and name
            data = text.encode()
            self.send_response(status)
            if own:
                self.send_header(CLASS_HEADER, own)
            self.send_header("content-length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_):
            pass

    with serving(Handler) as own_url:
        yield own_url


@contextlib.contextmanager
def troublesome():
    """A server that fails as prompts ask it to, and when they came to it."""
    times = collections.defaultdict(list)
    models = {"data": [{"id": "model", "bits_class": "none-0", "meta": {"fingerprint": "f"}}]}

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self):
            self.answer(200, models)

        def do_POST(self):
            prompt = json.loads(self.rfile.read(int(self.headers["content-length"])))["prompt"]
            times[prompt].append(time.monotonic())
            if prompt == "break":
                self.close_connection = True
            elif prompt == "fail":
                self.answer(500, {"error": {"message": "failed"}})
            elif prompt == "wait" and len(times[prompt]) == 1:
                self.answer(503, {"error": {"message": "full"}}, [("retry-after", "3")])
            else:
                self.answer(200, {})

        def answer(self, status, body, headers=()):
            data = json.dumps(body).encode()
            self.send_response(status)
            for name, value in [(CLASS_HEADER, "none-0"), ("content-length", str(len(data))), *headers]:
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_):
            pass

    with serving(Handler) as url:
        yield url, times


@contextlib.contextmanager
def serving(handler):
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    # A run that ends leaves its requests.
    server.handle_error = lambda *_: None
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


def processes_with(word, program=""):
    """The ids of the processes, of all programs or one, that have this word in their command line."""
    found = []
    for folder in pathlib.Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            line = (folder / "cmdline").read_bytes().split(b"\0")
            if word.encode() in line and program.encode() in (line[0], b""):
                found.append(int(folder.name))
    return found


class OnACluster(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        node = {"num_cpus": 1, "object_store_memory": 100 * 1024**2}
        cls.cluster = Cluster(initialize_head=True, head_node_args=dict(node, include_dashboard=False))
        cls.addClassCleanup(cls.cluster.shutdown)
        cls.cluster.add_node(**node)
        cls.folder = pathlib.Path(cls.enterClassContext(tempfile.TemporaryDirectory()))
        _, cls.url = cls.enterClassContext(running(CANDOR, *FLAGS))
        cls.requests = list(requests())
        random.Random(1).shuffle(cls.requests)
        cls.input = cls.write("in.jsonl", cls.requests)
        with ThreadPoolExecutor(8) as pool:
            answers = list(pool.map(lambda it: ask(cls.url, it["url"], it["body"]), cls.requests))
        cls.direct = {
            request["custom_id"]: (status, unchanging(text))
            for request, (status, _, text) in zip(cls.requests, answers)
        }
        cls.bits_class = answers[0][1][CLASS_HEADER]

    def setUp(self):
        self.output = self.folder / self.id().split(".")[-1]

    @classmethod
    def write(cls, name, lines):
        path = cls.folder / name
        path.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
        return path

    def start(self, *flags, path=None):
        command = [sys.executable, SCORE, path or self.input, self.output, "--rows-per-part", "10", *flags]
        environment = dict(os.environ, RAY_ADDRESS=self.cluster.address)
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment)

    def run_score(self, *flags, path=None):
        """The exit status, and what it printed."""
        process = self.start(*flags, path=path)
        printed, _ = process.communicate()
        return process.returncode, printed

    def start_until_a_part_is_there(self, *flags):
        process = self.start(*flags)
        self.addCleanup(process.stdout.close)
        while not parts(self.output):
            if process.poll() is not None:
                self.fail(process.stdout.read())
            time.sleep(0.02)
        return process

    def finish(self, *flags, how=3):
        """Runs it to the end. Status 3: one request has an error."""
        status, printed = self.run_score(*flags)
        self.assertEqual(status, how, printed)
        return printed

    def check_answers(self):
        """Every request has one answer, the direct one, in files that are complete."""
        found = rows(self.output)
        self.assertEqual(sorted(row["custom_id"] for row in found), sorted(self.direct))
        for row in found:
            status, text = self.direct[row["custom_id"]]
            self.assertEqual((row["status_code"], unchanging(row["body"])), (status, text))
            if row["custom_id"] == WRONG:
                self.assertEqual(status, 400)
                self.assertEqual(row["error"], json.loads(text)["error"]["message"])
            else:
                self.assertEqual((row["error"], row["bits_class"]), (None, self.bits_class))
        self.assertEqual(list(self.output.glob("_new-*")), [])
        # As the page says that it is read.
        self.assertEqual(len(pandas.read_parquet(self.output)), len(found))
        return found

    def test_answers_are_the_direct_ones_after_the_driver_was_killed(self):
        driver = self.start_until_a_part_is_there("--url", self.url)
        driver.kill()
        driver.wait()
        before = {part: part.stat().st_mtime_ns for part in parts(self.output)}
        self.assertLess(len(before), 20)
        printed = self.finish("--url", self.url)
        self.assertIn(f"parts to do: {20 - len(before)}\n", printed)
        for part, time_of_change in before.items():
            self.assertEqual(part.stat().st_mtime_ns, time_of_change)
        self.check_answers()
        # Once more: there is nothing to do.
        self.assertIn("parts to do: 0\n", self.finish("--url", self.url))

    def test_a_server_that_is_killed_loses_nothing(self):
        with running(CANDOR, *FLAGS) as (process, url):
            driver = self.start_until_a_part_is_there("--url", self.url, "--url", url)
            process.send_signal(signal.SIGKILL)
            self.assertLess(len(parts(self.output)), 20)
            printed, _ = driver.communicate()
            self.assertEqual(driver.returncode, 3, printed)
        servers = {row["server"] for row in self.check_answers()}
        self.assertIn(self.url, servers)

    def test_two_servers_share_the_work(self):
        with running(CANDOR, *FLAGS) as (_, url):
            self.finish("--url", self.url, "--url", f"{url}/")
        self.assertEqual({row["server"] for row in self.check_answers()}, {self.url, url})

    def test_a_node_that_is_lost_loses_nothing(self):
        node = self.cluster.add_node(num_cpus=1, object_store_memory=100 * 1024**2)
        driver = self.start_until_a_part_is_there("--url", self.url, "--actors", "3")
        self.cluster.remove_node(node, allow_graceful=False)
        self.assertLess(len(parts(self.output)), 20)
        printed, _ = driver.communicate()
        self.assertEqual(driver.returncode, 3, printed)
        self.check_answers()

    def test_a_full_server_is_asked_again(self):
        flags = [*FLAGS, "--parallel-sequences", "2", "--set", "limits.queue_length=0"]
        with running(CANDOR, *flags) as (_, url):
            self.finish("--url", url, "--concurrency", "4")
            _, _, metrics = ask(url, "/metrics")
        refused = [line for line in metrics.splitlines() if line.startswith("candor_requests_rejected_total")]
        self.assertGreater(sum(float(line.split()[-1]) for line in refused), 0, refused)
        self.check_answers()

    def test_what_fails_is_sent_again_and_not_for_ever(self):
        prompts = ["break", "fail", "wait", "fine"]
        lines = [
            {"custom_id": prompt, "method": "POST", "url": "/v1/completions", "body": {"prompt": prompt}}
            for prompt in prompts
        ]
        with troublesome() as (url, times):
            status, printed = self.run_score("--url", url, path=self.write("trouble.jsonl", lines))
        self.assertEqual(status, 3, printed)
        found = {row["custom_id"]: row for row in rows(self.output)}
        self.assertEqual([len(times[prompt]) for prompt in prompts], [8, 3, 2, 1])
        self.assertIsNone(found["break"]["status_code"])
        self.assertIn("no answer in 8 attempts", found["break"]["error"])
        self.assertEqual((found["fail"]["status_code"], found["fail"]["error"]), (500, "failed"))
        self.assertEqual((found["wait"]["status_code"], found["wait"]["error"]), (200, None))
        self.assertGreaterEqual(times["wait"][1] - times["wait"][0], 3)

    def test_each_node_has_an_engine_that_ends_with_the_driver(self):
        # Flags that no other process has.
        marker = self.folder / "engine.toml"
        marker.touch()
        flags = ["--engine", "--cpus", "1", "--candor", CANDOR, "--", *FLAGS[2:], "--config", str(marker)]
        driver = self.start_until_a_part_is_there(*flags)
        engines = processes_with(str(marker), CANDOR)
        self.assertTrue(engines)
        # It is started again.
        os.kill(engines[0], signal.SIGKILL)
        while len(parts(self.output)) < 8:
            self.assertIsNone(driver.poll())
            time.sleep(0.02)
        driver.kill()
        driver.wait()
        while processes_with(str(marker)):
            time.sleep(0.1)
        self.finish(*flags)
        found = self.check_answers()
        self.assertGreaterEqual(len({row["server"] for row in found}), 2)
        while processes_with(str(marker)):
            time.sleep(0.1)

    def test_an_engine_that_cannot_start_says_why(self):
        status, printed = self.run_score("--engine", "--candor", CANDOR, "--", "--model", "/nowhere.gguf")
        self.assertEqual(status, 2, printed)
        self.assertIn("/nowhere.gguf does not exist", printed.splitlines()[-1])

    def test_bits_classes_are_not_mixed(self):
        with other_class(self.url, "amx-00000000") as url:
            status, printed = self.run_score("--url", self.url, "--url", url)
            self.assertEqual(status, 2, printed)
            self.assertIn("amx-00000000", printed)
            self.assertEqual(parts(self.output), [])
            # A run that went on elsewhere.
            driver = self.start_until_a_part_is_there("--url", self.url)
            driver.kill()
            driver.wait()
            status, printed = self.run_score("--url", url)
            self.assertEqual(status, 2, printed)
        self.finish("--url", self.url)
        self.check_answers()

    def test_a_server_that_is_replaced_by_another_class_ends_the_run(self):
        with other_class(self.url, "amx-00000000", after=100) as url:
            status, printed = self.run_score("--url", url)
            self.assertEqual(status, 2, printed)
            self.assertIn("amx-00000000", printed.splitlines()[-1])
            found = rows(self.output)
            self.assertTrue(0 < len(found) <= 100)
            self.assertEqual({row["bits_class"] for row in found if not row["error"]}, {self.bits_class})
            self.finish("--url", url, "--allow-mixed")
        found = rows(self.output)
        self.assertEqual({row["bits_class"] for row in found if not row["error"]}, {self.bits_class, "amx-00000000"})
        self.assertEqual(len({row["custom_id"] for row in found}), 200)

    def test_wrong_lines_and_another_input_are_refused(self):
        first = self.requests[0]
        for wrong, why in [
            (dict(first, url="/v1/models"), "line 2: `url` must be one of"),
            (dict(first, custom_id=7), "line 2: `custom_id`"),
            (dict(first, body={"stream": True}), "line 2: `body`"),
            (first, "line 2: another line has the custom_id"),
        ]:
            status, printed = self.run_score("--url", self.url, path=self.write("wrong.jsonl", [first, wrong]))
            self.assertEqual(status, 2, printed)
            self.assertIn(why, printed)
            self.assertFalse(self.output.exists())
        two = self.write("two.jsonl", self.requests[:2])
        self.assertEqual(self.run_score("--url", self.url, path=two)[0], 0)
        status, printed = self.run_score("--url", self.url)
        self.assertEqual(status, 2, printed)
        self.assertIn("belongs to another input", printed)


if __name__ == "__main__":
    unittest.main()
