"""What runs on the nodes of the cluster: `candor batch`, for one part of the requests after another."""

import os
import pathlib
import socket
import subprocess
import tempfile

from table import to_parquet

# The shell becomes the batch. What it leaves behind ends the batch, and removes its folder, once the actor is gone,
# however it ended: then the pipe ends without a line.
SHELL = 'exec 3<&0; (read -r _ <&3 || { kill -KILL $$; sleep 1; rm -rf "$0"; }) & exec "$@" 3<&- < /dev/null'
# How often a part is begun or gone on with, before the run ends.
ATTEMPTS = 3


class Scorer:
    """Answers parts, each a batch of its own."""

    def __init__(self, command, flags, settings):
        self.command = command
        self.flags = flags
        self.environment = os.environ | settings

    def __call__(self, part):
        """The part's file; or the status with which the run must end, and why."""
        with tempfile.TemporaryDirectory(prefix="candor-") as folder:
            folder = pathlib.Path(folder)
            (folder / "in.jsonl").write_bytes(part["requests"])
            status, why = self.answer(folder)
            file = b"" if status else to_parquet(folder, part["requests"])
        return {"part": part["part"], "file": file, "status": status, "why": why}

    def answer(self, folder):
        """Runs the batch until all is answered: 0. Or 1, or 2 if another run would change nothing; and why."""
        shell = ["sh", "-c", SHELL, folder, *self.command, folder / "in.jsonl", folder / "out.jsonl", *self.flags]
        for _ in range(ATTEMPTS):
            with open(folder / "log", "wb") as log:
                # In a session of its own: Ray kills an actor's process group, with the shell that has to clean up.
                batch = subprocess.Popen(
                    shell, stdin=subprocess.PIPE, stdout=log, stderr=log, env=self.environment, start_new_session=True
                )
                batch.wait()
            # Nothing is left to be ended.
            batch.communicate(b"\n")
            status = batch.returncode
            # 3: some lines have errors.
            if status in (0, 3):
                return 0, ""
            # 1, 130 or a signal: it goes on where it was.
            may_go_on = status in (1, 130) or status < 0
            if not may_go_on:
                break
        last = (folder / "log").read_text(errors="replace").strip()[-2000:]
        return 1 if may_go_on else 2, f"`candor batch` on {socket.gethostname()} ended with status {status}:\n{last}"
