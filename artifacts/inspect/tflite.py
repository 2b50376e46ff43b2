"""Inputs and outputs of a TensorFlow Lite model.

A FlatBuffer is read in place, at offsets that it states itself; here each is checked before it is followed. The
``tflite`` package would read the same, but it loads numpy and 187 modules (0.2 s, 18 MB), and copies a string of
whatever length the file states.

Sources: flatbuffers.dev, "FlatBuffer Internals"; the slots are those of TensorFlow Lite's schema.fbs.
"""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass
from typing import BinaryIO

from artifacts.inspect.errors import MalformedModel
from artifacts.inspect.tensor import MAX_DIMENSIONS, MAX_TENSORS, Dimension, Signature, Tensor

FILE_IDENTIFIER = b"TFL3"

_MODEL_SUBGRAPHS = 2
_SUBGRAPH_TENSORS, _SUBGRAPH_INPUTS, _SUBGRAPH_OUTPUTS = 0, 1, 2
_TENSOR_SHAPE, _TENSOR_TYPE, _TENSOR_NAME, _TENSOR_SIGNATURE = 0, 1, 3, 7

# enum TensorType, in its order.
_ELEMENTS = (
    "float32",
    "float16",
    "int32",
    "uint8",
    "int64",
    "string",
    "bool",
    "int16",
    "complex64",
    "int8",
    "float64",
    "complex128",
    "uint64",
    "resource",
    "variant",
    "uint32",
    "uint16",
    "int4",
    "bfloat16",
)

# Bytes of a name: far above any model's.
MAX_NAME_BYTES = 4096


def is_tflite(file: BinaryIO) -> bool:
    """Tell whether ``file`` has TensorFlow Lite's identifier."""
    file.seek(0)
    return file.read(8)[4:] == FILE_IDENTIFIER


def read_signature(file: BinaryIO) -> Signature:
    """Return the inputs and outputs of the first subgraph, which is the one that runs.

    Raises:
        MalformedModel: it is no TensorFlow Lite model.
    """
    if not is_tflite(file):
        raise MalformedModel("no TensorFlow Lite model: it lacks the identifier")
    buffer = _Buffer(file)
    subgraphs = buffer.table(0).vector(_MODEL_SUBGRAPHS)
    if subgraphs.count == 0:
        raise MalformedModel("the model has no subgraph")
    graph = subgraphs.table(0)
    tensors = graph.vector(_SUBGRAPH_TENSORS)
    return Signature(_tensors(graph, _SUBGRAPH_INPUTS, tensors), _tensors(graph, _SUBGRAPH_OUTPUTS, tensors))


def _tensors(graph: _Table, slot: int, tensors: _Vector) -> tuple[Tensor, ...]:
    return tuple(_tensor(tensors.table(index)) for index in graph.vector(slot).numbers(MAX_TENSORS))


def _tensor(table: _Table) -> Tensor:
    element = table.byte(_TENSOR_TYPE)
    shape: tuple[Dimension, ...] = table.vector(_TENSOR_SHAPE).numbers(MAX_DIMENSIONS)
    # A dimension that may vary is -1 in the signature and 1 in the shape.
    signature = table.vector(_TENSOR_SIGNATURE).numbers(MAX_DIMENSIONS)
    if len(signature) == len(shape):
        shape = tuple(None if stated < 0 else fixed for stated, fixed in zip(signature, shape, strict=True))
    return Tensor(table.text(_TENSOR_NAME), _ELEMENTS[element] if element < len(_ELEMENTS) else "unknown", shape)


class _Buffer:
    """Little-endian numbers at checked positions of a file."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._length = file.seek(0, os.SEEK_END)

    def bytes(self, position: int, length: int) -> bytes:
        if not 0 <= position <= position + length <= self._length:
            raise MalformedModel("an offset leads out of the file")
        self._file.seek(position)
        return self._file.read(length)

    def number(self, layout: str, position: int) -> int:
        return int(struct.unpack("<" + layout, self.bytes(position, struct.calcsize(layout)))[0])

    def follow(self, position: int) -> int:
        return position + self.number("I", position)

    def table(self, position: int) -> _Table:
        """Return the table that the offset at ``position`` leads to."""
        return _Table(self, self.follow(position))


@dataclass(frozen=True, slots=True)
class _Table:
    """A table: its position, from which its vtable tells where each slot's value lies."""

    buffer: _Buffer
    position: int

    def _slot(self, slot: int) -> int | None:
        vtable = self.position - self.buffer.number("i", self.position)
        entry = 4 + 2 * slot
        if entry + 2 > self.buffer.number("H", vtable):
            return None
        offset = self.buffer.number("H", vtable + entry)
        return self.position + offset if offset else None

    def byte(self, slot: int) -> int:
        position = self._slot(slot)
        return 0 if position is None else self.buffer.number("B", position)

    def vector(self, slot: int) -> _Vector:
        position = self._slot(slot)
        if position is None:
            return _Vector(self.buffer, 0, 0)
        start = self.buffer.follow(position)
        return _Vector(self.buffer, start + 4, self.buffer.number("I", start))

    def text(self, slot: int) -> str:
        vector = self.vector(slot)
        if vector.count > MAX_NAME_BYTES:
            raise MalformedModel("a name is longer than any model has")
        try:
            return self.buffer.bytes(vector.position, vector.count).decode()
        except UnicodeDecodeError as problem:
            raise MalformedModel("a name is not UTF-8") from problem


@dataclass(frozen=True, slots=True)
class _Vector:
    """A vector: where its elements start and how many it says there are."""

    buffer: _Buffer
    position: int
    count: int

    def table(self, index: int) -> _Table:
        if not 0 <= index < self.count:
            raise MalformedModel("an index leads out of its vector")
        return self.buffer.table(self.position + 4 * index)

    def numbers(self, limit: int) -> tuple[int, ...]:
        if self.count > limit:
            raise MalformedModel("a list is longer than any model has")
        return struct.unpack(f"<{self.count}i", self.buffer.bytes(self.position, 4 * self.count))
