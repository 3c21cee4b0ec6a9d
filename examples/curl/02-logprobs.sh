#!/usr/bin/env bash
# What the model weighed: the three most likely tokens at each position, with the natural logarithms of their
# probabilities.
set -euo pipefail
url=${CANDOR_URL:-http://127.0.0.1:8000}

curl --silent --show-error --fail-with-body "$url/v1/completions" -H 'content-type: application/json' -d '{
    "prompt": "The capital of Michigan is ",
    "max_tokens": 4,
    "temperature": 0,
    "logprobs": 3
}'
echo
