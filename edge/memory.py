"""A memory of what was worked out before, bounded in number and in size: the oldest goes for the newest."""

from __future__ import annotations

from collections import deque
from typing import Generic, TypeVar

Value = TypeVar("Value")


class BoundedMemory(Generic[Value]):
    """What was worked out for some bytes.

    Oldest first, not least used first: looking up stays a dictionary's, and what is in use is soon worked out again.

    Args:
        most: number of entries.
        max_bytes: longest key that is remembered.

    Attributes:
        entries: to look up in; only this class changes it.
    """

    __slots__ = ("_in_order", "_max_bytes", "_most", "entries")

    def __init__(self, most: int, max_bytes: int) -> None:
        self._most = most
        self._max_bytes = max_bytes
        self._in_order: deque[bytes] = deque()
        self.entries: dict[bytes, Value] = {}

    def add(self, key: bytes, value: Value) -> None:
        """Remember a value for a key, unless the key is too long."""
        if len(key) > self._max_bytes:
            return
        if key not in self.entries:
            if len(self._in_order) >= self._most:
                del self.entries[self._in_order.popleft()]
            self._in_order.append(key)
        self.entries[key] = value

    def clear(self) -> None:
        """Forget everything."""
        self._in_order.clear()
        self.entries.clear()
