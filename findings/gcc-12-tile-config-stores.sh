#!/usr/bin/env bash
# GCC 12's _tile_loadconfig lets the optimizer remove the stores to the configuration that it loads.
#
# Version: g++ 12.2.0 (Debian 12), at -O1, -O2 and -O3.
#
# LDTILECFG reads 64 bytes. In GCC's <amxtileintrin.h> it is an assembly statement whose memory operand has the type of a
# pointer, which is 8 bytes. As far as the optimizer knows, nothing reads the other 56, and it may remove stores to them.
# The tiles then have whatever shapes are on the stack, or none, and the next instruction that uses one faults.
#
# One would expect otherwise: the intrinsic takes the address of the whole configuration, the compiler does not warn, and at
# -O0 all stores are there. Which stores are removed depends on the code around them: those of ggml-cpu/amx/mmq.cpp in
# ggml 0.26.0 are removed at -O3 and kept at -O2.
#
# Other compilers: g++ 11.3.0 (Debian 12) removes the stores too. g++ 13.3.0 and 14.2.0 (Debian 13), where the intrinsic is
# a builtin, and clang 14.0.6, 15.0.6, 16.0.6 and 19.1.7 (Debian 12) keep them.
#
# Sources: https://github.com/ggml-org/llama.cpp/issues/20824 reports a crash in ggml_backend_amx_mul_mat, built with GCC
# 11.2.1. https://github.com/ggml-org/llama.cpp/pull/26954 attributes such crashes to a permission that threads other than
# the first lack, and also moves the configuration to .rodata, because the compiler removes it from the stack. The kernel
# grants that permission per process: https://docs.kernel.org/arch/x86/xstate.html.
#
# This reads assembly and runs none of it, so it needs no CPU with AMX.
set -euo pipefail

compiler=g++-12
if ! command -v "$compiler" > /dev/null; then
    compiler=g++
    case $("$compiler" -dumpversion 2> /dev/null || true) in
        12 | 12.*) ;;
        *)
            echo "This is about GCC 12, which is not here. Debian 12 has it: apt-get install g++-12" >&2
            exit 1
            ;;
    esac
fi
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"

cat > configure.cpp << 'END'
#include <immintrin.h>

#ifdef WHOLE
static inline void load(const void *config) {
    asm volatile("ldtilecfg %0" : : "m"(*static_cast<const char(*)[64]>(config)));
}
#else
#define load _tile_loadconfig
#endif

// One tile: its rows are the argument, so a store of them uses the argument's register.
extern "C" void configure(unsigned char rows) {
    alignas(64) unsigned char config[64] = {};
    config[0] = 1;
    config[16] = 64;
    config[48] = rows;
    load(config);
}
END

# check WHAT EXPECTED FLAG...: whether the assembly stores the rows.
failed=0
check() {
    local what=$1 expected=$2 seen=removed
    shift 2
    "$compiler" -march=sapphirerapids "$@" -S -o configure.s configure.cpp
    grep -q ldtilecfg configure.s
    if grep -qE '%(dil|edi)' configure.s; then seen=kept; fi
    echo "$what: the store of the rows is $seen"
    if [ "$seen" != "$expected" ]; then
        echo "  expected: $expected" >&2
        failed=1
    fi
}

"$compiler" --version | head -n 1
check "_tile_loadconfig -O0" kept -O0
for level in -O1 -O2 -O3; do
    check "_tile_loadconfig $level" removed "$level"
done
grep -vE '^[[:space:]]*[.#]' configure.s
for level in -O1 -O2 -O3; do
    check "operand of 64 bytes $level" kept -DWHOLE "$level"
done
grep -vE '^[[:space:]]*[.#]' configure.s
exit "$failed"
