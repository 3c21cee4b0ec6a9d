#!/usr/bin/env python3
"""Fetches the models of `make test-models`, records the reference's answers on each, and prints the folder with both:
models/ and golden/ in the cache. Standard library only.

Recordings are made again when the requests, the versions of the reference, or the CPU change.
"""

import hashlib
import os
import platform
import re
import subprocess
import sys
from pathlib import Path

from rig import CACHE, Unprepared, python_environment

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
REQUIREMENTS = HERE / "reference.txt"
REQUESTS = [ROOT / "tests" / "golden" / "avx512" / "smollm2-135m.json"]
# Models with fill-in-the-middle tokens, and a chat template that knows tools.
CODE_REQUESTS = [ROOT / "tests" / "golden" / "code-model.json"]
MODELS = {
    "gemma-3-270m": REQUESTS,
    "qwen2.5-coder-0.5b": [*REQUESTS, *CODE_REQUESTS],
    "qwen2.5-coder-1.5b": CODE_REQUESTS,
}


def reference():
    """A Python with the reference. As in Candor's own build, compilers that break llama.cpp's AMX routines get what they
    need, which packages that pip built earlier may lack."""
    os.environ["CMAKE_ARGS"] = f"-DCMAKE_PROJECT_INCLUDE={ROOT / 'build' / 'llama-cpp.cmake'}"
    os.environ["PIP_NO_CACHE_DIR"] = "1"
    return python_environment("reference", REQUIREMENTS) / "python"


def cpu():
    """What decides how numbers are rounded."""
    info = Path("/proc/cpuinfo")
    flags = re.search(r"^(flags|Features)\s*:.*$", info.read_text(), re.MULTILINE) if info.exists() else None
    return flags[0] if flags else platform.processor()


def record(name, model, requests):
    script = HERE / "record-golden.py"
    stamp = hashlib.sha256(cpu().encode())
    for path in (script, REQUIREMENTS, *requests):
        stamp.update(path.read_bytes())
    out = CACHE / "golden" / f"{name}.json"
    made_from = out.with_suffix(".sha256")
    if out.exists() and made_from.exists() and made_from.read_text() == stamp.hexdigest():
        return
    out.parent.mkdir(parents=True, exist_ok=True)
    print(f"recording the reference's answers on {name}; this takes minutes", file=sys.stderr, flush=True)
    made_from.unlink(missing_ok=True)
    subprocess.run([reference(), script, model, out, "--cases", *requests], check=True, stdout=sys.stderr)
    made_from.write_text(stamp.hexdigest())


def main():
    for name, requests in MODELS.items():
        fetch = [sys.executable, HERE / "fetch-model.py", name]
        model = subprocess.run(fetch, check=True, stdout=subprocess.PIPE, text=True).stdout.strip()
        record(name, model, requests)
    print(CACHE)


if __name__ == "__main__":
    try:
        main()
    except Unprepared as error:
        sys.exit(f"prepare-test-models: {error}")
    except subprocess.CalledProcessError:
        sys.exit(1)
