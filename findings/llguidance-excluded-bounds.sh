#!/usr/bin/env bash
# llguidance takes an excluded whole bound as allowed if the other bound is less than 1 away.
#
# Version: llguidance 1.9.1, from PyPI.
#
# {"type": "number", "exclusiveMinimum": 0, "maximum": 0.5} accepts 0, and so do others whose excluded bound is whole, on
# both sides: rx_float_range (src/json/numeric.rs) makes the decimals optional if those of the lower bound are zero, whether
# the bound is excluded or not. With bounds that are further apart, and for whole numbers, it is right.
#
# One would expect otherwise: JSON Schema says that a number is valid if it is strictly greater. It is what pydantic writes
# for Field(gt=0, le=0.5).
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"

python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check llguidance==1.9.1

cat > bounds.py << 'END'
import json
import sys
import llguidance
from llguidance import LLMatcher, LLTokenizer, TokenizerWrapper


class Bytes:
    """A token for each byte, and one that ends a text."""
    eos_token_id, bos_token_id, special_token_ids = 256, None, [256]
    tokens = [bytes([byte]) for byte in range(256)] + [b"<end>"]

    def __call__(self, text):
        return list(text.encode() if isinstance(text, str) else text)


def accepts(schema, text):
    matcher = LLMatcher(tokenizer, LLMatcher.grammar_from_json_schema(json.dumps(schema)))
    assert not matcher.is_error(), matcher.get_error()
    return matcher.try_consume_tokens(list(text.encode())) == len(text) and matcher.is_accepting()


print("llguidance", llguidance.__version__)
tokenizer = LLTokenizer(TokenizerWrapper(Bytes()))
failed = False
for schema, text, expected in [
    ({"exclusiveMinimum": 0, "maximum": 0.5}, "0", True),
    ({"exclusiveMinimum": 3, "maximum": 3.5}, "3", True),
    ({"minimum": -3.5, "exclusiveMaximum": -3}, "-3", True),
    ({"exclusiveMinimum": 0, "maximum": 1.5}, "0", False),
    ({"exclusiveMinimum": 0.25, "maximum": 0.5}, "0.25", False),
]:
    taken = accepts({"type": "number"} | schema, text)
    print(f"{json.dumps(schema)} {'accepts' if taken else 'rejects'} {text}")
    failed |= taken != expected
sys.exit(failed)
END
venv/bin/python bounds.py
