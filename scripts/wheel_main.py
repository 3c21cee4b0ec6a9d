"""`python -m candor`: the program that this package installs, wherever the environment's `bin` is."""

import importlib.metadata
import os
import sys

files = importlib.metadata.files("candor") or []
program = next(str(file.locate()) for file in files if file.match("bin/candor"))
os.execv(program, [program, *sys.argv[1:]])
