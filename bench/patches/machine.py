"""When and on what patches were measured, in a sentence above the tables."""

from __future__ import annotations

import platform
from pathlib import Path

from bench.edge.machine import machine

__all__ = ["preface"]


def preface(folder: Path) -> str:
    """Return the date and the machine; ``folder`` is where the corpus lies."""
    return (
        f"{machine(folder)}, "
        f"Python {platform.python_version()}. Times are CPU times of one run; differences under a fifth are noise."
    )
