"""One call in a process of its own, which can be killed and takes its memory with it when it ends."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from multiprocessing.connection import wait
from typing import TypeVar

T = TypeVar("T")

# Work in the background gives way to answering requests.
NICENESS = 10


class ProcessDied(RuntimeError):
    """The process ended before the call did: killed, out of memory, or out of time."""


class TookTooLong(ProcessDied):
    """The process was killed because its time was over."""


async def call_isolated(call: Callable[[], T], timeout_seconds: float) -> T:
    """Return what ``call`` returns, or raise what it raises, from a freshly spawned process.

    Cancelling kills the process.

    Args:
        call: can be pickled, and so can what it returns and raises.
        timeout_seconds: after this long the process is killed.

    Raises:
        ProcessDied: there is no result and there will be none; `TookTooLong` if only the time was short.
    """
    loop = asyncio.get_running_loop()
    spawn = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(1, mp_context=spawn, initializer=_become_a_worker)
    pid: int | None = None
    try:
        async with asyncio.timeout(timeout_seconds):
            pid = await loop.run_in_executor(pool, os.getpid)
            return await loop.run_in_executor(pool, call)
    except BrokenProcessPool as error:
        raise ProcessDied("the process died") from error
    except TimeoutError as error:
        _kill(pid)
        raise TookTooLong(f"the process took longer than {timeout_seconds:g} seconds") from error
    except asyncio.CancelledError:
        _kill(pid)
        raise
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _kill(pid: int | None) -> None:
    if pid is not None:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def _become_a_worker() -> None:
    """Make this process end with its parent, whatever ends that, and leave Ctrl-C to it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.nice(NICENESS)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    # A pool's worker waits on a pipe that it holds both ends of, so it would never notice a parent that was killed.
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)
