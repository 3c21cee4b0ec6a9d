"""The answers of a batch as a table."""

import io
import json
import re

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
    start = re.search(r'"body": *', line).end()
    _, end = json.JSONDecoder().raw_decode(line, start)
    status, body = answer["response"]["status_code"], answer["response"]["body"]
    row |= {"status_code": status, "body": line[start:end], "request_id": answer["response"]["request_id"]}
    if status == 200:
        return row | {"weights": origins.get(models[answer["custom_id"]], {}).get("fingerprint")}
    try:
        message = body["error"]["message"]
    except (KeyError, TypeError):
        message = None
    return row | {"error": message if isinstance(message, str) else row["body"][:200]}
