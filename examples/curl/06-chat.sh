#!/usr/bin/env bash
# A conversation, rendered by the model's own chat template, with alternatives for each token.
set -euo pipefail
url=${CANDOR_URL:-http://127.0.0.1:8000}

curl --silent --show-error --fail-with-body "$url/v1/chat/completions" -H 'content-type: application/json' -d '{
    "messages": [
        {"role": "system", "content": "Answer in one short sentence."},
        {"role": "user", "content": "What do bees make?"}
    ],
    "max_completion_tokens": 24,
    "temperature": 0,
    "logprobs": true,
    "top_logprobs": 2
}'
echo
