#!/usr/bin/env python3
"""Runs every notebook and script of this directory against a Candor, and compares the output with what is committed.

    run.py --candor BINARY [--model SOURCE]    starts a server on a free port, and stops it
    run.py --url http://127.0.0.1:8000         uses a running server
    run.py … --write                           stores the output, in the notebooks and in curl/outputs
    run.py … streaming 04-stream               runs only these

The Python packages are installed once, in the versions of requirements.txt, in the cache. A cell or script must not fail,
and its text must be the same, except that numbers with a decimal point may differ by TOLERANCE. Cells tagged `varies` are
run but not compared, and images only need to exist. The committed output is from a CPU with AVX-512. On others the model
gives different numbers and texts (docs/reproducibility.md), so everything is run and nothing compared.
"""

import argparse
import contextlib
import difflib
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import time

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "scripts"))

from rig import Unprepared, python_environment, server  # noqa: E402

REQUIREMENTS = HERE / "requirements.txt"
# Of a number, or of a share of it where it is larger than 1.
TOLERANCE = 1e-3
DECIMAL = re.compile(r"-?\d+\.\d+(?:e[-+]?\d+)?")
# On another kind of processor nothing is compared.
CPU = pathlib.Path("/proc/cpuinfo")
IS_AS_COMMITTED = CPU.exists() and "avx512_vnni" in CPU.read_text()
# What differs between two answers to one request: names, times, and what the cache knew.
CHANGING = [
    (re.compile(r'"id":"(cmpl|chatcmpl|call)[-_][^"]*"'), r'"id":"\1-…"'),
    (re.compile(r'"created":\d+'), '"created":0'),
    (re.compile(r'"system_fingerprint":"[^"]*"'), '"system_fingerprint":"…"'),
    (re.compile(r'"cached_tokens":\d+'), '"cached_tokens":0'),
]


class Failed(Exception):
    """A notebook or script that did not do what it should."""


# --- The environment.


def run_inside(python):
    """Starts this program again with the environment's Python, unless it is what runs already."""
    if pathlib.Path(sys.prefix) != python.parent.parent:
        os.execv(python, [str(python), *sys.argv])


def nothing_of_the_user(directory):
    """Settings, kernels and histories of Jupyter, IPython and matplotlib stay out of it."""
    for variable in ("JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR", "IPYTHONDIR", "MPLCONFIGDIR"):
        os.environ[variable] = tempfile.mkdtemp(dir=directory)
    os.environ.pop("MPLBACKEND", None)


# --- The server.


def plain_server(candor, model):
    """A server on a free port, with what the scripts need of it; its address."""
    flags = ["--set", "embeddings.pooling=mean"]
    if model:
        flags += ["--model", model]
    return server(candor, *flags)


# --- Comparison.


def differences(expected, found):
    """What differs between two texts, as lines; none if nothing does but blanks and the last digits of numbers."""
    before, after = ([" ".join(line.split()) for line in text.strip().splitlines()] for text in (expected, found))
    # Lines that are close enough count as the expected ones, so that what is printed is what differs.
    if len(before) == len(after):
        after = [old if close(old, new) else new for old, new in zip(before, after)]
    return list(difflib.unified_diff(before, after, "committed", "now", lineterm="", n=0))


def close(expected, found):
    if DECIMAL.sub("#", expected) != DECIMAL.sub("#", found):
        return False
    pairs = zip(DECIMAL.findall(expected), DECIMAL.findall(found))
    return all(abs(float(old) - float(new)) <= TOLERANCE * max(1, abs(float(old))) for old, new in pairs)


# --- Notebooks.


def run_notebook(path, write):
    import nbclient
    import nbformat

    committed = nbformat.read(path, as_version=4)
    notebook = nbformat.read(path, as_version=4)
    try:
        client = nbclient.NotebookClient(notebook, timeout=None, resources={"metadata": {"path": str(HERE)}})
        kernel = client.create_kernel_manager()
        # Sockets in a directory of our own, not ports that anyone on the machine could reach.
        kernel.transport, kernel.ip = "ipc", os.path.join(os.environ["JUPYTER_RUNTIME_DIR"], "k")
        client.execute()
    except nbclient.exceptions.CellExecutionError as error:
        raise Failed(str(error)) from error
    tidy(notebook)
    if write:
        nbformat.write(notebook, path)
        return
    if not IS_AS_COMMITTED:
        return
    problems = []
    for old, new in zip(committed.cells, notebook.cells):
        if old.cell_type == "code" and "varies" not in old.metadata.get("tags", []):
            problems += [f"cell {old.id}: {line}" for line in compare_outputs(old.outputs, new.outputs)]
    if problems:
        raise Failed("\n".join(problems))


def tidy(notebook):
    """Leaves in a notebook what is the same after each run."""
    notebook.metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    for cell in notebook.cells:
        tags = cell.metadata.get("tags")
        cell.metadata = {"tags": tags} if tags else {}
        if cell.cell_type == "code":
            cell.outputs = joined(cell.outputs)


def joined(outputs):
    """One output for what was printed in pieces: where it is cut depends on time."""
    result = []
    for output in outputs:
        if result and output.output_type == "stream" and result[-1].get("name") == output.name:
            result[-1].text += output.text
        else:
            result.append(output)
    return result


def compare_outputs(committed, found):
    shapes = [[(output.output_type, sorted(output.get("data", {}))) for output in side] for side in (committed, found)]
    if shapes[0] != shapes[1]:
        return [f"it showed {shapes[0]}, now {shapes[1]}"]
    return [line for old, new in zip(committed, found) for line in differences(text_of(old), text_of(new))]


def text_of(output):
    return output.get("text") or output.get("data", {}).get("text/plain", "")


# --- Scripts.


def run_script(path, write):
    result = subprocess.run([path], stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if result.returncode:
        raise Failed(f"exit status {result.returncode}\n{result.stdout}{result.stderr}")
    found = result.stdout
    for pattern, replacement in CHANGING:
        found = pattern.sub(replacement, found)
    expected = path.parent / "outputs" / f"{path.stem}.txt"
    if write:
        expected.parent.mkdir(exist_ok=True)
        expected.write_text(found, encoding="utf-8")
    elif not expected.exists():
        raise Failed(f"{expected.relative_to(HERE)} is not there; --write makes it")
    elif IS_AS_COMMITTED and (problems := differences(expected.read_text(encoding="utf-8"), found)):
        raise Failed("\n".join(problems))


# --- All of them.


def examples(names):
    every = [(path, run_script) for path in sorted((HERE / "curl").glob("*.sh"))]
    every += [(path, run_notebook) for path in sorted(HERE.glob("*.ipynb"))]
    if unknown := set(names) - {path.stem for path, _ in every}:
        sys.exit(f"There is no example {', '.join(sorted(unknown))}.")
    return [(path, run) for path, run in every if not names or path.stem in names]


def run_all(chosen, write):
    """How many failed."""
    failed = 0
    for path, run in chosen:
        start = time.monotonic()
        try:
            run(path, write)
            outcome = "ok"
        except Failed as failure:
            failed += 1
            outcome = f"FAILED\n{failure}"
        print(f"{path.relative_to(HERE)} ({time.monotonic() - start:.1f} s): {outcome}", flush=True)
    compared = "" if write or IS_AS_COMMITTED else "; they were run, and not compared, as this processor has no AVX-512"
    print(f"{len(chosen) - failed} of {len(chosen)} examples passed{compared}")
    return failed


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n", maxsplit=1)[0])
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--candor", help="the binary of the server to start")
    where.add_argument("--url", help="a server that is there, with embeddings.pooling=mean")
    parser.add_argument("--model", help="the model to start the server with; without it, the default model")
    parser.add_argument("--write", action="store_true", help="keep what is shown instead of comparing it")
    parser.add_argument("names", nargs="*", help="notebooks and scripts, without their endings; without any, all")
    arguments = parser.parse_args()
    chosen = examples(arguments.names)
    try:
        run_inside(python_environment("examples", REQUIREMENTS) / "python")
    except Unprepared as error:
        sys.exit(str(error))
    with tempfile.TemporaryDirectory(prefix="candor-examples-") as directory, contextlib.ExitStack() as stack:
        nothing_of_the_user(directory)
        os.environ["CANDOR_URL"] = arguments.url or stack.enter_context(
            plain_server(arguments.candor, arguments.model)
        )
        failed = run_all(chosen, arguments.write)
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
