#!/usr/bin/env bash
# Builds the release: one folder that runs on every CPU of this architecture, on this Debian or a newer system.
#
#   scripts/dist.sh                  creates candor-VERSION-ARCHITECTURE-linux.tar.gz and its .sha256 in dist/
#   scripts/dist.sh --folder FOLDER  creates FOLDER instead, which must not exist; used by the Dockerfile
#
# FEATURES="otel" adds cargo features. Needs what `make build` needs (scripts/setup.sh).
set -euo pipefail
cd "$(dirname "$0")/.."

say() { echo "dist: $*" >&2; }

version=$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -n 1)
name=candor-$version-$(uname -m)-linux
case ${1:-} in
    "") folder=dist/$name && rm -rf "$folder" ;;
    --folder) folder=${2:?--folder needs a folder} ;;
    *) say "unknown argument: $1" && exit 2 ;;
esac
if [ -e "$folder" ]; then
    say "$folder exists"
    exit 1
fi

# --- Build, in a separate folder within the target directory: different flags would otherwise rebuild everything each time.
export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-target}/portable
# Replaces the flags in .cargo/config.toml, which are for the build machine. $ORIGIN is the folder of the file that refers to
# it, so the program finds its libraries, and they find each other, wherever the folder is.
# shellcheck disable=SC2016
export RUSTFLAGS='-C link-arg=-Wl,-rpath,$ORIGIN/../lib/candor' CMAKE_INSTALL_RPATH='$ORIGIN'
scripts/claim.sh "$PWD"
messages=$(mktemp)
trap 'rm -f "$messages"' EXIT
cargo build --release --locked --features "portable ${FEATURES:-}" --message-format json-render-diagnostics > "$messages"
built=$(sed -n '/"reason":"build-script-executed".*llama-cpp-sys-2/s/.*"out_dir":"\([^"]*\)".*/\1/p' "$messages")

# --- The program, llama.cpp's libraries under the names by which they refer to each other, and its code for each kind of CPU.
mkdir -p "$folder"/{bin,lib/candor}
cp "$CARGO_TARGET_DIR/release/candor" "$folder/bin/"
cp -L "$built"/lib/lib{llama,ggml,ggml-base}.so.? "$built"/backends/libggml-*.so "$folder/lib/candor/"
strip --strip-unneeded "$folder"/lib/candor/*
# The compiler's own libraries, which a bare system may lack or have in older versions. Only glibc is left out.
ldd "$folder/bin/candor" "$folder"/lib/candor/libggml-cpu-*.so |
    sed -nE 's/.*(libgomp|libstdc\+\+|libgcc_s)\.so\.[0-9]+ => ([^ ]+) .*/\2/p' | sort -u |
    while read -r library; do cp -L "$library" "$folder/lib/candor/"; done

# --- Completions, manual pages and licences. The program prints the first two; if it cannot run here, the script fails here.
candor=$folder/bin/candor
mkdir -p "$folder"/share/{man/man1,bash-completion/completions,zsh/site-functions,fish/vendor_completions.d}
"$candor" completions bash > "$folder/share/bash-completion/completions/candor"
"$candor" completions zsh > "$folder/share/zsh/site-functions/_candor"
"$candor" completions fish > "$folder/share/fish/vendor_completions.d/candor.fish"
"$candor" man > "$folder/share/man/man1/candor.1"
for command in serve config tune doctor fetch health verify batch batch-merge completions man; do
    "$candor" man "$command" > "$folder/share/man/man1/candor-$command.1"
done
cp LICENSE LICENSE-MIT LICENSE-APACHE "$folder/"
scripts/third-party-licenses.sh "portable ${FEATURES:-}" > "$folder/LICENSES-THIRD-PARTY.txt"

# --- Requirements on the target system.
needs=$(objdump -T "$candor" "$folder"/lib/candor/* | grep -o 'GLIBC_[0-9.]*' | sort -Vu | tail -n 1)
say "$folder needs glibc ${needs#GLIBC_} or later"
if [ "${1:-}" = --folder ]; then
    exit 0
fi

# --- The documentation, with everything it links to.
cp -r README.md CONTRIBUTING.md CHANGELOG.md docs examples "$folder/"
mkdir "$folder"/{config,src}
# Without dot files: config/.env is private.
cp -r config/* "$folder/config/"
cp src/lib.rs "$folder/src/"

# --- The archive, reproducible: the same bytes for the same files, with the time of the commit.
time=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct 2> /dev/null || stat -c %Y Cargo.toml)}
tar --create --directory dist --sort=name --owner=0 --group=0 --numeric-owner --mode=u=rwX,go=rX --mtime="@$time" "$name" |
    gzip --no-name --best > "dist/$name.tar.gz"
(cd dist && sha256sum "$name.tar.gz" > "$name.tar.gz.sha256")
say "dist/$name.tar.gz: $(du -h "dist/$name.tar.gz" | cut -f 1)"
