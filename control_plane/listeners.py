"""Addresses to listen on, bound before anything else is done: a port that is taken is told at once."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import closing, contextmanager

from control_plane.settings import split_listen


@contextmanager
def bound(listen: str) -> Iterator[socket.socket]:
    """Bind a socket to `HOST:PORT` while the block lasts. It does not listen yet, so callers are still refused.

    Raises:
        OSError: the address is taken, or not one of this machine's.
    """
    host, port = split_listen(listen)
    family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    with closing(socket.socket(family, kind, protocol)) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        yield listener


def address_of(listener: socket.socket) -> str:
    """Return the `HOST:PORT` that a socket is bound to."""
    host, port = listener.getsockname()[:2]
    return f"[{host}]:{port}" if listener.family == socket.AF_INET6 else f"{host}:{port}"
