"""The writers below a spool's root: a directory each, and what stands beside them that is none."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final

DEAD_LETTER: Final = "dead-letter"
DEAD_SUFFIX: Final = ".segment"
"""Of what lies in there."""
_NO_WRITERS: Final = frozenset({DEAD_LETTER, "lost+found"})
"""Folders of a spool that are no writer's. The second is on every ext4 file system, and for root alone: a spool on a
volume of its own could not be shipped by anybody else."""


def writers(root: Path) -> Iterator[Path]:
    """Yield the directories of writers, living and dead; the root is made if it is missing."""
    root.mkdir(parents=True, exist_ok=True, mode=0o700)
    for entry in sorted(root.iterdir()):
        if entry.is_dir() and entry.name not in _NO_WRITERS and not entry.name.startswith("."):
            yield entry
