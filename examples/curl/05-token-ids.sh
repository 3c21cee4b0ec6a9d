#!/usr/bin/env bash
# Token ids as the prompt: exactly these are evaluated, nothing is added. Another model has other ids for the same text,
# so they are asked for first.
set -euo pipefail
url=${CANDOR_URL:-http://127.0.0.1:8000}

tokens=$(curl --silent --show-error --fail-with-body "$url/tokenize" -H 'content-type: application/json' -d '{
    "prompt": "The capital of Michigan is "
}')
echo "$tokens"
# The numbers between the brackets behind "tokens".
ids=${tokens##*\"tokens\":[}
ids=[${ids%%]*}]

curl --silent --show-error --fail-with-body "$url/v1/completions" -H 'content-type: application/json' -d '{
    "prompt": '"$ids"',
    "max_tokens": 4,
    "temperature": 0,
    "logprobs": 0,
    "echo": true
}'
echo
