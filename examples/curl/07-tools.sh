#!/usr/bin/env bash
# A forced function call; its arguments follow the schema of the parameters.
set -euo pipefail
url=${CANDOR_URL:-http://127.0.0.1:8000}

curl --silent --show-error --fail-with-body "$url/v1/chat/completions" -H 'content-type: application/json' -d '{
    "messages": [{"role": "user", "content": "What is the weather in Lansing?"}],
    "tools": [{
        "type": "function",
        "function": {
            "name": "weather",
            "description": "The weather of a city now.",
            "parameters": {
                "type": "object",
                "properties": {
                    "city": {"type": "string", "maxLength": 20},
                    "unit": {"enum": ["celsius", "fahrenheit"]}
                },
                "required": ["city", "unit"],
                "additionalProperties": false
            }
        }
    }],
    "tool_choice": {"type": "function", "function": {"name": "weather"}},
    "max_completion_tokens": 64,
    "temperature": 0
}'
echo
