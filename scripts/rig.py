"""Environments and a server for running other programs against Candor, for tests/clients/run.py, tests/web/run.py and
examples/run.py. Standard library only."""

import contextlib
import hashlib
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import time

HERE = pathlib.Path(__file__).resolve().parent
CACHE = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache") / "candor"


class Unprepared(Exception):
    """A program's requirements could not be installed."""


def run_tool(command, **options):
    done = subprocess.run(
        [str(part) for part in command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **options
    )
    if done.returncode != 0:
        last = "\n".join(done.stdout.strip().splitlines()[-12:])
        named = " ".join([pathlib.Path(command[0]).name, *(str(part) for part in command[1:4])])
        raise Unprepared(f"`{named} ...` failed:\n{last}")


def environment(name, files, build):
    """The folder that `build` fills, made once for what the files say now."""
    stamp = hashlib.sha256(sys.version.encode())
    for file in files:
        stamp.update(file.read_bytes())
    place = CACHE / "clients" / f"{name.replace('/', '-')}-{stamp.hexdigest()[:12]}"
    if not (place / "complete").exists():
        print(f"installing what {name} needs", file=sys.stderr, flush=True)
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir(parents=True)
        build(place)
        (place / "complete").touch()
    return place


def python_environment(name, requirements):
    """The folder with the Python of a virtual environment that has what the file names. A file that begins with
    `# --no-deps` names all that is to be installed, whatever else its packages ask for."""
    options = ["--no-deps"] if requirements.read_text().startswith("# --no-deps") else []

    def build(place):
        try:
            run_tool([sys.executable, "-m", "venv", place / "venv"])
        except Unprepared as error:
            raise Unprepared(f"{error}\nPython lacks venv. On Debian: apt-get install python3-venv") from None
        pip = [place / "venv/bin/python", "-m", "pip", "install", "--quiet"]
        run_tool([*pip, *options, "--requirement", requirements])

    return environment(name, [requirements], build) / "venv" / "bin"


def node_tools():
    """The folder with node and npm. Debian's are too old for the clients; PyPI has newer ones, which need no root."""
    return python_environment("node", HERE / "node.txt")


def node_environment(name, folder):
    """The tools, and a folder that has the modules which package-lock.json of this folder names."""
    tools = node_tools()
    files = [folder / "package-lock.json", folder / "package.json", *folder.glob(".npmrc")]

    def build(place):
        for file in files:
            shutil.copy(file, place)
        run_tool([tools / "npm", "ci", "--no-audit", "--no-fund"], cwd=place, env=with_path(tools))

    return tools, environment(name, files, build)


def with_path(folder):
    """This process's environment, with the programs of a folder first."""
    return dict(os.environ, PATH=f"{folder}{os.pathsep}{os.environ['PATH']}")


def plain_environment():
    """This process's, without settings of a Candor: those that its user has are not what is to be tried, and some that the
    clients are given, as CANDOR_URL, are no settings at all."""
    return {name: value for name, value in os.environ.items() if not name.startswith("CANDOR_")}


@contextlib.contextmanager
def server(binary, *flags):
    """Starts one on a free port, with its defaults but for the flags; its address."""
    with running(binary, *flags) as (_, url):
        yield url


@contextlib.contextmanager
def running(binary, *flags):
    """As `server`: the process, and its address."""
    with tempfile.TemporaryDirectory() as folder:
        log = pathlib.Path(folder) / "log"
        with open(log, "wb") as output:
            process = subprocess.Popen(
                [binary, "serve", "--port", "0", *flags],
                env=plain_environment(),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )
        try:
            yield process, address(process, log)
        finally:
            process.terminate()
            process.wait()


def address(process, log):
    while True:
        text = log.read_text(encoding="utf-8", errors="replace")
        if ready := re.search(r"ready: (http://\S+)", text):
            return ready[1]
        if process.poll() is not None:
            sys.exit(f"The server ended before it was ready:\n{text}")
        time.sleep(0.1)
