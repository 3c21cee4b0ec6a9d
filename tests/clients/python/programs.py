"""Servers of other projects that stand between a client and Candor: started, waited for, and stopped."""

import contextlib
import os
import pathlib
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


@contextlib.contextmanager
def running(command, ready, **variables):
    """Starts a program of this environment, and waits until the address `ready` answers with 200."""
    program = pathlib.Path(sys.executable).with_name(command[0])
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(
            [program, *command[1:]], stdout=log, stderr=log, env={**os.environ, **variables}, stdin=subprocess.DEVNULL
        )
        try:
            while not answers(ready):
                if process.poll() is not None:
                    log.seek(0)
                    raise RuntimeError(f"{command[0]} ended before it was ready:\n{log.read().decode()[-3000:]}")
                time.sleep(0.2)
            yield
        finally:
            process.terminate()
            process.wait()


def answers(address):
    try:
        with urllib.request.urlopen(address) as answer:
            return answer.status == 200
    except (OSError, urllib.error.URLError):
        return False
