#!/usr/bin/env python3
"""Type-checks the scripts of the page at `/` (tsc, tsconfig.json) and tests the page in a browser (pytest).

    run.py --candor BINARY [ARGUMENTS of pytest]

conftest.py adds options to pytest's own; `--page src/playground/page` tests files that are not in the binary yet. The
dependencies pinned by requirements.txt and package-lock.json are installed once, in the cache. The browser is the system's
Chromium; none is downloaded.
"""

import os
import pathlib
import subprocess
import sys

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent.parent / "scripts"))

from rig import Unprepared, node_environment, python_environment, with_path  # noqa: E402


def main():
    try:
        tools, place = node_environment("web-types", HERE)
        python = python_environment("web", HERE / "requirements.txt") / "python"
    except Unprepared as error:
        sys.exit(f"web: {error}")
    checked = subprocess.run([place / "node_modules/.bin/tsc", "--project", HERE], env=with_path(tools))
    tried = subprocess.run([python, "-m", "pytest", HERE, *sys.argv[1:]], env=dict(os.environ, PYTHONDONTWRITEBYTECODE="1"))
    return checked.returncode or tried.returncode


if __name__ == "__main__":
    sys.exit(main())
