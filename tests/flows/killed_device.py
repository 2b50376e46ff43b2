"""Devices to be killed: a process that has imported everything once, and forks a device for each order.

    {"edge", "key", "directory", "model", "kill"}  on standard input, one line an order
    {"signal", "seconds"}                          on standard output, one line when the device is gone

``kill`` is null for a device that may finish, ``{"after": seconds}`` to kill it from outside after a time,
``{"bytes": n}`` for one that kills itself (SIGKILL) once n bytes of a download are there, or ``{"event": n}`` for one
that does so right before its n-th step that Python's audit events tell of: opening, renaming, linking or removing a
file, making a folder, connecting.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from skafos.device import DeviceClient, Retry

STEPS = frozenset(
    {
        "open",
        "os.rename",
        "os.remove",
        "os.rmdir",
        "os.mkdir",
        "os.symlink",
        "os.link",
        "os.listdir",
        "os.scandir",
        "shutil.rmtree",
        "socket.connect",
        "tempfile.mkstemp",
    }
)


def main() -> None:
    """Serve orders until standard input ends."""
    for line in sys.stdin:
        order = json.loads(line)
        started = time.monotonic()
        child = os.fork()
        if child == 0:
            be_a_device(order)
        status = wait_for(child, order["kill"])
        killed = os.WTERMSIG(status) if os.WIFSIGNALED(status) else -os.WEXITSTATUS(status)
        print(json.dumps({"signal": killed, "seconds": time.monotonic() - started}), flush=True)


def wait_for(child: int, kill: dict[str, Any] | None) -> int:
    """Wait for the device to end, killing it from outside when that is what was ordered; return its wait status."""
    if kill and "after" in kill:
        timer = threading.Timer(kill["after"], os.kill, (child, signal.SIGKILL))
        timer.start()
        status = os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)
        # The child is reaped only after this, so the timer cannot hit a stranger with its number.
        timer.cancel()
        timer.join()
        assert status is not None
    return os.waitpid(child, 0)[1]


def be_a_device(order: dict[str, Any]) -> None:
    """Check for an update once; never returns."""
    code = 1
    try:
        kill = order["kill"] or {}
        if "event" in kill:
            kill_myself_at(kill["event"])
        device = DeviceClient(order["edge"], order["key"], Path(order["directory"]), retry=Retry(attempts=1))
        device.sync(order["model"], progress=kill_myself_after(kill["bytes"]) if "bytes" in kill else None)
        code = 0
    finally:
        os._exit(code)


def kill_myself_after(size: int) -> Callable[[int, int], None]:
    """Return a watcher of a download that dies by SIGKILL once ``size`` bytes are there, and more are to come."""

    def watch(there: int, total: int) -> None:
        if size <= there < total:
            os.kill(os.getpid(), signal.SIGKILL)

    return watch


def kill_myself_at(step: int) -> None:
    """Die by SIGKILL right before the ``step``-th step."""
    seen = 0

    def watch(event: str, _: object) -> None:
        nonlocal seen
        if event in STEPS:
            seen += 1
            if seen == step:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(watch)


if __name__ == "__main__":
    main()
