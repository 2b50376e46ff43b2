"""Closed-loop load that leaves the server the limit where wrk would be it. The generator itself is ``closedloop.c``."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

from bench.edge.load import Load, LoadFailed

GRACE_SECONDS = 30


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
    done = subprocess.run(
        [str(program), str(port), str(connections), str(seconds), str(len(answer)), start],
        input=request,
        capture_output=True,
        timeout=seconds + GRACE_SECONDS,
        check=False,
    )
    if done.returncode:
        raise LoadFailed(done.stderr.decode(errors="replace").strip())
    return Load.told(json.loads(done.stdout))
