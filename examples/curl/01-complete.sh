#!/usr/bin/env bash
# Sixteen tokens after a prompt; at temperature 0, the most likely one each time.
set -euo pipefail
url=${CANDOR_URL:-http://127.0.0.1:8000}

curl --silent --show-error --fail-with-body "$url/v1/completions" -H 'content-type: application/json' -d '{
    "prompt": "The capital of Michigan is ",
    "max_tokens": 16,
    "temperature": 0
}'
echo
