"""Closed-loop load that leaves the server the limit where wrk would be it. The generator itself is ``closedloop.c``."""

from __future__ import annotations

from pathlib import Path

from bench.edge.generators import run_generator
from bench.edge.load import Load


def run_closedloop(program: Path, port: int, request: bytes, answer: bytes, connections: int, seconds: float) -> Load:
    """Ask the same over and over and return what was counted.

    Args:
        program: compiled from ``closedloop.c``.
        port: on the loopback interface.
        request: the same each time.
        answer: an example; all must have its size and its first line.
        connections: each asks again when it was answered.
        seconds: measured time.

    Raises:
        LoadFailed: an answer was another one, or a connection ended.
    """
    start = answer.partition(b"\r\n")[0].decode()
    return Load.told(run_generator(program, (port, connections, seconds, len(answer), start), request, seconds))
