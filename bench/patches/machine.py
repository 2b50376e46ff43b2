"""When and on what patches were measured, in a sentence above the tables."""

from __future__ import annotations

import os
import platform
from datetime import UTC, datetime
from pathlib import Path

import psutil  # type: ignore[import-untyped]

from bench.edge.machine import cpu_model, file_system

__all__ = ["preface"]


def preface(folder: Path) -> str:
    """Return the date and the machine; ``folder`` is where the corpus lies."""
    memory = psutil.virtual_memory().total / 1e9
    return (
        f"Measured on {datetime.now(UTC):%Y-%m-%d}: {cpu_model()}, {os.cpu_count()} cores, {memory:.0f} GB of memory, "
        f"{platform.system()} {platform.release().partition('-')[0]}, files on {file_system(folder)}, "
        f"Python {platform.python_version()}. Times are CPU times of one run; differences under a fifth are noise."
    )
