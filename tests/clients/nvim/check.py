#!/usr/bin/env python3
"""llama.vim in a real Neovim without a screen, against a Candor of its own with Qwen2.5-Coder-0.5B.

    CANDOR_BINARY=target/release/candor tests/clients/nvim/check.py

Neovim is the one of requirements.txt, or TEST_NVIM; it must be 0.8 or newer. llama.vim is cloned from GitHub at a fixed commit, or is the folder
TEST_LLAMA_VIM. Where one of them cannot be had, that is said, and the exit status is 77: nothing was run.
A JSON object a line says how each check went.
"""

import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import traceback
import urllib.request
from pathlib import Path

import pynvim

ROOT = Path(__file__).resolve().parents[3]
sys.path.insert(0, str(ROOT / "scripts"))

from rig import CACHE, server  # noqa: E402

REPOSITORY = "https://github.com/ggml-org/llama.vim"
COMMIT = "a1c8e6e40cb45df59b78add5b65d575386832465"
NOT_RUN = 77
# For a busy machine; what is waited for comes within a second or two.
PATIENCE_S = 120

CODE = """\
def largest(numbers):
    best = numbers[0]
    for number in numbers:
        if \n            best = number
    return best


print(largest([1, 2, 3]))
"""
# The line with the gap, from 1.
LINE = 4
# Tokens of the text of another file, at least.
CHUNK = 100


class NotRun(Exception):
    pass


def nvim():
    found = os.environ.get("TEST_NVIM") or shutil.which("nvim", path=str(Path(sys.executable).parent))
    if not found:
        raise NotRun("there is no nvim beside this Python; TEST_NVIM can name one")
    return found


def llama_vim():
    if folder := os.environ.get("TEST_LLAMA_VIM"):
        return Path(folder)
    folder = CACHE / "clients" / f"llama.vim-{COMMIT[:12]}"
    if not folder.exists():
        with tempfile.TemporaryDirectory(dir=CACHE / "clients") as place:
            for command in (
                ["clone", "--quiet", "--no-checkout", REPOSITORY, place],
                ["-C", place, "checkout", "--quiet", COMMIT],
            ):
                done = subprocess.run(["git", *command], stderr=subprocess.PIPE, text=True)
                if done.returncode != 0:
                    raise NotRun(f"llama.vim cannot be cloned: {done.stderr.strip()}")
            shutil.copytree(place, folder, ignore=shutil.ignore_patterns(".git"))
    return folder


def model():
    done = subprocess.run(
        [sys.executable, ROOT / "scripts/fetch-model.py", "qwen2.5-coder-0.5b"], stdout=subprocess.PIPE, text=True
    )
    if done.returncode != 0:
        raise NotRun("Qwen2.5-Coder-0.5B cannot be downloaded")
    return done.stdout.strip()


class Editor:
    """Neovim with llama.vim, and a file in it."""

    def __init__(self, program, plugin, url, file):
        self.vim = pynvim.attach(
            "child", argv=[program, "--embed", "--headless", "-u", "NONE", "-i", "NONE", "-n", str(file)]
        )
        self.vim.command(f"set runtimepath+={plugin}")
        # What it asks for ahead, after a suggestion, takes as long as it has tokens; it asks for nothing else meanwhile.
        self.vim.vars["llama_config"] = {
            "endpoint_fim": f"{url}/infill", "show_info": 2, "ring_update_ms": 100, "n_predict": 16,
        }
        self.vim.command("runtime plugin/llama.vim")

    def version(self):
        return re.search(r"NVIM v(\S+)", self.vim.command_output("version"))[1]

    def wait(self, what, found):
        """What `found` gives, once it gives something."""
        end = time.monotonic() + PATIENCE_S
        while not (value := found()):
            if time.monotonic() > end:
                raise AssertionError(f"no {what}; messages: {self.vim.command_output('messages')}")
            time.sleep(0.05)
        return value

    def marks(self):
        """The texts that llama.vim shows beside those of the file: the suggestion, what it says of it, and more lines."""
        space = self.vim.api.create_namespace("vt_fim")
        marks = self.vim.current.buffer.api.get_extmarks(space, 0, -1, {"details": True})
        details = [mark[3] for mark in marks]
        inline = [part[0] for detail in details for part in detail.get("virt_text", [])]
        lines = [part[0] for detail in details for line in detail.get("virt_lines", []) for part in line]
        return inline, lines

    def suggestion(self):
        inline, lines = self.marks()
        return (inline[0], inline[1], lines) if inline and inline[0].strip() else None

    def to(self, line):
        """Goes to the end of a line, and inserts there."""
        self.vim.input("<Esc>")
        self.vim.current.window.cursor = (line, 0)
        self.vim.input("A")
        self.wait("insert mode", lambda: self.vim.api.get_mode()["mode"] == "i")

    def suggests(self, line):
        """The first suggestion at the end of a line, which the key for it asks for."""
        self.to(line)
        self.vim.command("call llama#fim(-1, -1, v:false, [], v:true)")
        return self.wait("suggestion", self.suggestion)


def evaluated(info):
    """Prompt tokens in llama.vim's line about a completion."""
    return int(re.search(r"\| p: (\d+) \(", info)[1])


def main():
    candor = os.environ.get("CANDOR_BINARY")
    try:
        if not candor:
            raise NotRun("CANDOR_BINARY does not say which server to start")
        program, plugin, weights = nvim(), llama_vim(), model()
    except NotRun as error:
        print(f"not run: {error}", file=sys.stderr)
        return NOT_RUN
    with tempfile.TemporaryDirectory() as folder, server(candor, "--model", weights, "-c", "4096") as url:
        file = Path(folder) / "largest.py"
        file.write_text(CODE)
        other = Path(folder) / "shapes.py"
        other.write_text("import math\n" + "".join(
            f"\n\nclass Shape{sides}:\n    corners = {sides}\n\n    def angle(self):\n        return math.tau / {sides}\n"
            for sides in range(3, 7)
        ))
        editor = Editor(program, plugin, url, file)
        version = f"llama.vim {COMMIT[:7]}, Neovim {editor.version()}"

        def check(what, run):
            why = ""
            try:
                run()
            except Exception as error:
                traceback.print_exc()
                why = f"{type(error).__name__}: {error}"[:500]
            line = {"client": "llama.vim", "version": version, "check": what, "passed": not why, "why": why}
            print(json.dumps(line), flush=True)
            return not why

        first = []

        def shown():
            text, info, _ = editor.suggests(LINE)
            first.append(evaluated(info))
            assert "number" in text and "best" in text, text

        def typed():
            # The plugin asks again for what follows a letter, though it goes on showing what it has.
            before = prompt_tokens(url, "cached")
            editor.vim.input(editor.suggestion()[0].lstrip()[0])
            editor.wait("cached tokens", lambda: prompt_tokens(url, "cached") - before > first[0] / 3)
            editor.wait("suggestion", editor.suggestion)

        def accepted():
            editor.vim.input("<Tab>")
            condition = lambda: re.search(r"if .*number.*:", editor.vim.current.buffer[LINE - 1])  # noqa: E731
            editor.wait("line", condition)
            compile("\n".join(editor.vim.current.buffer[:]), "largest.py", "exec")

        def prepared():
            # Text that was seen or yanked is sent ahead when the editor rests. The next prompt begins with it.
            editor.vim.input("<Esc>")
            editor.vim.command(f"edit! {other}")
            before = prompt_tokens(url, "evaluated")
            editor.vim.input("ggyG")
            editor.wait("evaluated tokens", lambda: prompt_tokens(url, "evaluated") - before > CHUNK)
            editor.vim.command(f"edit! {file}")
            before = prompt_tokens(url, "cached")
            editor.to(LINE)
            editor.vim.command("call llama#fim(-1, -1, v:false, [], v:false)")
            editor.wait("cached tokens", lambda: prompt_tokens(url, "cached") - before > CHUNK)

        check("a suggestion appears as virtual text, and is the missing condition", shown)
        check("a letter later much of the prompt comes from the cache", typed)
        check("<Tab> puts it into the file, which is then valid Python", accepted)
        check("text from elsewhere is sent ahead, and is in the cache when it is needed", prepared)
        with contextlib.suppress(EOFError):
            editor.vim.quit()
    return 0


def prompt_tokens(url, source):
    """Prompt tokens so far that were evaluated, or came from the cache."""
    with urllib.request.urlopen(f"{url}/metrics") as answer:
        text = answer.read().decode()
    found = re.search(rf'^candor_prompt_tokens_total\{{source="{source}"\}} (\d+)', text, re.MULTILINE)
    return int(found[1]) if found else 0


if __name__ == "__main__":
    sys.exit(main())
