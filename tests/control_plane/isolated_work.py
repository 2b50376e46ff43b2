"""What a process of its own is given to do in tests: in a file that imports little, since each process reads it."""

from __future__ import annotations

import os
import signal


def die(*_: object, **__: object) -> None:
    """End the process as the kernel does when memory is short."""
    os.kill(os.getpid(), signal.SIGKILL)


def sleep_for_ever(*_: object, **__: object) -> None:
    """Wait until the process is ended."""
    signal.pause()


def divide_by_zero() -> float:
    """Raise an error."""
    return 1 / 0
