#!/usr/bin/env bash
# With trim_blocks, minijinja removes the first line end of a raw block.
#
# Versions: minijinja 3.1.0 and Jinja2 3.1.6, both from PyPI.
#
# `{% raw %}` keeps what is between it and `{% endraw %}` as it is; that is what the tag is for. Jinja2's trim_blocks removes
# the line end after other tags, after `{% endraw %}` too, but not the one after `{% raw %}`. minijinja has the same option
# and removes it, so the text of the block is not kept. Without trim_blocks both keep it.
#
# One would expect otherwise: minijinja's documentation names Jinja2 as what it follows, and the text within a raw block
# belongs to the block. A chat template in vLLM 0.11.0 (examples/template_dse_qwen2_vl.jinja) writes all its line ends in raw
# blocks, and loses each of them.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"

python3 -m venv venv
export PIP_DISABLE_PIP_VERSION_CHECK=1
venv/bin/pip install --quiet minijinja==3.1.0 jinja2==3.1.6

cat > compare.py << 'END'
"""A raw block that begins with a line end, rendered by both."""
from importlib.metadata import version

import jinja2
import minijinja

print("minijinja", version("minijinja"), "and Jinja2", version("jinja2"))
template = "user{% raw %}\nHi{% endraw %}\n!"
seen = {}
for trim in (False, True):
    jinja = jinja2.Environment(trim_blocks=trim).from_string(template).render()
    mini = minijinja.Environment(trim_blocks=trim).render_str(template)
    print(f"trim_blocks={trim}: Jinja2 {jinja!r}, minijinja {mini!r}")
    seen[trim] = (jinja, mini)
assert seen[False] == ("user\nHi\n!", "user\nHi\n!"), "without the option both keep it"
assert seen[True] == ("user\nHi!", "userHi!"), "the behaviour has changed"
END
venv/bin/python compare.py
