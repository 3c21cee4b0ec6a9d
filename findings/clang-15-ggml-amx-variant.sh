#!/usr/bin/env bash
# Compiled by Clang 14 or 15, ggml's variant for Sapphire Rapids has no AMX routine.
#
# Versions: libclang 14.0.6, 15.0.6.1 and 16.0.6, and the ggml in llama-cpp-python 0.3.36, all from PyPI.
#
# With -mamx-int8, Clang 14 and 15 define __AMXINT8__. Clang 16 and 19 define __AMX_INT8__, as GCC 11 to 14 do. ggml has
# all of its AMX code within `#if defined(__AMX_INT8__)`. Its CMake files pass -mamx-tile and -mamx-int8 to any compiler, and
# the function that scores the variant tests GGML_AMX_INT8, which those files define. So the variant is built without a
# warning, is chosen only on a CPU with AMX, and does not use it there.
#
# One would expect otherwise: Clang 14 has the flags and the intrinsics, and CMake lists them for the variant. Clang 14 is
# also what Debian 12's package `clang` installs; it compiled no instruction of AMX for ggml-cpu/amx/mmq.cpp.
#
# This runs the preprocessor only, so it needs no CPU with AMX and no compiler.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"

python3 -m venv venv
export PIP_DISABLE_PIP_VERSION_CHECK=1
venv/bin/pip download --quiet --no-deps --no-binary llama-cpp-python llama-cpp-python==0.3.36
tar -xzf llama_cpp_python-0.3.36.tar.gz --strip-components=5 --wildcards '*/vendor/llama.cpp/ggml/src'
for version in 14.0.6 15.0.6.1 16.0.6; do
    venv/bin/pip install --quiet --no-deps --target "libclang-$version" "libclang==$version"
done

cat > preprocess.py << 'END'
"""Whether libclang keeps what ggml has between the guards of its AMX code."""
import sys
from clang.cindex import Index

guard = sys.argv[1]
source = f"{guard}\nint amx_routines;\n#endif\n"
flags = ["--target=x86_64-linux-gnu", "-mavx512vnni", "-mamx-tile", "-mamx-int8"]
unit = Index.create().parse("guard.cpp", flags, [("guard.cpp", source)])
assert not list(unit.diagnostics), list(unit.diagnostics)
print("compiled" if list(unit.cursor.get_children()) else "left out")
END

echo "ggml in llama-cpp-python 0.3.36"
grep -E 'ggml_add_cpu_backend_variant\(sapphirerapids .*AMX_INT8' CMakeLists.txt
grep -A 1 'ifdef GGML_AMX_INT8' ggml-cpu/arch/x86/cpu-feats.cpp
guard=$(grep -m 1 '^#if .*__AMX_INT8__' ggml-cpu/amx/mmq.cpp)
echo "$guard"

failed=0
for expected in "14.0.6 left out" "15.0.6.1 left out" "16.0.6 compiled"; do
    version=${expected%% *}
    seen=$(PYTHONPATH=libclang-$version venv/bin/python preprocess.py "$guard")
    echo "libclang $version: the AMX routines are $seen"
    if [ "$version $seen" != "$expected" ]; then
        echo "  expected: ${expected#* }" >&2
        failed=1
    fi
done
exit "$failed"
