#!/usr/bin/env bash
# Scores two texts in one request: the prompts come back (echo) with a logprob for each token, and nothing is generated
# (max_tokens 0). The first token has null, because nothing comes before it.
set -euo pipefail
url=${CANDOR_URL:-http://127.0.0.1:8000}

curl --silent --show-error --fail-with-body "$url/v1/completions" -H 'content-type: application/json' -d '{
    "prompt": ["Paris is the capital of France.", "Paris is the capital of Norway."],
    "max_tokens": 0,
    "echo": true,
    "logprobs": 0
}'
echo
