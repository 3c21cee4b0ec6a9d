#!/usr/bin/env bash
# Three answers to one prompt, which is evaluated once. With the seed they are the same every time.
set -euo pipefail
url=${CANDOR_URL:-http://127.0.0.1:8000}

curl --silent --show-error --fail-with-body "$url/v1/completions" -H 'content-type: application/json' -d '{
    "prompt": "She opened the door and",
    "max_tokens": 12,
    "n": 3,
    "seed": 42,
    "temperature": 0.7,
    "top_k": 40,
    "top_p": 0.95
}'
echo
