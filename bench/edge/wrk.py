"""Closed-loop load by wrk, one thread: each connection asks again as soon as it was answered."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

from bench.edge.load import Load, LoadFailed

LUA = Path(__file__).resolve().parent / "lua"
MARK = "skafos-bench "
# wrk ends by itself; what it does before and after the measured time (making requests, closing) takes less than this.
GRACE_SECONDS = 60


def run_wrk(
    url: str,
    connections: int,
    seconds: float,
    *,
    headers: dict[str, str] | None = None,
    script: str = "report.lua",
    arguments: tuple[str, ...] = (),
) -> Load:
    """Load ``url`` and return what was counted.

    Raises:
        LoadFailed: wrk failed, or an answer was an error.
    """
    command = ["wrk", "--threads", "1", "--connections", str(connections), "--duration", f"{max(1, round(seconds))}s"]
    command += ["--timeout", "10s", "--script", script]
    for name, value in (headers or {}).items():
        command += ["--header", f"{name}: {value}"]
    command += [url, *(["--", *arguments] if arguments else [])]
    done = subprocess.run(
        command, cwd=LUA, capture_output=True, text=True, timeout=seconds + GRACE_SECONDS, check=False
    )
    if done.returncode:
        raise LoadFailed(f"wrk failed: {done.stderr.strip() or done.stdout.strip()}")
    return parse(done.stdout)


def parse(output: str) -> Load:
    """Return what the line of ``lua/report.lua`` says.

    Raises:
        LoadFailed: there is no such line, nothing was answered, or there were errors.
    """
    lines = [line.removeprefix(MARK) for line in output.splitlines() if line.startswith(MARK)]
    if len(lines) != 1:
        raise LoadFailed(f"wrk told nothing: {output.strip()[-500:]}")
    told: dict[str, int] = json.loads(lines[0])
    errors = {name: count for name, count in told.items() if name.endswith(("errors", "timeouts")) and count}
    if errors:
        raise LoadFailed("wrk met errors: " + ", ".join(f"{count} {name}" for name, count in errors.items()))
    if not told["requests"]:
        raise LoadFailed("nothing was answered")
    return Load.told(told)
