"""What a part of a patch does, in the order of the target."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Add", "Copy", "Data", "Operation", "part_of"]


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
