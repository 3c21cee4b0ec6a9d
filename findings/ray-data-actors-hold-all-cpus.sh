#!/usr/bin/env bash
# Ray Data makes no progress, and reports no error, if its actors hold all CPUs while tasks before them need some.
#
# Version: ray 2.60.0, from PyPI.
#
# map_batches with a class starts its actors before anything else, and each keeps its CPUs until it has had its input. If there
# are as many as CPUs, the tasks that make this input are never run: no row arrives, and there is no error however long one
# waits. With one actor less, the same dataset takes seconds. If Ray can fuse the tasks into the actors, as it does with a read
# that needs as many CPUs as they do, there is nothing to wait for; here the tasks need another number of CPUs.
#
# One would expect otherwise: Ray plans with the CPUs that the cluster has, so it could start fewer actors, run the tasks first,
# or say that the pool leaves no room. (https://github.com/ray-project/ray/issues/44687 asked for that in 2024.)
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"

python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check "ray[data]==2.60.0"

cat > actors.py << 'END'
"""The rows that arrive within a minute and a half from a dataset with a task before an actor pool."""
import os
import sys
import threading
import time

import ray


class Identity:
    def __call__(self, batch):
        return batch


actors = int(sys.argv[1])
ray.init("local", num_cpus=2, include_dashboard=False, object_store_memory=100_000_000, log_to_driver=False)
ray.data.DataContext.get_current().enable_progress_bars = False
dataset = ray.data.range(100, override_num_blocks=10).map_batches(lambda batch: batch, num_cpus=0.5)
dataset = dataset.map_batches(Identity, num_cpus=1, compute=ray.data.ActorPoolStrategy(size=actors))


def give_up():
    print(f"2 CPUs, actors: {actors}: no row in 90 seconds", flush=True)
    os._exit(3)


threading.Timer(90, give_up).start()
start, rows = time.monotonic(), len(dataset.take_all())
print(f"2 CPUs, actors: {actors}: {rows} rows in {time.monotonic() - start:.1f} seconds", flush=True)
os._exit(0)
END
export RAY_USAGE_STATS_ENABLED=0
echo "ray $(venv/bin/python -c 'import ray; print(ray.__version__)')"
venv/bin/python actors.py 1 2> log || { cat log; exit 1; }
status=0
venv/bin/python actors.py 2 2> log || status=$?
[ "$status" -eq 3 ] || { cat log; exit 1; }
# What Ray said meanwhile names neither a cause nor a wait.
if grep -iE "insufficient|deadlock|not enough|hang|stuck|waiting|pending" log; then exit 1; fi
