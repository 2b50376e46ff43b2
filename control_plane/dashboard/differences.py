"""What differs between the files of two versions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from control_plane.api.schemas import FileOut

Change = Literal["added", "removed", "changed", "same"]


@dataclass(frozen=True, slots=True)
class FileDifference:
    """A file that at least one of two versions has.

    Args:
        name: its path in the version.
        change: what became of it.
        before: its length in the earlier version, or None.
        after: the same in the later one.
    """

    name: str
    change: Change
    before: int | None
    after: int | None


def compare_files(before: Sequence[FileOut], after: Sequence[FileOut]) -> list[FileDifference]:
    """Return what became of each file from one version to another, by name."""
    old, new = ({file.name: file for file in files} for files in (before, after))
    return [_compare(name, old.get(name), new.get(name)) for name in sorted(old.keys() | new.keys())]


def _compare(name: str, before: FileOut | None, after: FileOut | None) -> FileDifference:
    change: Change
    if before is None:
        change = "added"
    elif after is None:
        change = "removed"
    else:
        change = "same" if before.sha256 == after.sha256 else "changed"
    lengths = [None if file is None else file.length for file in (before, after)]
    return FileDifference(name, change, *lengths)
