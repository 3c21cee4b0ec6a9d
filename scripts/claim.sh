#!/usr/bin/env bash
# Makes cargo rebuild what it would wrongly reuse from the target directory, which clones share:
#
#   scripts/claim.sh CLONE
#
# - Cargo compares modification times, so it would mistake another clone's build for this one's.
# - Cargo does not know that llama.cpp's build depends on the files in build/.
set -euo pipefail
cd "$(dirname "$0")/.."

target=${CARGO_TARGET_DIR:-target}
# claim NAME VALUE PACKAGE: rebuilds the package if the value differs from the last one recorded.
claim() {
    if [ "$(cat "$target/$1" 2> /dev/null)" != "$2" ]; then
        cargo clean --quiet --release --package "$3"
        mkdir -p "$target"
        echo "$2" > "$target/$1"
    fi
}
claim clone "$1" candor
claim llama-cpp-build "$(cat build/* | cksum)" llama-cpp-sys-2
