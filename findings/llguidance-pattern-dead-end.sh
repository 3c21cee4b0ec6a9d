#!/usr/bin/env bash
# With a pattern that matches no other name than a property's, llguidance allows a comma after which nothing can follow.
#
# Version: llguidance 1.9.1, from PyPI.
#
# {"properties": {"ok": …}, "required": ["ok"], "additionalProperties": false, "patternProperties": {"^ok$": {}}} allows
# only {"ok": …}. llguidance takes the names of properties out of those that the pattern matches, which leaves none, but
# still offers a further property. After `{"ok":true,` no token is allowed, and the text is not complete.
#
# One would expect otherwise: a mask allows only what can be continued to a valid text, and patterns for strings are checked
# for being empty (src/json/compiler.rs).
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"

python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check llguidance==1.9.1

cat > comma.py << 'END'
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


def allowed(matcher):
    mask = matcher.compute_logit_bias()
    return [bytes([token]).decode("latin-1") if token < 256 else "<end>" for token, value in enumerate(mask) if value]


print("llguidance", llguidance.__version__)
tokenizer = LLTokenizer(TokenizerWrapper(Bytes()))
schema = {"type": "object", "properties": {"ok": {"type": "boolean"}}, "required": ["ok"],
          "additionalProperties": False, "patternProperties": {"^ok$": {}}}
grammar = LLMatcher.grammar_from_json_schema(json.dumps(schema), {"whitespace_flexible": False})
print("checked when it is compiled:", LLMatcher.validate_grammar(grammar, tokenizer) or "valid")
matcher = LLMatcher(tokenizer, grammar)
matcher.consume_tokens(list(b'{"ok":true'))
after_value = allowed(matcher)
print('after {"ok":true allowed:', after_value)
matcher.consume_tokens(list(b","))
after_comma = allowed(matcher)
print('after {"ok":true, allowed:', after_comma, matcher.get_error().splitlines()[:1], matcher.stop_reason())
sys.exit("," not in after_value or set(after_comma) - {"<end>"} != set())
END
venv/bin/python comma.py
