"""ClickHouse's Native format, as far as inserts need it: whole columns, one after another, as numpy holds them.

A block is what both ways into ClickHouse take, a server over its protocol and the embedded engine as ``FORMAT Native``.
The driver's own columns come from Python lists, one value at a time, or from pandas; the columns here are arrays, and a
text that comes often is written once, with a number for each row (``LowCardinality``).

Source: ``NativeWriter.cpp``, ``SerializationLowCardinality.cpp`` and ``SerializationNullable.cpp`` in ClickHouse's own.
"""

from __future__ import annotations

import struct
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

Numbers: TypeAlias = NDArray[Any]
"""A column of a fixed width: integers of the width that the type has, or pairs of them for ``UUID``."""


@dataclass(frozen=True, slots=True)
class Coded:
    """A column of texts: that of row ``i`` is ``texts[codes[i]]``; no text comes twice. Written as the type asks."""

    codes: NDArray[np.int64]
    texts: Sequence[str]

    def rows(self) -> list[str]:
        """Return the text of each row."""
        return list(map(self.texts.__getitem__, self.codes.tolist()))

    def ranks(self) -> NDArray[np.int64]:
        """Return for each row the place of its text among the texts in order (of code points, as of UTF-8 bytes)."""
        places = np.empty(len(self.texts), np.int64)
        places[sorted(range(len(self.texts)), key=self.texts.__getitem__)] = np.arange(len(self.texts))
        return places[self.codes]

    def compact(self) -> Coded:
        """Return the column without the texts that no row has: they would be stored all the same."""
        used, codes = np.unique(self.codes, return_inverse=True)
        return Coded(codes.astype(np.int64), [self.texts[code] for code in used.tolist()])


@dataclass(frozen=True, slots=True)
class Nullable:
    """A column of numbers, some of which are missing: ``missing[i]`` is 1, and ``numbers[i]`` is 0 then."""

    numbers: Numbers
    missing: NDArray[np.uint8]


Column: TypeAlias = Numbers | Coded | Nullable

_KEYS_VERSION: Final = struct.pack("<Q", 1)  # SharedDictionariesWithAdditionalKeys
_OWN_KEYS: Final = 1 << 9 | 1 << 10  # HasAdditionalKeysBit, NeedUpdateDictionary: the block brings its dictionary
_MORE_BYTES: Final = 0x80


def encode_block(
    names: Collection[str],
    types: Collection[str],
    columns: Collection[Column],
    count: int,
    *,
    serialization_kinds: bool = False,
) -> bytes:
    """Return a block of columns.

    Args:
        names: of the columns.
        types: of the columns, as ClickHouse writes them.
        columns: all of one length, ``count``.
        count: rows.
        serialization_kinds: write, behind each type, that the column has the usual form: the native protocol since its
            revision 54454.

    Raises:
        ValueError: a column has another length.
    """
    pieces = [_varint(len(columns)), _varint(count)]
    for name, kind, column in zip(names, types, columns, strict=True):
        pieces += (_text(name), _text(kind))
        if serialization_kinds:
            pieces.append(b"\0")
        pieces += _encoded(kind, column, count)
    return b"".join(pieces)


def joined(parts: Sequence[Column]) -> Column:
    """Return the parts of one column as one. They are of one kind, and coded ones share their texts."""
    first = parts[0]
    if isinstance(first, Coded):
        return Coded(np.concatenate([part.codes for part in parts if isinstance(part, Coded)]), first.texts)
    if isinstance(first, Nullable):
        nullable = [part for part in parts if isinstance(part, Nullable)]
        numbers = np.concatenate([part.numbers for part in nullable])
        return Nullable(numbers, np.concatenate([part.missing for part in nullable]))
    return np.concatenate([part for part in parts if isinstance(part, np.ndarray)])


def taken(column: Column, order: NDArray[np.intp]) -> Column:
    """Return the rows of a column in another order."""
    if isinstance(column, Coded):
        return Coded(column.codes[order], column.texts)
    if isinstance(column, Nullable):
        return Nullable(column.numbers[order], column.missing[order])
    return column[order]


def _encoded(kind: str, column: Column, count: int) -> Iterator[bytes]:
    if isinstance(column, Coded):
        return _texts(column, count) if kind == "String" else _coded(column, count)
    if isinstance(column, Nullable):
        return chain(_numbers(column.missing, count), _numbers(column.numbers, count))
    return _numbers(column, count)


def _numbers(numbers: Numbers, count: int) -> Iterator[bytes]:
    _check_length(len(numbers), count)
    yield numbers.astype(numbers.dtype.newbyteorder("<"), copy=False).tobytes()


def _coded(column: Coded, count: int) -> Iterator[bytes]:
    _check_length(len(column.codes), count)
    yield _KEYS_VERSION
    if count == 0:
        return
    texts = len(column.texts)
    width, kind = (np.uint8, 0) if texts <= 1 << 8 else (np.uint16, 1) if texts <= 1 << 16 else (np.uint32, 2)
    yield struct.pack("<QQ", _OWN_KEYS | kind, texts)
    yield b"".join(map(_text, column.texts))
    yield struct.pack("<Q", count)
    yield from _numbers(column.codes.astype(width), count)


def _texts(column: Coded, count: int) -> Iterator[bytes]:
    _check_length(len(column.codes), count)
    texts = list(map(_text, column.texts))
    if len(set(map(len, texts))) == 1:  # as ids are: a table of them is read out by row
        table = np.frombuffer(b"".join(texts), np.uint8).reshape(len(texts), -1)
        yield table[column.codes].tobytes()
    else:
        yield from map(texts.__getitem__, column.codes.tolist())


def _text(text: str) -> bytes:
    data = text.encode()
    return _varint(len(data)) + data


def _varint(number: int) -> bytes:
    """Return a number in LEB128, which ClickHouse calls VarUInt."""
    data = bytearray()
    while number >= _MORE_BYTES:
        data.append(number & 0x7F | 0x80)
        number >>= 7
    data.append(number)
    return bytes(data)


def _check_length(length: int, count: int) -> None:
    if length != count:
        raise ValueError(f"a column has {length} rows, the block {count}")
