#!/usr/bin/env bash
# Installs what llama.cpp's build needs, and the programs given as arguments, with apt-get; without apt-get, it lists what is
# missing. scripts/setup.sh [PROGRAM...]: each program is in the Debian package of the same name. FEATURES are cargo's: for
# `vulkan`, also what that back end needs.
# If nothing is missing, it does nothing and needs no network.
set -euo pipefail
cd "$(dirname "$0")/.."

say() { echo "setup: $*" >&2; }

# --- Rust: never installed without asking.
needed=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' Cargo.toml)
advice="Rust $needed or later is needed. https://rustup.rs installs it:
  curl --proto '=https' --tlsv1.2 -sSf https://sh.rustup.rs | sh"
if ! command -v cargo > /dev/null; then
    say "No Rust toolchain was found. $advice"
    exit 1
fi
found=$(cargo --version | cut -d ' ' -f 2)
if [ "$(printf '%s\n' "$needed" "$found" | sort -V | head -n 1)" != "$needed" ]; then
    say "Rust $found is too old. $advice"
    exit 1
fi

# --- What llama.cpp's build needs: cmake and make, compilers of C and C++, and libclang with its headers (bindgen).
any_file() {
    local file
    for file in "$@"; do
        if [ -e "$file" ]; then return 0; fi
    done
    return 1
}

# The globs are meant to be expanded.
# shellcheck disable=SC2086
has_libclang() {
    local places="/usr/lib/llvm*/lib /usr/lib/*-linux-gnu* /usr/lib /usr/lib64 /usr/lib64/llvm*/lib /usr/local/lib
        /opt/homebrew/opt/llvm/lib /usr/local/opt/llvm/lib /Library/Developer/CommandLineTools/usr/lib"
    local place
    for place in ${LIBCLANG_PATH:-} $places; do
        if any_file $place/libclang.so* $place/libclang-*.so* $place/libclang.dylib; then
            # On Debian the compiler's own headers (stddef.h) are in a different package than the library.
            if any_file /usr/lib/llvm*/lib/clang/*/include/stddef.h /usr/lib*/clang/*/include/stddef.h \
                /usr/lib*/llvm*/lib/clang/*/include/stddef.h \
                $place/clang/*/include/stddef.h $place/../lib/clang/*/include/stddef.h; then
                return 0
            fi
        fi
    done
    return 1
}

# Vulkan's headers, in VULKAN_SDK or the system's.
vulkan=${VULKAN_SDK:-/usr}/include/vulkan/vulkan_core.h

missing=()
command -v cmake > /dev/null || missing+=(cmake)
command -v make > /dev/null || missing+=(make)
{ command -v cc && command -v c++; } > /dev/null || missing+=(g++)
has_libclang || missing+=(libclang-dev)
if [[ ${FEATURES:-} == *vulkan* ]]; then
    command -v glslc > /dev/null || missing+=(glslc)
    [ -e "$vulkan" ] || missing+=(libvulkan-dev)
    any_file {"${VULKAN_SDK:-/usr}",/usr}/include/spirv/unified1/spirv.hpp || missing+=(spirv-headers)
fi
for program in "$@"; do
    command -v "$program" > /dev/null || missing+=("$program")
done

# Older ones lack what llama.cpp names: VK_EXT_layer_settings.
check_vulkan() {
    if [[ ${FEATURES:-} == *vulkan* && -e $vulkan ]] && ! grep -q VK_EXT_layer_settings "$vulkan"; then
        say "The Vulkan headers in ${vulkan%/*} are too old for llama.cpp. Those of Debian 13 are new enough: set VULKAN_SDK to"
        say "a folder with them in include/ (docs/gpu.md)."
        exit 1
    fi
}

if [ ${#missing[@]} -eq 0 ]; then
    check_vulkan
    exit 0
fi

if ! command -v apt-get > /dev/null; then
    say "Missing (names of Debian packages): ${missing[*]}"
    say "Install cmake, make, a C and a C++ compiler, and libclang with its headers, then try again."
    say "  Fedora: dnf install cmake make gcc-c++ clang-devel"
    say "  Arch:   pacman -S cmake make gcc clang"
    say "  macOS:  xcode-select --install && brew install cmake llvm"
    exit 1
fi

as_root=()
if [ "$(id -u)" -ne 0 ]; then
    if ! command -v sudo > /dev/null; then
        say "Missing: ${missing[*]}. Install them as root: apt-get install ${missing[*]}"
        exit 1
    fi
    as_root=(sudo)
fi

say "Installing with apt-get: ${missing[*]}"
export DEBIAN_FRONTEND=noninteractive
"${as_root[@]}" apt-get update -qq >&2
"${as_root[@]}" apt-get install -y -qq --no-install-recommends "${missing[@]}" < /dev/null >&2
check_vulkan
