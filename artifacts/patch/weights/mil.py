"""The weights of a Core ML ML Program: it names blobs, which lie in a file of their own.

Sources: coremltools' mlmodel/format, MIL.proto, and for the file of blobs mlmodel/src/MILBlob/Blob, StorageFormat.hpp
and BlobDataType.hpp. A compiled model (``.mlmodelc``) has the program as text, which is not documented: only how it
names blobs is read from it.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass

from artifacts.inspect.errors import MalformedModel
from artifacts.inspect.protobuf import BYTES, Budget, Field, Message
from artifacts.inspect.tensor import MAX_DIMENSIONS
from artifacts.patch.weights.tensor import Elsewhere, Tensor, make_tensor
from artifacts.source import Source

Weight = Tensor | Elsewhere

# Models within models, networks within layers, blocks within operations.
MAX_DEPTH = 16
# The text of a compiled ML Program: some 300 bytes for an operation.
MAX_TEXT_BYTES = 64 * 1024 * 1024

_PROGRAM_FUNCTIONS, _FUNCTION_BLOCKS, _BLOCK_OPERATIONS = 2, 3, 3
_ENTRY_KEY, _ENTRY_VALUE = 1, 2
_OPERATION_INPUTS, _OPERATION_OUTPUTS, _OPERATION_BLOCKS, _OPERATION_ATTRIBUTES = 2, 3, 4, 5
_ARGUMENT_BINDINGS, _BINDING_VALUE, _NAMED_NAME = 1, 2, 1
_VALUE_TYPE, _VALUE_IMMEDIATE, _VALUE_BLOB = 2, 3, 5
_BLOB_FILE, _BLOB_OFFSET = 1, 2
_TYPE_TENSOR, _TENSOR_TYPE, _TENSOR_DIMENSIONS, _DIMENSION_CONSTANT, _CONSTANT_SIZE = 1, 1, 3, 1, 1
_IMMEDIATE_TENSOR, _ARRAY_VALUES = 1, 1
_IMMEDIATE_FLOATS, _IMMEDIATE_DOUBLES, _IMMEDIATE_BYTES = 1, 6, 7
# DataType of MIL, as far as its values lie in bytes.
_MIL_TYPES = {
    10: "f16",
    11: "f32",
    12: "f64",
    13: "bf16",
    21: "i8",
    22: "i16",
    23: "i32",
    24: "i64",
    32: "u16",
    33: "u32",
    34: "u64",
}
# A model's files are named from its folder.
_MODEL_FOLDER = "@model_path/"


def find_in_program(program: Message) -> Iterator[Weight]:
    """Yield the weights of an ML Program; those in a file of blobs are `Elsewhere`, at the offset of the blob's entry.

    Raises:
        MalformedModel: it is damaged; what was yielded before is sound.
    """
    for function in _map_values(program, _PROGRAM_FUNCTIONS):
        for block in _map_values(function, _FUNCTION_BLOCKS):
            yield from _block(block, 0)


def _map_values(parent: Message, number: int) -> Iterator[Message]:
    for entry in parent.messages(number):
        yield from entry.messages(_ENTRY_VALUE)


def _block(block: Message, depth: int) -> Iterator[Weight]:
    require_depth(depth)
    for operation in block.messages(_BLOCK_OPERATIONS):
        values: list[tuple[str, Message]] = []
        inner: list[Message] = []
        name = ""
        for part in operation.fields():
            if part.kind != BYTES:
                continue
            if part.number == _OPERATION_OUTPUTS:
                name = name or operation.inside(part).text(_NAMED_NAME)
            elif part.number == _OPERATION_BLOCKS:
                inner.append(operation.inside(part))
            elif part.number in (_OPERATION_ATTRIBUTES, _OPERATION_INPUTS):
                values.extend(_operands(operation.inside(part), is_input=part.number == _OPERATION_INPUTS))
        for key, value in values:
            # What a constant operation puts out is its ``val``.
            yield from _value(value, name if key == "val" else f"{name}.{key}")
        for one in inner:
            yield from _block(one, depth + 1)


def _operands(entry: Message, *, is_input: bool) -> Iterator[tuple[str, Message]]:
    """Yield the values of an entry of a map of attributes or of inputs, each with the entry's key."""
    key = entry.text(_ENTRY_KEY)
    for value in entry.messages(_ENTRY_VALUE):
        if not is_input:
            yield key, value
            continue
        for binding in value.messages(_ARGUMENT_BINDINGS):
            for bound in binding.messages(_BINDING_VALUE):
                yield key, bound


def _value(value: Message, name: str) -> Iterator[Weight]:
    dtype: str = "u8"
    shape: tuple[int, ...] = ()
    for part in value.fields():
        if part.kind != BYTES:
            continue
        if part.number == _VALUE_TYPE:
            dtype, shape = _value_type(value.inside(part))
        elif part.number == _VALUE_BLOB:
            blob = value.inside(part)
            location, offset = blob.text(_BLOB_FILE).removeprefix(_MODEL_FOLDER), blob.integer(_BLOB_OFFSET)
            if location and offset >= 0:
                yield Elsewhere(name, location, offset, None, dtype, shape)
        elif part.number == _VALUE_IMMEDIATE:
            for tensor in value.inside(part).messages(_IMMEDIATE_TENSOR):
                yield from _immediate(tensor, name, dtype, shape)


def _value_type(kind: Message) -> tuple[str, tuple[int, ...]]:
    tensor = kind.message(_TYPE_TENSOR)
    if tensor is None:
        return "u8", ()
    shape = []
    for dimension in tensor.messages(_TENSOR_DIMENSIONS):
        constant = dimension.message(_DIMENSION_CONSTANT)
        shape.append(0 if constant is None else constant.integer(_CONSTANT_SIZE))
        if len(shape) > MAX_DIMENSIONS:
            raise MalformedModel("more dimensions than any tensor has")
    return _MIL_TYPES.get(tensor.integer(_TENSOR_TYPE), "u8"), tuple(shape)


def _immediate(tensor: Message, name: str, dtype: str, shape: tuple[int, ...]) -> Iterator[Weight]:
    for values in tensor.fields():
        if values.kind == BYTES and values.number in (_IMMEDIATE_FLOATS, _IMMEDIATE_DOUBLES, _IMMEDIATE_BYTES):
            # Types without a list of their own, float16 among them, come as bytes.
            stated = {_IMMEDIATE_FLOATS: "f32", _IMMEDIATE_DOUBLES: "f64"}.get(values.number, dtype)
            for part in tensor.inside(values).fields():
                if part.number == _ARRAY_VALUES:
                    yield from array_in(part, name, stated, shape)


# A line of a compiled program reads
# ``tensor<fp16, [8, 3]> w = const()[name = string("w"), val = tensor<fp16, [8, 3]>(BLOBFILE(path =``
# ``string("@model_path/weights/weight.bin"), offset = uint64(64)))];``; in older ones path and offset are tensors too.
_TEXT_BLOB = b"BLOBFILE("
_TEXT_OFFSET = re.compile(rb"offset = (?:uint64|tensor<uint64, \[\]>)\((\d{1,18})\)")
# What is looked at before and behind the word: names, a shape, a path.
_TEXT_BEFORE, _TEXT_BEHIND = 4096, 1024
# What that costs, in fields of a message.
_TEXT_FIELDS = 4


def find_text_weights(text: memoryview, budget: Budget) -> Iterator[Elsewhere]:
    """Yield the weights of an ML Program in its compiled form, a text.

    Raises:
        MalformedModel: it is longer than any program.
    """
    if len(text) > MAX_TEXT_BYTES:
        raise MalformedModel("a program is longer than any model's")
    program = bytes(text)
    at = program.find(_TEXT_BLOB)
    while at >= 0:
        budget.spend(_TEXT_FIELDS)
        weight = _text_weight(program[max(0, at - _TEXT_BEFORE) : at], program[at : at + _TEXT_BEHIND])
        if weight is not None:
            yield weight
        at = program.find(_TEXT_BLOB, at + 1)


def _text_weight(before: bytes, behind: bytes) -> Elsewhere | None:
    line = before.rpartition(b"\n")[2]
    output = line.partition(b" = ")[0].split()[-1:]
    operand, _, kind = line.rpartition(b" = ")
    key = operand.split()[-1:]
    path, offset = behind.split(b'"', 2)[1:2], _TEXT_OFFSET.search(behind)
    if not (output and key and path) or offset is None:
        return None
    name, location = _plain(output[0]), _plain(path[0]).removeprefix(_MODEL_FOLDER)
    whole = name if key[0] == b"val" else f"{name}.{_plain(key[0])}"
    numbers = kind.partition(b"[")[2].partition(b"]")[0].split(b",")[:MAX_DIMENSIONS]
    shape = tuple(int(number) for number in numbers if number.strip().isdigit() and len(number) < 19)
    return Elsewhere(whole, location, int(offset[1]), None, "u8", shape)


def _plain(raw: bytes) -> str:
    return raw.decode(errors="replace")


def require_depth(depth: int) -> None:
    """Refuse what would let a reader recurse without end.

    Raises:
        MalformedModel: models, networks or blocks are nested deeper than any model's.
    """
    if depth > MAX_DEPTH:
        raise MalformedModel("models are nested deeper than any model's")


def array_in(part: Field, name: str, dtype: str, shape: tuple[int, ...] = ()) -> Iterator[Tensor]:
    """Yield the array that fills a field, if it has an element."""
    tensor = make_tensor(name, part.start, part.end - part.start, dtype, shape) if part.kind == BYTES else None
    if tensor is not None:
        yield tensor


# storage_header, of which the first two numbers count, and blob_metadata, without what is reserved.
_BLOBS_HEADER = struct.Struct("<2L")
_BLOBS_VERSION = 2
_BLOB = struct.Struct("<2L3Q")
_BLOB_ALIGNMENT = 64
_BLOB_SENTINEL = 0xDEADBEEF
# BlobDataType; those of less than a byte, and of eight bits that are no integer, are bytes.
_BLOB_TYPES = {1: "f16", 2: "f32", 3: "u8", 4: "i8", 5: "bf16", 6: "i16", 7: "u16", 14: "i32", 15: "u32"}


@dataclass(frozen=True, slots=True)
class Blob:
    """One blob of an ML Program's weights, and the offset of the entry that describes it."""

    entry: int
    tensor: Tensor


def is_blob_file(start: bytes) -> bool:
    """Tell whether a file with this ``start``, of 128 bytes or more, is one of blobs."""
    return (
        len(start) >= 2 * _BLOB_ALIGNMENT
        and _BLOBS_HEADER.unpack_from(start)[1] == _BLOBS_VERSION
        and _BLOB.unpack_from(start, _BLOB_ALIGNMENT)[0] == _BLOB_SENTINEL
    )


def find_blobs(file: Source, length: int, budget: Budget) -> Iterator[Blob]:
    """Yield the blobs of a file of ``length`` bytes.

    An entry of 64 bytes stands before each blob, at the next multiple of 64 behind the one before.

    Raises:
        MalformedModel: it is no such file, or damaged; what was yielded before is sound.
    """
    file.seek(0)
    count, _ = _BLOBS_HEADER.unpack(file.read(_BLOBS_HEADER.size))
    entry = _BLOB_ALIGNMENT
    for _ in range(count):
        budget.spend()
        file.seek(entry)
        fields = file.read(_BLOB.size)
        if len(fields) < _BLOB.size:
            raise MalformedModel("an entry is cut off")
        sentinel, kind, size, offset, _ = _BLOB.unpack(fields)
        if sentinel != _BLOB_SENTINEL or offset < entry + _BLOB_ALIGNMENT or offset + size > length:
            raise MalformedModel("an entry describes no blob of this file")
        tensor = make_tensor("", offset, size, _BLOB_TYPES.get(kind, "u8"), ())
        if tensor is not None:
            yield Blob(entry, tensor)
        entry = offset + size + -(offset + size) % _BLOB_ALIGNMENT
