#!/usr/bin/env bash
# Text to tokens and back, and a conversation as the model sees it.
set -euo pipefail
url=${CANDOR_URL:-http://127.0.0.1:8000}

curl --silent --show-error --fail-with-body "$url/tokenize" -H 'content-type: application/json' -d '{
    "content": "Unbelievable, naïve!",
    "with_pieces": true
}'
echo

curl --silent --show-error --fail-with-body "$url/detokenize" -H 'content-type: application/json' -d '{
    "tokens": [504, 3575, 282, 9754, 314, 216]
}'
echo

curl --silent --show-error --fail-with-body "$url/apply-template" -H 'content-type: application/json' -d '{
    "messages": [{"role": "user", "content": "What do bees make?"}]
}'
echo
