#!/usr/bin/env bash
# Token ids as the prompt: exactly these are evaluated, and nothing is added. The ids depend on the model, so the script
# first asks the server for them.
set -euo pipefail
url=${CANDOR_URL:-http://127.0.0.1:8000}

tokens=$(curl --silent --show-error --fail-with-body "$url/tokenize" -H 'content-type: application/json' -d '{
    "prompt": "The capital of Michigan is "
}')
echo "$tokens"
# The numbers between the brackets after "tokens".
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
