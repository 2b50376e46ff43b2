"""When is a server up: when its port takes a connection, or when it has written its file."""

from __future__ import annotations

import socket
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path


def answers(port: int) -> Callable[[int], bool]:
    """Return a question for `servers.started`: does the loopback port take connections?"""

    def ready(_: int) -> bool:
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return True
        return False

    return ready


def written(path: Path) -> Callable[[int], bool]:
    """Return a question for `servers.started`: is the file there? (The edge renames it into place.)"""
    return lambda _: path.exists()
