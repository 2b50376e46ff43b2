"""A server under measurement: a process that was started, answers, and is ended by its id, with its children."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil  # type: ignore[import-untyped]

ROOT = Path(__file__).resolve().parents[2]
# A worker is up in a second; a loaded machine may need many times that.
START_SECONDS = 30.0
STOP_SECONDS = 25.0
LOG_CHARACTERS = 2000


class NotStarted(Exception):
    """A server did not come up; the message holds the end of its log."""


@dataclass(frozen=True)
class Server:
    """A running peer.

    Args:
        name: of the peer.
        address: host and port of plain HTTP, or of TLS when ``tls``.
        pid: its first process; children belong to it.
        tls: connections are encrypted.
        metrics: host and port where a server tells what it counts, if it does.
    """

    name: str
    address: tuple[str, int]
    pid: int
    tls: bool = False
    metrics: tuple[str, int] | None = None

    @property
    def url(self) -> str:
        """Where it answers."""
        return f"{'https' if self.tls else 'http'}://{self.address[0]}:{self.address[1]}"


@contextmanager
def started(
    command: Sequence[str], log: Path, ready: Callable[[int], bool], settings: Mapping[str, str] | None = None
) -> Iterator[int]:
    """Run a command within the block, on the cores that the caller is on; give its process id once it is ready.

    Args:
        command: program and arguments.
        log: where its output goes.
        ready: tells, by process id, whether it answers already.
        settings: environment variables; variables of ours that happen to be set are taken out.

    Raises:
        NotStarted: it ended, or was not ready in time.
    """
    kept = {name: value for name, value in os.environ.items() if not name.startswith("SKAFOS_")}
    with log.open("ab") as output:
        process = subprocess.Popen(
            command, cwd=ROOT, env={**kept, **(settings or {})}, stdin=subprocess.DEVNULL, stdout=output, stderr=output
        )
    try:
        deadline = time.monotonic() + START_SECONDS
        while not ready(process.pid):
            if process.poll() is not None or time.monotonic() > deadline:
                raise NotStarted(f"{command[0]} did not start:\n{log.read_text()[-LOG_CHARACTERS:]}")
            time.sleep(0.02)
        yield process.pid
    finally:
        end(process)


def end(process: subprocess.Popen[bytes]) -> None:
    """End a process in order, and kill what is left of it and its children after a while."""
    family: list[psutil.Process] = []
    with suppress(psutil.NoSuchProcess):
        family = psutil.Process(process.pid).children(recursive=True)
    process.terminate()
    with suppress(subprocess.TimeoutExpired):
        process.wait(STOP_SECONDS)
    if process.poll() is None:
        process.kill()
        process.wait()
    for child in family:  # psutil compares the start times, so an id that was given to another process is safe
        with suppress(psutil.NoSuchProcess):
            child.kill()
