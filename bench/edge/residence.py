"""Resident memory of a server, now and at its highest. The kernel keeps the latter, so nobody has to look meanwhile."""

from __future__ import annotations

from pathlib import Path

import psutil  # type: ignore[import-untyped]


def resident(pid: int) -> int:
    """Return the resident bytes of a process and its children, each with what it shares."""
    return sum(_status(one, "VmRSS") for one in _family(pid))


def peak_resident(pid: int) -> int:
    """Return the most that they had since `forget_peak`, each at its own moment."""
    return sum(_status(one, "VmHWM") for one in _family(pid))


def forget_peak(pid: int) -> None:
    """Begin anew to look for the most (proc(5), ``/proc/PID/clear_refs``)."""
    for one in _family(pid):
        Path(f"/proc/{one}/clear_refs").write_text("5")


def _family(pid: int) -> list[int]:
    root = psutil.Process(pid)
    return [pid, *(child.pid for child in root.children(recursive=True))]


def _status(pid: int, name: str) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        field, _, value = line.partition(":")
        if field == name:
            return int(value.split()[0]) * 1024
    raise ValueError(f"{name} is not told of process {pid}")
