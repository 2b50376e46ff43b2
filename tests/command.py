"""The ``skafos`` command, run as a shell would run it."""

from __future__ import annotations

import io
import os
import pty
import subprocess
import sys
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from skafos.cli import main

ROOT = Path(__file__).resolve().parents[1]
# Waiting gives up after this long, well below the limit of a test; machines that run tests are slow at times.
PATIENCE_SECONDS = 120.0


def run(*arguments: str, typed: str | None = None, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run the command as a shell would, with ``typed`` on its input; bytes that are no text pass.

    It runs in this process, since starting one takes as long as the rest of a command does; `run_as_process` does that.
    """
    streams = sys.stdin, sys.stdout, sys.stderr, sys.argv
    environment = dict(os.environ)
    out, err = (io.TextIOWrapper(io.BytesIO(), encoding="utf-8", errors="strict") for _ in range(2))
    _replace_environment(_environment(variables))
    sys.stdin = io.TextIOWrapper(io.BytesIO((typed or "").encode("utf-8", "surrogateescape")), encoding="utf-8")
    sys.stdout, sys.stderr, sys.argv = out, err, ["skafos", *arguments]
    try:
        code: Any = 0
        main()
    except SystemExit as ended:
        code = 0 if ended.code is None else ended.code
    finally:
        sys.stdin, sys.stdout, sys.stderr, sys.argv = streams
        _replace_environment(environment)
    return subprocess.CompletedProcess(arguments, code, _written(out), _written(err))


def run_as_process(*arguments: str, typed: str | None = None, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run the command as a process of its own; otherwise as `run`."""
    return subprocess.run(
        [sys.executable, "-m", "skafos", *arguments],
        env=_environment(variables),
        input=typed or "",
        capture_output=True,
        encoding="utf-8",
        errors="surrogateescape",
        timeout=PATIENCE_SECONDS,
        check=False,
    )


def _environment(variables: Mapping[str, str]) -> dict[str, str]:
    return {"PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT), **variables}


def _replace_environment(variables: Mapping[str, str]) -> None:
    os.environ.clear()
    os.environ.update(variables)


def _written(stream: io.TextIOWrapper) -> str:
    stream.flush()
    written = stream.detach()
    assert isinstance(written, io.BytesIO)
    return written.getvalue().decode("utf-8", "surrogateescape")


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
            env=_environment({"TERM": "xterm", "COLUMNS": "100", **variables}),
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
