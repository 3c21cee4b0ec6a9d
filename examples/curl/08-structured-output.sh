#!/usr/bin/env bash
# Constrained text: a JSON schema, one of several strings, a regular expression. The logprobs show what the model would
# rather have said, because they are still those of the raw distribution.
set -euo pipefail
url=${CANDOR_URL:-http://127.0.0.1:8000}

curl --silent --show-error --fail-with-body "$url/v1/chat/completions" -H 'content-type: application/json' -d '{
    "messages": [{"role": "user", "content": "Describe a cat."}],
    "response_format": {
        "type": "json_schema",
        "json_schema": {
            "name": "animal",
            "schema": {
                "type": "object",
                "properties": {
                    "name": {"type": "string", "maxLength": 12},
                    "legs": {"type": "integer", "minimum": 0, "maximum": 8}
                },
                "required": ["name", "legs"],
                "additionalProperties": false
            }
        }
    },
    "max_completion_tokens": 64,
    "temperature": 0
}'
echo

curl --silent --show-error --fail-with-body "$url/v1/completions" -H 'content-type: application/json' -d '{
    "prompt": "Review: The soup was cold.\nSentiment:",
    "choice": [" positive", " negative"],
    "temperature": 0,
    "logprobs": 2
}'
echo

curl --silent --show-error --fail-with-body "$url/v1/completions" -H 'content-type: application/json' -d '{
    "prompt": "The first day of the year 1928, as year, month and day:",
    "regex": " [0-9]{4}-[0-9]{2}-[0-9]{2}",
    "temperature": 0
}'
echo
