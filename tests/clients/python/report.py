"""What the clients in Python share: how a check is told of, and plain answers to hold a client's against."""

import importlib.metadata
import json
import os
import sys
import traceback
import urllib.request

URL = os.environ["CANDOR_URL"]
BASE_URL = f"{URL}/v1"
# A second server that wants a key; None where there is only the one.
KEYED_URL = os.environ.get("CANDOR_KEYED_URL")
KEY = os.environ.get("CANDOR_KEY")


class Report:
    """Runs checks, and prints a line for each."""

    def __init__(self, client, *packages):
        self.client = client
        self.version = ", ".join(f"{package} {importlib.metadata.version(package)}" for package in packages)

    def check(self, what, wanted=True):
        """Decorates a function that is run at once; it failed if it raises. Not run at all unless it is `wanted`."""

        def run(function):
            if not wanted:
                return
            why = ""
            try:
                function()
            except Exception as error:
                traceback.print_exc()
                why = f"{type(error).__name__}: {error}"[:500]
            line = {"client": self.client, "version": self.version, "check": what, "passed": not why, "why": why}
            print(json.dumps(line), flush=True)
            sys.stderr.flush()

        return run


def equal(got, wanted, what="got"):
    if got != wanted:
        raise AssertionError(f"{what}: {got!r} instead of {wanted!r}")


def post(path, **body):
    """The plain answer of the server."""
    request = urllib.request.Request(
        URL + path, json.dumps(body).encode(), {"content-type": "application/json"}
    )
    with urllib.request.urlopen(request) as answer:
        return json.load(answer)


def same_vectors(got, texts):
    """The vectors are those that the server makes of the texts."""
    wanted = [item["embedding"] for item in post("/v1/embeddings", input=texts)["data"]]
    equal(len(got), len(wanted), "vectors")
    for one, other in zip(got, wanted):
        assert max(abs(a - b) for a, b in zip(one, other)) < 1e-6


def get(path):
    with urllib.request.urlopen(URL + path) as answer:
        return answer.read().decode()


def gauge(name, absent=None):
    """A value of /metrics; what was never counted is perhaps `absent`."""
    for line in get("/metrics").splitlines():
        if line.startswith(f"{name} "):
            return float(line.split()[1])
    if absent is None:
        raise AssertionError(f"/metrics has no {name}")
    return absent


def raises(kind, function):
    """The error of this kind that the function raises."""
    try:
        function()
    except kind as error:
        return error
    raise AssertionError(f"no {kind.__name__}")
