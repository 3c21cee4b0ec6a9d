#!/usr/bin/env bash
# Vectors of two texts, here the first eight numbers of each, scaled to length 1 again. The default model is not an
# embedding model, so the server needs a setting for how to combine the tokens' vectors:
# make run ARGS="--set embeddings.pooling=mean"
set -euo pipefail
url=${CANDOR_URL:-http://127.0.0.1:8000}

curl --silent --show-error --fail-with-body "$url/v1/embeddings" -H 'content-type: application/json' -d '{
    "input": ["The cat sat on the mat.", "A kitten lay on the rug."],
    "dimensions": 8
}'
echo
