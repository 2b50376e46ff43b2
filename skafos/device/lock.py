"""One update at a time in a directory: an advisory lock that ends with its process, however that ends."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from artifacts.files import make_directory
from skafos.device.errors import DirectoryBusy

POLL_SECONDS = 0.05


@contextmanager
def locked(path: Path, wait_seconds: float, clock: Callable[[], float] = time.monotonic) -> Iterator[None]:
    """Hold the lock file while the block runs. Threads of one process exclude each other as processes do.

    Args:
        path: the lock file; made when it is missing, never removed.
        wait_seconds: how long to wait for another holder.
        clock: seconds of a clock that never goes back.

    Raises:
        DirectoryBusy: another holder did not end in time.
    """
    make_directory(path.parent)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        _acquire(descriptor, clock() + wait_seconds, clock, path)
        yield
    finally:
        os.close(descriptor)


def _acquire(descriptor: int, deadline: float, clock: Callable[[], float], path: Path) -> None:
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if clock() >= deadline:
                raise DirectoryBusy(f"Another update is running in {path.parent.parent}.") from None
            time.sleep(POLL_SECONDS)
        else:
            return
