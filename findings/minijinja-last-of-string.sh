#!/usr/bin/env bash
# In a loop over a string, minijinja's loop.last is never true.
#
# Versions: minijinja 3.1.0 and Jinja2 3.1.6, both from PyPI.
#
# `{% for c in "abc" %}` goes through the characters in both. In minijinja loop.last is false for each of them, and
# loop.length has no value, as if the number of characters were not known. Over a list of the same characters, and over the
# generator that `map` makes, whose length is not known either, both are right.
#
# One would expect otherwise: a string has a length (`"abc" | length` is 3), and Jinja2's loop.last is right for everything
# that can be gone through, since it looks one item ahead.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"

python3 -m venv venv
export PIP_DISABLE_PIP_VERSION_CHECK=1
venv/bin/pip install --quiet minijinja==3.1.0 jinja2==3.1.6

cat > compare.py << 'END'
"""The last item of loops over characters, rendered by both."""
from importlib.metadata import version

import jinja2
import minijinja

print("minijinja", version("minijinja"), "and Jinja2", version("jinja2"))
seen = {}
for over in ('"abc"', '"abc" | list', '"abc" | list | map("upper")'):
    template = f"{{% for c in {over} %}}{{{{ c }}}}{{% if not loop.last %}},{{% endif %}}{{% endfor %}}"
    seen[over] = (jinja2.Environment().from_string(template).render(), minijinja.Environment().render_str(template))
    print(f"{template}\n    Jinja2 {seen[over][0]!r}, minijinja {seen[over][1]!r}")
text, *others = seen.values()
assert text == ("a,b,c", "a,b,c,"), "the behaviour has changed"
assert all(jinja == mini for jinja, mini in others), "other loops are right"
END
venv/bin/python compare.py
