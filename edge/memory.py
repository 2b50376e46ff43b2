"""Memories of what was worked out before, and of what came before, bounded in number and in size."""

from __future__ import annotations

from typing import TypeVar

Value = TypeVar("Value")


class BoundedMemory(dict[bytes, Value]):
    """What was worked out for some bytes; look up in it, and let `add` alone put in what is not there.

    When it is full it forgets everything, not the oldest: what is in use is soon worked out again, and keeping an order
    would cost more with every new entry than that.

    Args:
        most: number of entries.
        max_bytes: longest key that is remembered.
    """

    __slots__ = ("_max_bytes", "_most")

    def __init__(self, most: int, max_bytes: int) -> None:
        super().__init__()
        self._most = most
        self._max_bytes = max_bytes

    def add(self, key: bytes, value: Value) -> None:
        """Remember a value for a key that is not there, unless the key is too long."""
        if len(key) <= self._max_bytes:
            if len(self) >= self._most:
                self.clear()
            self[key] = value


class Doorkeeper:
    """Says whether something came lately, so that what comes once does not push out what comes again.

    The idea is the doorkeeper of Einziger, Friedman and Manes, "TinyLFU: A Highly Efficient Cache Admission Policy"
    (2017). Hashes are kept in place of the bytes, 32 bytes each; nobody can choose them, since Python's have a secret
    key.

    Args:
        most: number of hashes; when it is reached, all are forgotten.
    """

    __slots__ = ("_most", "hashes")

    def __init__(self, most: int) -> None:
        self._most = most
        self.hashes: set[int] = set()

    def came_before(self, key: bytes) -> bool:
        """Say whether this came lately; the next time it did."""
        seen = hash(key)
        if seen in self.hashes:
            return True
        if len(self.hashes) >= self._most:
            self.hashes.clear()
        self.hashes.add(seen)
        return False
