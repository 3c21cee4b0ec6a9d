"""examples/ray/score.py, with servers and drivers that are killed: no answer is lost, doubled, mixed or changed."""

import contextlib
import http.client
import json
import math
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
import ray
import ray.data
from ray.cluster_utils import Cluster
from rig import running

CANDOR = os.environ["TEST_CANDOR"]
# The flags of every server.
FLAGS = ["--threads", "1", "--model", os.environ["TEST_MODEL"]]
EXAMPLE = pathlib.Path(__file__).resolve().parent.parent.parent / "examples/ray"
SCORE = EXAMPLE / "score.py"
sys.path.insert(0, str(EXAMPLE))

import files  # noqa: E402
import table  # noqa: E402

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
            self.forward(None, count >= after)

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


def folder_of(pid):
    """Where a batch has its files; none if it has ended."""
    with contextlib.suppress(OSError):
        for word in pathlib.Path(f"/proc/{pid}/cmdline").read_text().split("\0"):
            if word.endswith("/out.jsonl"):
                return pathlib.Path(word).parent


def has_lines(path):
    return path.exists() and path.stat().st_size > 0


def parent_of(pid):
    return int(re.search(r"^PPid:\s+(\d+)", pathlib.Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)[1])


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
        cls.weights = json.loads(ask(cls.url, "/v1/models")[2])["data"][0]["meta"]["fingerprint"]

    def setUp(self):
        self.output = self.folder / self.id().split(".")[-1]

    @classmethod
    def write(cls, name, lines):
        path = cls.folder / name
        path.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
        return path

    def start(self, *flags, path=None, rows_per_part=10):
        command = [sys.executable, SCORE, path or self.input, self.output, "--candor", CANDOR]
        environment = dict(os.environ, RAY_ADDRESS=self.cluster.address)
        driver = subprocess.Popen(
            [*command, "--rows-per-part", str(rows_per_part), *flags],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=environment,
        )
        # If a test fails.
        self.addCleanup(driver.kill)
        return driver

    def run_score(self, *flags, **options):
        """The exit status, and what it printed."""
        process = self.start(*flags, **options)
        printed, _ = process.communicate()
        return process.returncode, printed

    def wait(self, driver, condition):
        """Waits until something is so, which must be before the driver has ended; what it is."""
        while not (found := condition()):
            if driver.poll() is not None:
                self.fail(driver.stdout.read())
            time.sleep(0.02)
        return found

    def start_until_a_part_is_there(self, *flags, **options):
        driver = self.start(*flags, **options)
        self.addCleanup(driver.stdout.close)
        self.wait(driver, lambda: parts(self.output))
        return driver

    def kill(self, driver):
        driver.kill()
        driver.wait()

    def finish(self, *flags, how=3, **options):
        """Runs it to the end. Status 3: one request has an error."""
        status, printed = self.run_score(*flags, **options)
        self.assertEqual(status, how, printed)
        return printed

    def refuse(self, why, *flags, how=2, **options):
        self.assertIn(why, self.finish(*flags, how=how, **options))

    def check_answers(self):
        """Every request has one answer, the direct one, in files that are complete."""
        found = rows(self.output)
        self.assertEqual(sorted(row["custom_id"] for row in found), sorted(self.direct))
        for row in found:
            status, text = self.direct[row["custom_id"]]
            self.assertEqual((row["status_code"], unchanging(row["body"])), (status, text))
            self.assertTrue(row["request_id"])
            if row["custom_id"] == WRONG:
                self.assertEqual((status, row["weights"]), (400, None))
                self.assertEqual(row["error"], json.loads(text)["error"]["message"])
            else:
                self.assertEqual((row["error"], row["bits_class"]), (None, self.bits_class))
                self.assertEqual(row["weights"], self.weights)
        self.assertEqual(list(self.output.glob("_new-*")), [])
        # As the page says that it is read.
        self.assertEqual(len(pandas.read_parquet(self.output)), len(found))

    def test_answers_are_the_direct_ones_after_the_driver_was_killed(self):
        driver = self.start_until_a_part_is_there("--url", self.url)
        # Only one process may write there.
        self.refuse(f"another process writes to {self.output}", "--url", self.url)
        self.kill(driver)
        before = {part: part.stat().st_mtime_ns for part in parts(self.output)}
        self.assertLess(len(before), 20)
        # Left behind if it is killed just then.
        (self.output / "_new-1-part-000000.parquet").touch()
        printed = self.finish("--url", self.url)
        self.assertIn(f"parts: 20, to do: {20 - len(before)};", printed)
        for part, time_of_change in before.items():
            self.assertEqual(part.stat().st_mtime_ns, time_of_change)
        self.check_answers()
        # Once more: there is nothing to do, but all is checked.
        self.assertIn("to do: 0;", self.finish("--url", self.url))
        first, second, *_ = parts(self.output)
        second.write_bytes(first.read_bytes())
        self.refuse(f"{second} has answers to other requests: remove it", "--url", self.url)
        second.write_bytes(first.read_bytes()[:-100])
        self.refuse(f"{second} is no part of this output: remove it", "--url", self.url)
        second.unlink()
        self.finish("--url", self.url)
        self.check_answers()

    def test_a_server_that_is_killed_loses_nothing(self):
        with running(CANDOR, *FLAGS) as (process, url):
            driver = self.start_until_a_part_is_there("--url", url, "--url", f"{self.url}/")
            process.send_signal(signal.SIGKILL)
            self.assertLess(len(parts(self.output)), 20)
            printed, _ = driver.communicate()
            self.assertEqual(driver.returncode, 3, printed)
        self.check_answers()

    def test_a_node_that_is_lost_loses_nothing(self):
        node = self.cluster.add_node(num_cpus=1, object_store_memory=100 * 1024**2)
        driver = self.start_until_a_part_is_there("--url", self.url, "--actors", "3")
        self.cluster.remove_node(node, allow_graceful=False)
        self.assertLess(len(parts(self.output)), 20)
        printed, _ = driver.communicate()
        self.assertEqual(driver.returncode, 3, printed)
        self.check_answers()

    def test_engines_go_on_where_they_were_and_end_with_their_actors(self):
        # A flag that no other process has.
        marker = self.folder / "engine.toml"
        marker.touch()
        flags = ["--", *FLAGS[2:], "--config", str(marker)]
        driver = self.start(*flags, rows_per_part=100)
        self.addCleanup(driver.stdout.close)

        def engines():
            """The folders of the engines that have answered lines, by their process ids."""
            found = {pid: folder_of(pid) for pid in processes_with(str(marker), CANDOR)}
            return {pid: it for pid, it in found.items() if it and has_lines(it / "out.jsonl")}

        # One is killed: its part is gone on with, in the same folder.
        pid, folder = self.wait(driver, engines).popitem()
        os.kill(pid, signal.SIGKILL)
        self.wait(driver, lambda: pid not in engines() and folder in engines().values())
        # An actor is killed: its engine ends, and leaves no files.
        pid, folder = self.wait(driver, engines).popitem()
        os.kill(parent_of(pid), signal.SIGKILL)
        self.wait(driver, lambda: pid not in processes_with(str(marker)) and not folder.exists())
        # So it is with the driver.
        folders = list(self.wait(driver, engines).values())
        self.kill(driver)
        while processes_with(str(marker)) or any(folder.exists() for folder in folders):
            time.sleep(0.1)
        self.finish(*flags, rows_per_part=100)
        self.check_answers()
        while processes_with(str(marker)):
            time.sleep(0.1)

    def test_what_cannot_go_on_says_why(self):
        two = self.write("two.jsonl", self.requests[:2])
        self.refuse("/nowhere.gguf does not exist", "--actors", "1", "--", "--model", "/nowhere.gguf", path=two, how=1)
        self.refuse("unexpected argument '--unknown'", "--url", self.url, "--", "--unknown", path=two)
        self.refuse("not found", "--url", self.url, "--candor", "/nowhere/candor", path=two)
        # A part that is not complete.
        self.refuse("has answers to other requests", "--url", self.url, "--", "--shard", "0/2", path=two)
        self.assertEqual(parts(self.output), [])
        self.assertEqual(self.run_score("--url", self.url, path=two)[0], 0)

    def test_bits_classes_are_not_mixed(self):
        with other_class(self.url, "amx-00000000") as url:
            self.refuse("amx-00000000", "--url", self.url, "--url", url)
            self.assertEqual(parts(self.output), [])
            # A run that goes on elsewhere.
            self.kill(self.start_until_a_part_is_there("--url", self.url))
            before = parts(self.output)
            self.refuse("has the bits_class amx-00000000, but in other parts", "--url", url)
            self.assertEqual(parts(self.output), before)
        self.finish("--url", self.url)
        self.check_answers()

    def test_a_server_that_is_replaced_by_another_class_ends_the_run(self):
        with other_class(self.url, "amx-00000000", after=100) as url:
            self.refuse("amx-00000000", "--url", url)
            found = rows(self.output)
            self.assertTrue(0 < len(found) <= 100)
            self.assertEqual({row["bits_class"] for row in found if not row["error"]}, {self.bits_class})
            self.finish("--url", url, "--allow-mixed")
        found = rows(self.output)
        self.assertEqual({row["bits_class"] for row in found if not row["error"]}, {self.bits_class, "amx-00000000"})
        self.assertEqual(len({row["custom_id"] for row in found}), 200)
        self.refuse("was begun with --allow-mixed", "--url", self.url)

    def test_it_says_what_it_waits_for(self):
        two = self.write("two.jsonl", self.requests[:2])
        ray.init(self.cluster.address, log_to_driver=False)
        self.addCleanup(ray.shutdown)
        # They hold all CPUs.
        others = [ray.remote(Idle).options(num_cpus=1).remote() for _ in range(2)]
        ray.get([other.ready.remote() for other in others])
        driver = self.start("--actors", "1", "--", *FLAGS[2:], path=two)
        self.addCleanup(driver.stdout.close)
        line = ""
        while "waiting for a part" not in line:
            line = driver.stdout.readline()
            self.assertTrue(line, "it has ended")
        self.assertIn("1 actors need 1 CPUs each; the nodes have 2, of which 0 are free", line)
        for other in others:
            ray.kill(other)
        driver.communicate()
        self.assertEqual(driver.returncode, 0)
        self.assertEqual(ray.data.read_parquet(str(self.output)).count(), 2)

    def test_wrong_lines_flags_and_another_input_are_refused(self):
        first = self.requests[0]
        for wrong, why in [
            (dict(first, url="/v1/models"), "line 2: `url` must be one of"),
            (dict(first, custom_id=7), "line 2: `custom_id`"),
            (dict(first, custom_id="\ud800"), "line 2: not valid JSON: half a surrogate pair"),
            (dict(first, method="GET"), "line 2: `method`"),
            (dict(first, body={"stream": True}), "line 2: `body`"),
            (dict(first, body={"model": 7}), "line 2: `body.model`"),
            (dict(first, custom_id="x", body={"temperature": math.nan}), "line 2: not valid JSON: NaN"),
            (dict(first, x=1), "line 2: unknown field `x`"),
            ([], "line 2: must be an object"),
            (first, "line 2: line 1 has the custom_id"),
        ]:
            self.refuse(why, "--url", self.url, path=self.write("wrong.jsonl", [first, wrong]))
        for text, why in [("{]\n", "line 1: not valid JSON: "), ("\n", "has no requests")]:
            wrong = self.write("wrong.jsonl", [])
            wrong.write_text(text)
            self.refuse(why, "--url", self.url, path=wrong)
        self.refuse("cannot read the input", "--url", self.url, path=self.folder / "nowhere.jsonl")
        for flags in [("--url", "10.0.0.1:8000"), ("--rows-per-part", "0"), ("--cpus", "0"), ("--actors", "-1")]:
            self.refuse(f"argument {flags[0]}: {flags[1]!r} must be", *flags)
        self.assertFalse(self.output.exists())
        self.output.mkdir()
        (self.output / "_run.json").write_text('{"input_sha256": "ab", "rows_per_part": 10}')
        self.refuse("belongs to another input", "--url", self.url)


class Idle:
    def ready(self):
        pass


class Rows(unittest.TestCase):
    def test_a_body_is_what_the_server_wrote(self):
        body = '{"custom_id":"\\"body\\":","a":[-1.50e-7, 0.10],"b":{}}'
        line = (
            '{"id":"batch_req_1","custom_id":"\\"body\\":","response":{"status_code":%d,"request_id":"r","body":%s},'
            '"error":null,"bits_class":"amx-1"}\n'
        )
        models, origins = {'"body":': "m"}, {"m": {"fingerprint": "f"}}
        row = table.to_row(line % (200, body), models, origins)
        self.assertEqual((row["body"], row["weights"], row["bits_class"]), (body, "f", "amx-1"))
        row = table.to_row(line % (404, '{"error":{"message":"none"}}'), models, origins)
        self.assertEqual((row["status_code"], row["error"]), (404, "none"))
        row = table.to_row(line % (404, '{"detail":"none"}'), models, origins)
        self.assertEqual(row["error"], '{"detail":"none"}')

    def test_a_request_without_an_answer_has_an_error(self):
        error = '{"code":"c","message":"none"}'
        line = f'{{"id":"batch_req_1","custom_id":"a","response":null,"error":{error},"bits_class":null}}\n'
        row = table.to_row(line, {"a": ""}, {})
        self.assertEqual(row, {"custom_id": "a", "error": "none", "bits_class": None})

    def test_parts_of_other_weights_or_adapters_are_refused(self):
        origin = {"fingerprint": "f", "adapters": [], "bits_class": "amx-1", "exact_bits_class": None}
        for change, is_fine, is_fine_mixed in [
            ({}, True, True),
            ({"fingerprint": "g"}, False, False),
            ({"adapters": [{"id": 0}]}, False, False),
            ({"bits_class": "avx2-1"}, False, True),
            ({"exact_bits_class": "amx-2"}, True, True),
        ]:
            for allow_mixed, expected in [(False, is_fine), (True, is_fine_mixed)]:
                origins = files.Origins(allow_mixed)
                origins.join({"are_mixed": False, "models": {"": origin}})
                # Another model has weights of its own.
                origins.join({"are_mixed": False, "models": {"m": origin | {"fingerprint": "h"}}})
                other = {"are_mixed": False, "models": {"": origin | change}}
                with contextlib.nullcontext() if expected else self.assertRaises(files.Refused):
                    origins.join(other)
        origins = files.Origins(False)
        for exact in ["amx-2", None]:
            origins.join({"are_mixed": False, "models": {"": origin | {"exact_bits_class": exact}}})
        with self.assertRaises(files.Refused):
            origins.join({"are_mixed": False, "models": {"": origin | {"exact_bits_class": "amx-3"}}})


if __name__ == "__main__":
    unittest.main()
