#!/usr/bin/env bash
# Makes cargo build again what it would wrongly take from the target directory, which clones share:
#
#   scripts/claim.sh CLONE
#
# - Cargo compares the times of files, so what another clone built would pass for this one's.
# - Cargo does not know that llama.cpp's build depends on the files in build/.
set -euo pipefail
cd "$(dirname "$0")/.."

target=${CARGO_TARGET_DIR:-target}
# claim NAME VALUE PACKAGE: the package is built again if the value is not the one that was noted last.
claim() {
    if [ "$(cat "$target/$1" 2> /dev/null)" != "$2" ]; then
        cargo clean --quiet --release --package "$3"
        mkdir -p "$target"
        echo "$2" > "$target/$1"
    fi
}
claim clone "$1" candor
claim llama-cpp-build "$(cat build/* | cksum)" llama-cpp-sys-2
