#!/usr/bin/env python3
"""Tests examples/ray on a cluster of two nodes, both on this machine.

    run.py --candor BINARY [--model SOURCE] [ARGUMENTS of unittest]

The Python packages are installed once, in the versions of examples/ray/requirements.txt, in the cache.
"""

import argparse
import os
import pathlib
import subprocess
import sys

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent
sys.path.insert(0, str(ROOT / "scripts"))

from rig import Unprepared, plain_environment, python_environment  # noqa: E402


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n", maxsplit=1)[0])
    parser.add_argument("--candor", required=True, help="the binary of the servers to start")
    parser.add_argument("--model", default="default", help="their model (the default model)")
    options, others = parser.parse_known_args()
    try:
        python = python_environment("ray", ROOT / "examples/ray/requirements.txt") / "python"
    except Unprepared as error:
        sys.exit(str(error))
    model = os.path.abspath(options.model) if os.path.exists(options.model) else options.model
    environment = dict(
        plain_environment(),
        TEST_CANDOR=os.path.abspath(options.candor),
        TEST_MODEL=model,
        RAY_USAGE_STATS_ENABLED="0",
        PYTHONDONTWRITEBYTECODE="1",
        PYTHONPATH=str(ROOT / "scripts"),
    )
    command = [python, "-m", "unittest", "-v", *(others or ["test_score"])]
    return subprocess.run(command, cwd=HERE, env=environment).returncode


if __name__ == "__main__":
    sys.exit(main())
