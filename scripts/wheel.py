#!/usr/bin/env python3
"""Builds a Python wheel that holds the program for every CPU of this architecture: dist/candor-VERSION-….whl

    wheel.py                  builds the program first, with scripts/dist.sh
    wheel.py --folder FOLDER  packs the folder that dist.sh has built: dist/candor-VERSION-ARCHITECTURE-linux

pip copies the wheel's data into the environment as they are: the program into bin, its libraries into lib/candor, where it
looks for them, and manual pages and completions into share. The only Python is scripts/wheel_main.py, for
`python -m candor`. The wheel's tag says which glibc the program needs. FEATURES as for dist.sh.
"""

import argparse
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import tomllib

from rig import Unprepared, python_environment

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent
DIST = ROOT / "dist"
METADATA = """\
Metadata-Version: 2.4
Name: {name}
Version: {version}
Summary: {description}
License-Expression: {license}
{license_files}
Requires-Python: >=3.8
Classifier: Environment :: Console
Classifier: Operating System :: POSIX :: Linux
Classifier: Programming Language :: Rust
Description-Content-Type: text/markdown

`candor serve` downloads the default model once and serves it on `http://127.0.0.1:8000`. `candor --help` lists the other
commands; `http://127.0.0.1:8000/docs` has every route and field.
"""
WHEEL = """\
Wheel-Version: 1.0
Generator: candor
Root-Is-Purelib: false
Tag: py3-none-linux_{architecture}
"""


def run(*command, **options):
    """What a program prints; ends with its error if it fails."""
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, **options)
    if done.returncode != 0:
        sys.exit(f"wheel: {' '.join(map(str, command))} failed:\n{done.stdout}")
    return done.stdout


def lay_out(folder, package, place):
    """Fills a folder with what the wheel contains, where the format wants it."""
    prefix = f"{package['name']}-{package['version']}"
    for part in ("bin", "lib", "share"):
        shutil.copytree(folder / part, place / f"{prefix}.data" / "data" / part)
    (place / package["name"]).mkdir()
    shutil.copy(HERE / "wheel_main.py", place / package["name"] / "__main__.py")
    info = place / f"{prefix}.dist-info"
    (info / "licenses").mkdir(parents=True)
    licenses = sorted(folder.glob("LICENSE*"))
    for file in licenses:
        shutil.copy(file, info / "licenses")
    files = "\n".join(f"License-File: {file.name}" for file in licenses)
    (info / "METADATA").write_text(METADATA.format(**package, license_files=files))
    (info / "WHEEL").write_text(WHEEL.format(architecture=os.uname().machine))


def pack(tools, place, target):
    """Packs the folder; the wheel. Reproducible: the same bytes for the same files, with the time of the commit."""
    time = run("git", "-C", ROOT, "log", "-1", "--format=%ct").strip()
    run(tools / "wheel", "pack", place, "--dest-dir", target, env={"SOURCE_DATE_EPOCH": time, **os.environ})
    (wheel,) = target.glob("*.whl")
    return wheel


def tagged(tools, wheel):
    """Names the wheel after the systems that it runs on. Only their glibc matters, since it has all other libraries."""
    shown = run(tools / "auditwheel", "show", "--json", "--disable-isa-ext-check", wheel)
    found = json.loads(shown)
    if not found["overall_tag"].startswith("manylinux"):
        sys.exit(f"wheel: it needs libraries of the system:\n{shown}")
    run(tools / "wheel", "tags", "--remove", "--platform-tag", found["overall_tag"], wheel)
    (wheel,) = wheel.parent.glob("*.whl")
    return wheel


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=pathlib.Path, help="what dist.sh has built")
    options = parser.parse_args()
    package = tomllib.loads((ROOT / "Cargo.toml").read_text())["package"]
    try:
        tools = python_environment("wheel", HERE / "wheel.txt")
    except Unprepared as error:
        sys.exit(str(error))
    DIST.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=DIST) as work:
        work = pathlib.Path(work)
        folder = options.folder or work / "built"
        if not options.folder:
            subprocess.run([HERE / "dist.sh", "--folder", folder], check=True)
        place, packed = work / "wheel", work / "packed"
        place.mkdir()
        packed.mkdir()
        lay_out(folder, package, place)
        wheel = tagged(tools, pack(tools, place, packed))
        wheel = wheel.replace(DIST / wheel.name)
    print(f"wheel: {wheel.relative_to(ROOT)}: {wheel.stat().st_size / 1e6:.1f} MB", file=sys.stderr)


if __name__ == "__main__":
    main()
