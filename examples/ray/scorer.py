"""What runs on the nodes of the cluster: `candor batch`, for one part of the requests after another."""

import io
import json
import os
import pathlib
import socket
import subprocess
import tempfile

import pyarrow as pa
import pyarrow.parquet as pq

# A row of the output. An answer is a string: as a nested column, every object would get the keys of all others.
ROW = pa.schema(
    {
        "custom_id": pa.string(),
        "status_code": pa.int32(),  # null if no server answered
        "body": pa.string(),  # what the server wrote
        "error": pa.string(),  # null if there is none
        "request_id": pa.string(),
        "bits_class": pa.string(),
        "weights": pa.string(),  # the model's fingerprint
    }
)
# The shell becomes the batch. What it leaves behind ends the batch, and removes its folder, once the actor is gone,
# however it ended: then the pipe ends without a line.
SHELL = 'exec 3<&0; (read -r _ <&3 || { kill -KILL $$; rm -rf "$0"; }) & exec "$@" 3<&- < /dev/null'
# How often a part is begun or gone on with, before the run ends.
ATTEMPTS = 3


class Scorer:
    """Answers parts, each a batch of its own."""

    def __init__(self, command, flags, settings):
        self.command = command
        self.flags = flags
        self.environment = os.environ | settings

    def __call__(self, part):
        """The part's file; or the status with which the run must end, and why."""
        with tempfile.TemporaryDirectory(prefix="candor-") as folder:
            folder = pathlib.Path(folder)
            (folder / "in.jsonl").write_bytes(part["requests"])
            status, why = self.answer(folder)
            file = b"" if status else to_parquet(folder, part["requests"])
        return {"part": part["part"], "file": file, "status": status, "why": why}

    def answer(self, folder):
        """Runs the batch until all is answered: 0. Or 1, or 2 if another run would change nothing; and why."""
        shell = ["sh", "-c", SHELL, folder, *self.command, folder / "in.jsonl", folder / "out.jsonl", *self.flags]
        for _ in range(ATTEMPTS):
            with open(folder / "log", "wb") as log:
                batch = subprocess.Popen(shell, stdin=subprocess.PIPE, stdout=log, stderr=log, env=self.environment)
                batch.wait()
            # Nothing is left to be ended.
            batch.communicate(b"\n")
            status = batch.returncode
            # 3: some lines have errors.
            if status in (0, 3):
                return 0, ""
            # 1, 130 or a signal: it goes on where it was.
            may_go_on = status in (1, 130) or status < 0
            if not may_go_on:
                break
        last = (folder / "log").read_text(errors="replace").strip()[-2000:]
        return 1 if may_go_on else 2, f"`candor batch` on {socket.gethostname()} ended with status {status}:\n{last}"


def to_parquet(folder, requests):
    """The answers as a Parquet file, in which `candor` is what the batch says of their origins."""
    origins = json.loads((folder / "out.jsonl.state").read_text())["origins"]
    requests = map(json.loads, requests.split(b"\n"))
    models = {request["custom_id"]: request["body"].get("model") or "" for request in requests}
    with open(folder / "out.jsonl", encoding="utf-8", newline="\n") as lines:
        rows = [to_row(line, models, origins["models"]) for line in lines]
    table = pa.Table.from_pylist(rows, ROW.with_metadata({"candor": json.dumps(origins)}))
    file = io.BytesIO()
    pq.write_table(table, file)
    return file.getvalue()


def to_row(line, models, origins):
    """A row for a line of the batch's output."""
    answer = json.loads(line)
    row = {"custom_id": answer["custom_id"], "bits_class": answer["bits_class"]}
    if not answer["response"]:
        return row | {"error": answer["error"]["message"]}
    # As it was written: Python would write numbers in another way. A quote within a string has a backslash.
    start = line.index('"body":') + len('"body":')
    _, end = json.JSONDecoder().raw_decode(line, start)
    status, body = answer["response"]["status_code"], answer["response"]["body"]
    row |= {"status_code": status, "body": line[start:end], "request_id": answer["response"]["request_id"]}
    if status == 200:
        return row | {"weights": origins.get(models[answer["custom_id"]], {}).get("fingerprint")}
    try:
        return row | {"error": body["error"]["message"]}
    except (KeyError, TypeError):
        return row | {"error": row["body"][:200]}
