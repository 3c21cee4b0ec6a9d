#!/usr/bin/env bash
# Installs the wheel of `make wheel` in a bare Debian with Python, without a compiler or Rust, and uses it as someone would who
# has never seen this project: pip install, candor serve, the README's request. Then a notebook, which installs the wheel and
# starts the server by itself.
#
#   scripts/test-wheel.sh [SUITE]       Debian's bookworm, unless another release is named
#
# Needs root, for debootstrap and chroot, and the network, for Debian's and Python's packages and for the default model.
set -euo pipefail
cd "$(dirname "$0")/.."

say() { echo "test-wheel: $*" >&2; }
suite=${1:-bookworm}
wheel=$(ls -t dist/candor-*.whl 2> /dev/null | head -n 1)
if [ -z "$wheel" ]; then
    say "there is no dist/candor-….whl; make wheel builds it"
    exit 1
fi
command -v debootstrap > /dev/null || apt-get install --yes --no-install-recommends debootstrap

root=$(mktemp -d)
server=
leave() {
    status=$?
    if [ -n "$server" ]; then kill "$server" 2> /dev/null || true; fi
    wait
    umount "$root/proc" "$root/dev/pts" 2> /dev/null || true
    rm -rf --one-file-system "$root"
    exit "$status"
}
trap leave EXIT

# --- The system, and this machine's way to the network: names, certificates, and what is set for pip.
say "installing Debian $suite"
debootstrap --variant=minbase --include=python3-venv,ca-certificates,curl "$suite" "$root" > "$root/log" ||
    { tail -n 20 "$root/log" >&2; exit 1; }
mount -t proc proc "$root/proc"
# `%pip` of a notebook runs in a terminal.
mount -t devpts devpts "$root/dev/pts"
cp -L /etc/resolv.conf /etc/hosts "$root/etc/"
cp /etc/ssl/certs/ca-certificates.crt "$root/etc/ssl/certs/"
[ ! -e /etc/pip.conf ] || cp /etc/pip.conf "$root/etc/"
mapfile -t network < <(env | grep -E '^(PIP_INDEX_URL|https?_proxy|HTTPS?_PROXY)=' || true)
inside=(chroot "$root" env -i HOME=/root PATH=/venv/bin:/usr/bin:/bin LANG=C.UTF-8 "${network[@]}")
for program in cc gcc g++ make cmake cargo rustc; do
    if "${inside[@]}" which "$program"; then
        say "$program is there, so this shows nothing"
        exit 1
    fi
done

# --- pip install, candor serve, a request.
now() { date +%s%N; }
since() { echo "$((($(now) - $1) / 1000000)) ms"; }
# Starts a server, and waits until it is ready; its address in `url`.
serve() {
    rm -f "$root/log"
    began=$(now)
    "${inside[@]}" candor serve --port 0 2> "$root/log" &
    server=$!
    until url=$(grep -os 'ready: http://[0-9.:]*' "$root/log"); do
        if ! kill -0 "$server" 2> /dev/null; then
            cat "$root/log" >&2
            exit 1
        fi
        sleep 0.02
    done
    url=${url#ready: }
    say "$1: ready after $(since "$began")"
}
stop() {
    kill "$server"
    wait "$server" || true
    server=
}

mkdir "$root/dist"
cp "$wheel" "$root/dist/"
"${inside[@]}" python3 -m venv /venv
began=$(now)
"${inside[@]}" pip install --quiet "/dist/$(basename "$wheel")"
say "$(basename "$wheel"), $(du -h "$wheel" | cut -f 1): installed in $(since "$began"), $("${inside[@]}" du -ch \
    /venv/bin/candor /venv/lib/candor | tail -n 1 | cut -f 1)"
"${inside[@]}" candor --version
"${inside[@]}" python -m candor --version
serve "first start, which downloads the model"
curl -sf "$url/v1/completions" -H 'content-type: application/json' \
    -d '{"prompt": "The capital of Michigan is ", "max_tokens": 2, "temperature": 0, "logprobs": 3}'
echo
stop
serve "second start"
stop

# --- A notebook, in an environment without the wheel and without a server.
"${inside[@]}" pip uninstall --quiet --yes candor
if "${inside[@]}" which candor; then
    say "pip uninstall left the program"
    exit 1
fi
cp -r examples "$root/"
"${inside[@]}" pip install --quiet -r /examples/requirements.txt
port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
"${inside[@]}" env CANDOR_URL="http://127.0.0.1:$port" jupyter execute /examples/streaming.ipynb
say "examples/streaming.ipynb installed the wheel, started a server and ran"
