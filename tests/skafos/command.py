"""The ``skafos`` command, run as a process."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
import threading
from dataclasses import dataclass

from tests.flows.running import PATIENCE_SECONDS, ROOT


def run(*arguments: str, typed: str | None = None, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run the command in an environment of its own, with ``typed`` on its input; bytes that are no text pass."""
    return subprocess.run(
        [sys.executable, "-m", "skafos", *arguments],
        env={"PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT), **variables},
        input=typed or "",
        capture_output=True,
        encoding="utf-8",
        errors="surrogateescape",
        timeout=PATIENCE_SECONDS,
        check=False,
    )


@dataclass(frozen=True, slots=True)
class OnTerminal:
    """What a command came to whose standard error is a terminal: its screen has all that was ever drawn there."""

    returncode: int
    stdout: str
    screen: str


def run_on_terminal(*arguments: str, **variables: str) -> OnTerminal:
    """Run Python with ``arguments``, its standard error a terminal of 100 columns and its standard output a pipe."""
    ours, theirs = pty.openpty()
    drawn = bytearray()

    def read() -> None:
        # A terminal that nobody has open any more ends with EIO on Linux.
        try:
            while piece := os.read(ours, 65_536):
                drawn.extend(piece)
        except OSError:
            pass

    reader = threading.Thread(target=read)
    try:
        reader.start()
        done = subprocess.run(
            [sys.executable, *arguments],
            env={"PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT), "TERM": "xterm", "COLUMNS": "100", **variables},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=theirs,
            encoding="utf-8",
            timeout=PATIENCE_SECONDS,
            check=False,
        )
    finally:
        os.close(theirs)
        reader.join()
        os.close(ours)
    return OnTerminal(done.returncode, done.stdout, drawn.decode())
