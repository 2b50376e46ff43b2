"""A network that breaks: a TCP proxy in front of a real server, which cuts connections after some bytes."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from urllib.parse import urlsplit


@dataclass
class Flaky:
    """The proxy. ``cuts`` holds, for the next connections, after how many bytes (both ways) each is cut."""

    url: str
    cuts: list[int] = field(default_factory=list)
    connections: int = 0


@contextmanager
def flaky(upstream: str) -> Iterator[Flaky]:
    """Run a proxy to the server at ``upstream``; connections beyond those in ``cuts`` are left alone."""
    address = urlsplit(upstream)
    target = (address.hostname or "127.0.0.1", address.port or 80)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        proxy = Flaky(f"http://127.0.0.1:{listener.getsockname()[1]}")
        thread = threading.Thread(target=_accept, args=(listener, target, proxy), daemon=True)
        thread.start()
        yield proxy
        listener.shutdown(socket.SHUT_RDWR)
    thread.join()


def _accept(listener: socket.socket, target: tuple[str, int], proxy: Flaky) -> None:
    while True:
        try:
            client, _ = listener.accept()
        except OSError:
            return
        proxy.connections += 1
        cut = proxy.cuts.pop(0) if proxy.cuts else None
        server = socket.create_connection(target)
        budget = _Budget(cut)
        for source, sink in ((client, server), (server, client)):
            threading.Thread(target=_copy, args=(source, sink, budget), daemon=True).start()


class _Budget:
    """How many bytes may still pass."""

    def __init__(self, left: int | None) -> None:
        self._left = left
        self._lock = threading.Lock()

    def take(self, count: int) -> int:
        with self._lock:
            if self._left is None:
                return count
            granted = min(count, self._left)
            self._left -= granted
            return granted


def _copy(source: socket.socket, sink: socket.socket, budget: _Budget) -> None:
    with suppress(OSError):
        while data := source.recv(65536):
            granted = budget.take(len(data))
            sink.sendall(data[:granted])
            if granted < len(data):
                break
    for end in (source, sink):
        with suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)
        # Closing, with bytes unread, resets the connection: a sender that is not listening notices as well.
        end.close()
