"""FlatBuffers, read in place from a file at offsets that the file states itself; each is checked before it is followed.

The ``flatbuffers`` package would read the same, but it loads numpy and 187 modules (0.2 s, 18 MB), and copies a string
of whatever length the file states.

Source: flatbuffers.dev, "FlatBuffer Internals".
"""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass

from artifacts.inspect.errors import MalformedModel
from artifacts.source import Source

# Bytes of a name: far above any model's.
MAX_NAME_BYTES = 4096


class Buffer:
    """Little-endian numbers at checked positions of a file."""

    def __init__(self, file: Source) -> None:
        self._file = file
        self._length = file.seek(0, os.SEEK_END)

    @property
    def length(self) -> int:
        """The length of the file, in bytes."""
        return self._length

    def bytes(self, position: int, length: int) -> bytes:
        """Return ``length`` bytes from ``position``.

        Raises:
            MalformedModel: they are not all in the file; so with every other reader here.
        """
        if not 0 <= position <= position + length <= self._length:
            raise MalformedModel("an offset leads out of the file")
        self._file.seek(position)
        return self._file.read(length)

    def number(self, layout: str, position: int) -> int:
        """Return the number at ``position``, whose layout is a letter of `struct`."""
        return int(struct.unpack("<" + layout, self.bytes(position, struct.calcsize(layout)))[0])

    def follow(self, position: int) -> int:
        """Return where the offset at ``position`` leads."""
        return position + self.number("I", position)

    def table(self, position: int) -> Table:
        """Return the table that the offset at ``position`` leads to."""
        return Table(self, self.follow(position))


@dataclass(frozen=True, slots=True)
class Table:
    """A table: its position, from which its vtable tells where each slot's value lies."""

    buffer: Buffer
    position: int

    def _slot(self, slot: int) -> int | None:
        vtable = self.position - self.buffer.number("i", self.position)
        entry = 4 + 2 * slot
        if entry + 2 > self.buffer.number("H", vtable):
            return None
        offset = self.buffer.number("H", vtable + entry)
        return self.position + offset if offset else None

    def byte(self, slot: int) -> int:
        """Return the byte in a slot, 0 if it is empty."""
        return self.number(slot, "B")

    def number(self, slot: int, layout: str) -> int:
        """Return the number in a slot, 0 if it is empty; its layout is a letter of `struct`."""
        position = self._slot(slot)
        return 0 if position is None else self.buffer.number(layout, position)

    def vector(self, slot: int) -> Vector:
        """Return the vector in a slot, an empty one if the slot is."""
        position = self._slot(slot)
        if position is None:
            return Vector(self.buffer, 0, 0)
        start = self.buffer.follow(position)
        return Vector(self.buffer, start + 4, self.buffer.number("I", start))

    def text(self, slot: int) -> str:
        """Return the text in a slot, an empty one if the slot is."""
        vector = self.vector(slot)
        if vector.count > MAX_NAME_BYTES:
            raise MalformedModel("a name is longer than any model has")
        try:
            return self.buffer.bytes(vector.position, vector.count).decode()
        except UnicodeDecodeError as problem:
            raise MalformedModel("a name is not UTF-8") from problem


@dataclass(frozen=True, slots=True)
class Vector:
    """A vector: where its elements start and how many it says there are."""

    buffer: Buffer
    position: int
    count: int

    def table(self, index: int) -> Table:
        """Return the table that the element at ``index`` leads to."""
        if not 0 <= index < self.count:
            raise MalformedModel("an index leads out of its vector")
        return self.buffer.table(self.position + 4 * index)

    def numbers(self, limit: int) -> tuple[int, ...]:
        """Return the elements as 32-bit integers, if there are no more than ``limit``."""
        if self.count > limit:
            raise MalformedModel("a list is longer than any model has")
        return struct.unpack(f"<{self.count}i", self.buffer.bytes(self.position, 4 * self.count))
