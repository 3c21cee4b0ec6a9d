"""The input, and the folder with the answers."""

import json
import os

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from origins import Refused, key_of

ROUTES = ("/v1/completions", "/v1/chat/completions", "/v1/score", "/v1/perplexity", "/v1/embeddings")
# The fields that decide what a request has in common with others, in the order in which they reach the model.
BEGINNING = ("model", "lora", "tools", "messages", "prompt", "stem", "items", "text", "input")

# A row of the output. An answer is a string: as a nested column, every object would get the keys of all others.
ROW = pa.schema(
    {
        "custom_id": pa.string(),
        "status_code": pa.int32(),  # null if no server answered
        "body": pa.string(),  # what the server wrote, byte for byte
        "error": pa.string(),  # null if there is none
        "request_id": pa.string(),
        "bits_class": pa.string(),
        "weights": pa.string(),  # the model's fingerprint
        "server": pa.string(),
    }
)


def read(data):
    """The requests of a file's bytes, checked, in an order in which those that begin alike are neighbours."""
    found = {}
    for number, line in enumerate(data.split(b"\n"), start=1):
        if not line.strip():
            continue
        try:
            request = json.loads(line)
            check(request)
        except ValueError as error:
            raise Refused(f"line {number}: {error}") from error
        if request["custom_id"] in found:
            raise Refused(f"line {number}: another line has the custom_id {request['custom_id']!r}")
        found[request["custom_id"]] = request
    return sorted(found.values(), key=lambda it: json.dumps([it["body"].get(name) for name in BEGINNING]))


def check(request):
    """Lines are those of `candor batch`, and OpenAI's. The server checks the body."""
    if not isinstance(request, dict):
        raise ValueError("must be an object")
    if not isinstance(request.get("custom_id"), str) or not request["custom_id"]:
        raise ValueError("`custom_id` must be a string that no other line has")
    if request.get("url") not in ROUTES:
        raise ValueError(f"`url` must be one of {', '.join(ROUTES)}")
    if not isinstance(request.get("body"), dict) or request["body"].get("stream"):
        raise ValueError("`body` must be an object, the request, and no stream")


class Output:
    """A folder with a file for each part of the requests, which is there only if it is complete."""

    def __init__(self, folder, found, digest, rows_per_part):
        self.folder = folder
        self.parts = [found[at : at + rows_per_part] for at in range(0, len(found), rows_per_part)]
        # Answers of a part, until all are there.
        self.pending = {}
        self.folder.mkdir(parents=True, exist_ok=True)
        for_what = {"input_sha256": digest, "rows_per_part": rows_per_part}
        # Whoever reads the folder skips names that begin so.
        run = self.folder / "_run.json"
        if not run.exists():
            self.put(run, lambda place: place.write_text(json.dumps(for_what)))
        if (found := json.loads(run.read_text())) != for_what:
            raise Refused(f"{folder} belongs to another input, or to other parts: {found}, not {for_what}")

    def place(self, number):
        return self.folder / f"part-{number:06}.parquet"

    def is_done(self, number):
        return self.place(number).exists()

    def check(self, known):
        """Compares what is there with the requests, and adds its origins; how many rows are errors."""
        errors = 0
        for number in filter(self.is_done, range(len(self.parts))):
            columns = ["custom_id", "error", "weights", "bits_class"]
            rows = pq.read_table(self.place(number), columns=columns).to_pylist()
            if [row["custom_id"] for row in rows] != [request["custom_id"] for request in self.parts[number]]:
                raise Refused(f"{self.place(number)} has answers of other requests")
            for request, row in zip(self.parts[number], rows):
                if row["error"] is None:
                    known.admit(key_of(request), row["weights"], row["bits_class"])
                else:
                    errors += 1
        return errors

    def add(self, table):
        """Keeps answers, and writes the parts that they complete; how many rows these have, and how many are errors."""
        rows = errors = 0
        for number in pc.unique(table["part"]).to_pylist():
            tables = self.pending.setdefault(number, [])
            tables.append(table.filter(pc.field("part") == number).drop_columns("part"))
            if sum(map(len, tables)) == len(self.parts[number]):
                whole = pa.concat_tables(self.pending.pop(number))
                self.put(self.place(number), lambda place: pq.write_table(whole, place))
                rows += len(whole)
                errors += len(whole) - whole["error"].null_count
        return rows, errors

    def put(self, place, write):
        """A file has its name only once it is on the disk."""
        temporary = place.with_name(f"_new-{place.name}")
        write(temporary)
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        temporary.rename(place)
