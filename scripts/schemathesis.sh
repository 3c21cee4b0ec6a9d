#!/usr/bin/env bash
# Runs Schemathesis (https://schemathesis.io): it generates valid and invalid requests from /openapi.json, and checks the
# answers against it. Takes the binary. Schemathesis is installed once, from PyPI.
set -euo pipefail
cd "$(dirname "$0")/.."
candor=$1
tools="${XDG_CACHE_HOME:-$HOME/.cache}/candor/tools/schemathesis"
[ -x "$tools/bin/st" ] || { python3 -m venv "$tools" && "$tools/bin/pip" install --quiet schemathesis; }

work=$(mktemp -d)
trap 'kill "$server" 2> /dev/null; wait "$server" 2> /dev/null || true; rm -rf "$work"' EXIT
echo "{% for message in messages %}{{ message.content }}{% endfor %}" > "$work/template.jinja"
"$candor" serve --model tests/models/llama2-vocab-tiny.gguf --port 0 --context-length 128 --set embeddings.pooling=mean \
    --set model.chat_template_file="$work/template.jinja" --set sampling.max_tokens=4 2> "$work/log" &
server=$!
until url=$(grep -o 'ready: http://[0-9.:]*' "$work/log" | cut -d' ' -f2) && [ -n "$url" ]; do
    kill -0 "$server" || { cat "$work/log"; exit 1; }
    sleep 0.2
done
cd "$work"
# A request that is valid by the document may still be rejected: fields can exclude each other, and ids can be out of range.
"$tools/bin/st" run "$url/openapi.json" --exclude-checks positive_data_acceptance --max-examples "${EXAMPLES:-50}"
