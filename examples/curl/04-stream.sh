#!/usr/bin/env bash
# The answer as it is generated, one server-sent event per token; the last event before [DONE] counts the tokens.
set -euo pipefail
url=${CANDOR_URL:-http://127.0.0.1:8000}

curl --silent --show-error --fail-with-body --no-buffer "$url/v1/completions" -H 'content-type: application/json' -d '{
    "prompt": "Once upon a time",
    "max_tokens": 8,
    "temperature": 0,
    "logprobs": 1,
    "stream": true,
    "stream_options": {"include_usage": true}
}'
