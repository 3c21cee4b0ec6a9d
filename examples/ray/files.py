"""The input, and the folder with the answers."""

import fcntl
import io
import json
import os

import pyarrow as pa
import pyarrow.parquet as pq

ROUTES = ("/v1/completions", "/v1/chat/completions", "/v1/score", "/v1/perplexity", "/v1/embeddings")
FIELDS = {"custom_id", "method", "url", "body"}
# The fields that decide what a request has in common with others, in the order in which they reach the model.
BEGINNING = ("model", "lora", "tools", "messages", "prompt", "stem", "items", "text", "input")
# What a batch says of a model.
ORIGIN = ("fingerprint", "adapters", "bits_class", "exact_bits_class")


class Ended(Exception):
    """Why a run could not go on, and the status that it exits with. 1: it can be run again."""

    def __init__(self, why, status=1):
        super().__init__(why)
        self.status = status


class Refused(Ended):
    """Files, flags or servers do not fit together."""

    def __init__(self, why):
        super().__init__(why, status=2)


def read(data):
    """The ids and lines of a file's bytes, checked, in an order in which those that begin alike are neighbours."""
    numbers, found = {}, []
    for number, line in enumerate(data.split(b"\n"), start=1):
        if not line.strip():
            continue
        try:
            request = parse(line)
        except (ValueError, RecursionError) as error:
            raise Refused(f"line {number}: {error}") from error
        custom_id = request["custom_id"]
        if custom_id in numbers:
            raise Refused(f"line {number}: line {numbers[custom_id]} has the custom_id {custom_id!r}, too")
        numbers[custom_id] = number
        beginning = json.dumps([request["body"].get(name) for name in BEGINNING])
        found.append((beginning, number, custom_id, line))
    if not found:
        raise Refused("the input has no requests")
    return [(custom_id, line) for *_, custom_id, line in sorted(found)]


def parse(line):
    """Checks a line as `candor batch` does, which knows it only as a part's. The server checks the body."""

    def no_number(name):
        raise ValueError(f"not valid JSON: {name}")

    try:
        request = json.loads(line.decode(), parse_constant=no_number)
    except json.JSONDecodeError as error:
        raise ValueError(f"not valid JSON: {error.msg}, at column {error.colno}") from error
    if not isinstance(request, dict):
        raise ValueError("must be an object")
    try:
        json.dumps(request, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise ValueError("not valid JSON: half a surrogate pair, which is no character") from error
    if not isinstance(request.get("custom_id"), str) or not request["custom_id"]:
        raise ValueError("`custom_id` must be a string that no other line has")
    if request.get("method") != "POST":
        raise ValueError('`method` must be "POST"')
    if request.get("url") not in ROUTES:
        raise ValueError(f"`url` must be one of {', '.join(ROUTES)}")
    body = request.get("body")
    if not isinstance(body, dict) or body.get("stream"):
        raise ValueError("`body` must be an object, the request, and no stream")
    if not isinstance(body.get("model") or "", str):
        raise ValueError("`body.model` must be a string")
    if unknown := sorted(request.keys() - FIELDS):
        raise ValueError(f"unknown field `{unknown[0]}`: a line has {', '.join(sorted(FIELDS))}")
    return request


class Output:
    """A folder with a file for each part of the requests, which is there only if it is complete."""

    def __init__(self, folder, found, digest, rows_per_part, allow_mixed):
        self.folder = folder
        self.parts = [found[at : at + rows_per_part] for at in range(0, len(found), rows_per_part)]
        self.origins = Origins(allow_mixed)
        folder.mkdir(parents=True, exist_ok=True)
        self.lock()
        # Whoever reads the folder skips names that begin so.
        for left in folder.glob("_new-*"):
            left.unlink()
        for_what = {"input_sha256": digest, "rows_per_part": rows_per_part}
        run = folder / "_run.json"
        if not run.exists():
            self.put(run, json.dumps(for_what).encode())
        if (there := run.read_bytes()) != json.dumps(for_what).encode():
            raise Refused(f"{folder} belongs to another input, or to other parts: {there.decode()}, not {for_what}")

    def lock(self):
        """Keeps the folder for this process, until it ends."""
        self.locked = open(self.folder / "_lock", "w")
        try:
            fcntl.flock(self.locked, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Refused(f"another process writes to {self.folder}") from None
        except OSError as error:
            print(f"{self.folder} cannot be locked: see that no other process writes to it ({error})", flush=True)

    def place(self, number):
        return self.folder / f"part-{number:06}.parquet"

    def todo(self):
        return [number for number in range(len(self.parts)) if not self.place(number).exists()]

    def check(self):
        """Checks the parts that are there; how many of their rows are errors."""
        there = set(range(len(self.parts))).difference(self.todo())
        return sum(self.errors_of(number, self.place(number)) for number in sorted(there))

    def add(self, number, file):
        """Adds a part's file; how many of its rows are errors."""
        errors = self.errors_of(number, io.BytesIO(file))
        self.put(self.place(number), file)
        return errors

    def errors_of(self, number, file):
        """Compares a part with its requests, and with what computed the other parts."""
        place = self.place(number)
        try:
            table = pq.read_table(file, columns=["custom_id", "error"])
            origins = json.loads(table.schema.metadata[b"candor"])
        except (pa.ArrowException, OSError, ValueError, TypeError, KeyError) as error:
            why = f"{place} is no part of this output: remove it, and it is computed again ({error})"
            raise Refused(why) from error
        if sorted(table["custom_id"].to_pylist()) != sorted(custom_id for custom_id, _ in self.parts[number]):
            raise Refused(f"{place} has answers to other requests: remove it, and it is computed again")
        try:
            self.origins.join(origins)
        except Refused as refused:
            raise Refused(f"{place}: {refused}") from refused
        return len(table) - table["error"].null_count

    def put(self, place, data):
        """A file has its name only once it is on the disk."""
        temporary = place.with_name(f"_new-{os.getpid()}-{place.name}")
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.rename(place)
        folder = os.open(self.folder, os.O_RDONLY)
        os.fsync(folder)
        os.close(folder)


class Origins:
    """What computed the answers of each model so far: weights, adapters and bits classes, which are not mixed."""

    def __init__(self, allow_mixed):
        self.allow_mixed = allow_mixed
        self.seen = {}

    def join(self, part):
        """Adds those of another part. Within a part, `candor batch` has compared all answers."""
        if part["are_mixed"] and not self.allow_mixed:
            raise Refused("was begun with --allow-mixed")
        for name, origin in part["models"].items():
            seen = self.seen.setdefault(name, {})
            shown = f"the model `{name}`" if name else "the default model"
            for field in ORIGIN:
                # Null: no server said it, or nothing asked for it.
                if (new := origin.get(field)) is None:
                    continue
                old = seen.setdefault(field, new)
                if new != old and not (self.allow_mixed and field.endswith("bits_class")):
                    raise Refused(
                        f"{shown} has the {field} {new}, but in other parts {old}: their numbers differ. With "
                        "--allow-mixed there may be several bits classes, but never several weights"
                    )
