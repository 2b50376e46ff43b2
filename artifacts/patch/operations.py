"""What a part of a patch does, in the order of the target."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

__all__ = ["Add", "Copy", "Data", "Operation", "part_of", "united"]


@dataclass(frozen=True, slots=True)
class Copy:
    """Bytes as they are at an address: of the base, or beyond its end of the target as far as it is made."""

    source: int
    length: int


@dataclass(frozen=True, slots=True)
class Data:
    """New bytes: the target's from ``start``."""

    start: int
    length: int


@dataclass(frozen=True, slots=True)
class Add:
    """The target's bytes from ``start`` as differences, modulo 256, to those at the address ``source``."""

    source: int
    start: int
    length: int


Operation = Copy | Add | Data


def part_of(operation: Operation, skipped: int, length: int) -> Operation:
    """Return ``length`` bytes of what an operation makes, from the byte on after those that are ``skipped``."""
    if isinstance(operation, Copy):
        return Copy(operation.source + skipped, length)
    if isinstance(operation, Add):
        return Add(operation.source + skipped, operation.start + skipped, length)
    return Data(operation.start + skipped, length)


def united(parts: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """Return parts of a file (start and end) in their order: those that touch are one, empty ones are left out."""
    found: list[tuple[int, int]] = []
    for start, end in sorted(part for part in parts if part[0] < part[1]):
        if found and start <= found[-1][1]:
            found[-1] = found[-1][0], max(found[-1][1], end)
        else:
            found.append((start, end))
    return found
