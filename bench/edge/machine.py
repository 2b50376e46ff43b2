"""When and on what was measured, in a few sentences above the tables."""

from __future__ import annotations

import os
import platform
import subprocess
from contextlib import suppress
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import psutil  # type: ignore[import-untyped]

from bench.edge import nginx
from bench.edge.peers import GRANIAN

LOOK_SECONDS = 10


def preface(folder: Path, rounds: int, seconds: int) -> str:
    """Return the date, the machine, the versions and the lengths.

    Args:
        folder: where the spool and the caches lay.
        rounds: how often each peer had its turn.
        seconds: length of a turn.
    """
    return (
        f"{circumstances(folder)} "
        f"{rounds} rounds of {seconds} s a peer; medians, and in parentheses or beside them the least and the greatest."
    )


def circumstances(folder: Path) -> str:
    """Return the date, the machine and the versions."""
    return (
        f"{machine(folder)}. "
        f"Python {platform.python_version()}, aiohttp {version('aiohttp')}, uvloop {version('uvloop')}, "
        f"nginx {nginx_version()}, granian {granian_version()}."
    )


def machine(folder: Path) -> str:
    """Return the date and the machine, as a sentence without its end; ``folder`` is where the files lie."""
    memory = psutil.virtual_memory().total / 1e9
    return (
        f"Measured on {datetime.now(UTC):%Y-%m-%d}: {cpu_model()}, {os.cpu_count()} cores, {memory:.0f} GB of memory, "
        f"{platform.system()} {platform.release().partition('-')[0]}, files on {file_system(folder)}"
    )


def cpu_model(cpuinfo: str | None = None) -> str:
    """Return the processor's name."""
    text = Path("/proc/cpuinfo").read_text() if cpuinfo is None else cpuinfo
    for line in text.splitlines():
        name, _, value = line.partition(":")
        if name.strip() == "model name":
            return value.strip()
    return platform.machine()


def file_system(folder: Path) -> str:
    """Return the type of the file system that holds ``folder``: on one in memory, flushing costs nothing."""
    at = folder.resolve()
    points = {part.mountpoint: part.fstype for part in psutil.disk_partitions(all=True)}
    for place in (at, *at.parents):
        if str(place) in points:
            return str(points[str(place)])
    return "an unknown file system"


def nginx_version() -> str:
    """Return nginx's version, or that it is missing."""
    found = nginx.program()
    # nginx tells its version on standard error.
    return _said([found, "-v"]).rpartition("/")[2] if found else "missing"


def granian_version() -> str:
    """Return granian's version, or that it is missing."""
    return _said([str(GRANIAN), "--version"]).rpartition(" ")[2] or "missing"


def _said(command: list[str]) -> str:
    with suppress(OSError, subprocess.SubprocessError):
        done = subprocess.run(command, capture_output=True, text=True, timeout=LOOK_SECONDS, check=True)
        return (done.stdout or done.stderr).strip()
    return ""
