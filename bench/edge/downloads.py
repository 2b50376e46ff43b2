"""Downloads that cost the client next to nothing: what arrives is counted and dropped within the kernel.

``python -m bench.edge.downloads PORT PATH CONNECTIONS SECONDS SERVER_PID [RANGE]`` prints what it counted as JSON. A
client that copies what it reads, as wrk does 8 KiB at a time, would use most of the core that it shares with the
server, and any two servers would look alike.
"""

from __future__ import annotations

import json
import select
import socket
import sys
import time
from dataclasses import asdict, dataclass

from bench.edge.cpu import machine_seconds, tree_seconds
from bench.edge.probe import Answer, WrongAnswer, request

READ_BYTES = 1 << 20
HEAD_BYTES = 4096
# A server that sends nothing for this long has failed.
SILENCE_SECONDS = 10.0


@dataclass(frozen=True)
class Downloaded:
    """What was counted while the clock ran.

    Args:
        received: bytes, heads included.
        answers: whole answers.
        seconds: time.
        machine: CPU seconds of all cores.
        server: CPU seconds of the server's processes.
    """

    received: int
    answers: int
    seconds: float
    machine: float
    server: float


class Download:
    """A connection that asks for the same thing again and again."""

    def __init__(self, port: int, asked: bytes, status: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port))
        self.received = 0
        self.answers = 0
        self._asked = asked
        self._status = status
        self._head = b""
        self._left = 0

    def ask(self) -> None:
        """Send the request."""
        self.socket.sendall(self._asked)

    def take(self, buffer: bytearray) -> None:
        """Take what has arrived; ask again after the last byte."""
        got = self._take_body(buffer) if self._left else self._take_head()
        if not got:
            raise WrongAnswer("the server closed the connection")
        self.received += got
        if not self._left and not self._head:
            self.answers += 1
            self.ask()

    def _take_body(self, buffer: bytearray) -> int:
        # MSG_TRUNC: the kernel drops the bytes instead of copying them (tcp(7)).
        got = self.socket.recv_into(buffer, min(self._left, len(buffer)), socket.MSG_TRUNC)
        self._left -= got
        return got

    def _take_head(self) -> int:
        data = self.socket.recv(HEAD_BYTES)
        self._head += data
        end = self._head.find(b"\r\n\r\n")
        if end >= 0:
            answer = Answer(self._head[: end + 4], b"")
            if answer.status != self._status:
                raise WrongAnswer(f"status {answer.status}")
            self._left = int(answer.header("Content-Length")) - (len(self._head) - end - 4)
            self._head = b""
        return len(data)


def download(port: int, asked: bytes, status: int, connections: int, seconds: float, server: int) -> Downloaded:
    """Download over all connections for so many seconds."""
    all_ = [Download(port, asked, status) for _ in range(connections)]
    poll = select.epoll()
    by_descriptor = {one.socket.fileno(): one for one in all_}
    for descriptor in by_descriptor:
        poll.register(descriptor, select.EPOLLIN)
    buffer = bytearray(READ_BYTES)
    machine, used, began = machine_seconds(), tree_seconds(server), time.perf_counter()
    for one in all_:
        one.ask()
    while time.perf_counter() - began < seconds:
        ready = poll.poll(SILENCE_SECONDS)
        if not ready:
            raise WrongAnswer("nothing arrives any more")
        for descriptor, _ in ready:
            by_descriptor[descriptor].take(buffer)
    return Downloaded(
        received=sum(one.received for one in all_),
        answers=sum(one.answers for one in all_),
        seconds=time.perf_counter() - began,
        machine=machine_seconds() - machine,
        server=tree_seconds(server) - used,
    )


def main(port: str, path: str, connections: str, seconds: str, server: str, range_: str = "") -> None:
    """Download and print what was counted."""
    asked = request("GET", path, {"Range": range_} if range_ else {})
    status = 206 if range_ else 200
    counted = download(int(port), asked, status, int(connections), float(seconds), int(server))
    print(json.dumps(asdict(counted)))


if __name__ == "__main__":
    main(*sys.argv[1:])
