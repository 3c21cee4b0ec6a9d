#!/usr/bin/env bash
# In Ray Data, which keys an object has depends on which other rows are in its block.
#
# Version: ray 2.60.0 with pyarrow 26.0.1, from PyPI.
#
# Two rows with {"a": 1} and {"b": 2} come back as they are if each is in a block of its own, and as {"a": 1, "b": None} and
# {"a": None, "b": 2} if they share one. Nothing else is changed: the number of blocks, which Ray chooses by the size of the
# data and the CPUs of the cluster, decides what take_all() returns. Written to Parquet and read again, all rows have all keys
# of all files. With objects such as logprobs, whose keys are tokens, each gets every token that occurs near it.
#
# One would expect otherwise: how a dataset is cut into blocks is about speed, and rows of Python objects come back equal.
set -euo pipefail

# Ray has sockets there, whose paths must be short.
folder=$(mktemp -d /tmp/XXXXXX)
trap 'rm -rf "$folder"' EXIT
cd "$folder"

python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check "ray[data]==2.60.0" pyarrow==26.0.1

cat > keys.py << 'END'
"""The same rows in one block, in two, and through Parquet."""
import os

import pyarrow
import ray

print("ray", ray.__version__, "with pyarrow", pyarrow.__version__)
ray.init(
    "local",
    num_cpus=1,
    include_dashboard=False,
    object_store_memory=100_000_000,
    log_to_driver=False,
    _temp_dir=os.path.abspath("ray"),
)
ray.data.DataContext.get_current().enable_progress_bars = False
rows = [{"object": {"a": 1}}, {"object": {"b": 2}}]
padded = [{"object": {"a": 1, "b": None}}, {"object": {"a": None, "b": 2}}]
one = ray.data.from_items(rows, override_num_blocks=1).take_all()
print("in one block: ", one)
dataset = ray.data.from_items(rows, override_num_blocks=2)
two = dataset.take_all()
print("in two blocks:", two)
dataset.write_parquet("rows")
again = sorted(ray.data.read_parquet("rows").take_all(), key=str)
print("read again:   ", again)
assert (one, two, again) == (padded, rows, sorted(padded, key=str)), "the behaviour has changed"
ray.shutdown()
END
RAY_USAGE_STATS_ENABLED=0 venv/bin/python keys.py 2> log || { cat log; exit 1; }
