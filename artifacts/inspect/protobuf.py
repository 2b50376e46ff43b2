"""Protocol Buffers on the wire, read from a file without loading it.

A model of 500 MB is a few kilobytes of description and a few very long fields. The reader goes from field to field,
knows where each lies, and reads only what it is asked for. Every step is bounded, since anybody can upload anything.

Source: protobuf.dev, "Encoding".
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from artifacts.inspect.errors import MalformedModel
from artifacts.source import Source

VARINT, FIXED_64, BYTES, FIXED_32 = 0, 1, 2, 5

# Fields that one inspection may look at. The largest graphs in use have some 100,000 nodes and tensors; two million
# take five seconds.
MAX_FIELDS = 2_000_000
# Longest name that is read: of an input, an output, a tensor.
MAX_TEXT_BYTES = 4096
# A tag and a length, of at most ten bytes each (a 64-bit varint).
_HEAD_BYTES = 20


class Budget:
    """How many fields may still be looked at, by all readers of one file together."""

    def __init__(self, fields: int = MAX_FIELDS) -> None:
        self._left = fields

    def spend(self, fields: int = 1) -> None:
        """Count one field, or what costs as much as several.

        Raises:
            MalformedModel: there are more than any model has.
        """
        self._left -= fields
        if self._left < 0:
            raise MalformedModel("more fields than any model has")


@dataclass(frozen=True, slots=True)
class Field:
    """One field: its number, its wire type, its number's value, or where its bytes lie in the file."""

    number: int
    kind: int
    value: int
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Message:
    """A message that lies in ``file`` from ``start`` to ``end``."""

    file: Source
    start: int
    end: int
    budget: Budget

    def fields(self) -> Iterator[Field]:
        """Yield the fields in their order on the wire.

        Raises:
            MalformedModel: the bytes are no message.
        """
        position = self.start
        while position < self.end:
            self.budget.spend()
            self.file.seek(position)
            field = _field(self.file.read(_HEAD_BYTES), position)
            if field.end > self.end:
                raise MalformedModel("a field goes beyond its message")
            yield field
            position = field.end

    def messages(self, number: int) -> Iterator[Message]:
        """Yield the messages in the fields of that number."""
        for field in self.fields():
            if field.number == number and field.kind == BYTES:
                yield self.inside(field)

    def message(self, number: int) -> Message | None:
        """Return the last message in a field of that number, which is the one that counts."""
        last = None
        for last in self.messages(number):  # noqa: B007 - the last one is what is wanted
            pass
        return last

    def inside(self, field: Field) -> Message:
        """Return the message that a field holds."""
        return Message(self.file, field.start, field.end, self.budget)

    def text(self, number: int, default: str = "") -> str:
        """Return the last text in a field of that number.

        Raises:
            MalformedModel: it is longer than `MAX_TEXT_BYTES`, or not UTF-8.
        """
        found = None
        for field in self.fields():
            if field.number == number and field.kind == BYTES:
                found = field
        return default if found is None else self.text_of(found)

    def integer(self, number: int, default: int = 0) -> int:
        """Return the last number in a field of that number, as an int64."""
        value = default
        for field in self.fields():
            if field.number == number and field.kind == VARINT:
                value = field.value
        return value

    def integers(self, number: int, limit: int) -> tuple[int, ...]:
        """Return all numbers in fields of that number, packed or not, as int64.

        Raises:
            MalformedModel: there are more than ``limit``.
        """
        values: list[int] = []
        for field in self.fields():
            if field.number == number:
                values.extend(self.numbers_of(field, limit))
                if len(values) > limit:
                    raise MalformedModel("a list is longer than any model has")
        return tuple(values)

    def text_of(self, field: Field) -> str:
        """Return the text in a field of bytes.

        Raises:
            MalformedModel: it is longer than `MAX_TEXT_BYTES`, or not UTF-8.
        """
        if field.end - field.start > MAX_TEXT_BYTES:
            raise MalformedModel("a name is longer than any model has")
        self.file.seek(field.start)
        try:
            return self.file.read(field.end - field.start).decode()
        except UnicodeDecodeError as problem:
            raise MalformedModel("a name is not UTF-8") from problem

    def numbers_of(self, field: Field, limit: int) -> list[int]:
        """Return the numbers in a field, one or a packed list, as int64; of a list not many more than ``limit``.

        Raises:
            MalformedModel: the list is damaged.
        """
        if field.kind == VARINT:
            return [field.value]
        self.file.seek(field.start)
        data = self.file.read(min(field.end - field.start, 10 * (limit + 1)))
        values, position = [], 0
        while position < len(data):
            value, position = read_varint(data, position)
            values.append(_signed(value))
        return values


def _field(head: bytes, position: int) -> Field:
    tag, used = read_varint(head, 0)
    number, kind = tag >> 3, tag & 7
    if number == 0:
        raise MalformedModel("a field has the number 0")
    if kind == VARINT:
        value, used = read_varint(head, used)
        return Field(number, kind, _signed(value), position + used, position + used)
    if kind == BYTES:
        length, used = read_varint(head, used)
    elif kind in (FIXED_32, FIXED_64):
        length = 4 if kind == FIXED_32 else 8
    else:
        raise MalformedModel("a field has no wire type that is in use")
    return Field(number, kind, 0, position + used, position + used + length)


def read_varint(data: bytes | memoryview, position: int) -> tuple[int, int]:
    """Return the number at ``position``, of at most 64 bits, and where it ends.

    Raises:
        MalformedModel: it is cut off, or longer.
    """
    value = 0
    for shift in range(0, 70, 7):
        if position >= len(data):
            raise MalformedModel("a number is cut off")
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & 0xFFFFFFFFFFFFFFFF, position
    raise MalformedModel("a number is longer than 64 bits")


def _signed(value: int) -> int:
    return value - (1 << 64) if value >= 1 << 63 else value
