"""The variables of a TensorFlow checkpoint or SavedModel: an index names them, and where in a data file they lie.

The index is a table of LevelDB: blocks of keys with values, each key without the prefix that it shares with the one
before it. TensorFlow writes it uncompressed.

Sources: leveldb's doc/table_format.md; TensorFlow's tensor_bundle.proto (BundleEntryProto), types.proto.
"""

from __future__ import annotations

from collections.abc import Iterator

from artifacts.inspect.errors import MalformedModel
from artifacts.inspect.protobuf import Budget, Message, read_varint
from artifacts.inspect.tensor import MAX_DIMENSIONS
from artifacts.patch.view import ViewFile
from artifacts.patch.weights.tensor import Elsewhere

_MAGIC = 0xDB4775248B80FB57.to_bytes(8, "little")
_FOOTER_BYTES = 48
_UNCOMPRESSED = 0
# Behind each block: one byte for how it is compressed, four for its checksum.
_TRAILER_BYTES = 5

_ENTRY_TYPE, _ENTRY_SHAPE, _ENTRY_SHARD, _ENTRY_OFFSET, _ENTRY_SIZE = 1, 2, 3, 4, 5
_HEADER_SHARDS = 1
_SHAPE_DIMENSION, _DIMENSION_SIZE = 2, 1
# DataType; strings and resources have no elements of one width.
_TYPES = {
    1: "f32",
    2: "f64",
    3: "i32",
    4: "u8",
    5: "i16",
    6: "i8",
    8: "f32",
    9: "i64",
    10: "u8",
    14: "bf16",
    17: "u16",
    19: "f16",
    22: "u32",
    23: "u64",
}

# An index has some fifty bytes for a variable.
MAX_INDEX_BYTES = 16 * 1024 * 1024
MAX_SHARDS = 100_000
MAX_KEY_BYTES = 4096


def is_index(end: bytes) -> bool:
    """Tell whether a file with this ``end``, of eight bytes or more, is a table of LevelDB."""
    return end[-8:] == _MAGIC


def find_weights(table: memoryview, name: str, budget: Budget) -> Iterator[Elsewhere]:
    """Yield the variables that an index names.

    Args:
        table: the index, all of it.
        name: its file name without its folder: ``variables.index`` goes with ``variables.data-00000-of-00001``.
        budget: of entries and fields that may be looked at.

    Raises:
        MalformedModel: it is no such index, or damaged; what was yielded before is sound.
    """
    if len(table) > MAX_INDEX_BYTES or len(table) < _FOOTER_BYTES:
        raise MalformedModel("no index: it is longer or shorter than any")
    shards = 1
    for key, value in _entries(table):
        budget.spend()
        if not key:
            shards = Message(ViewFile(value), 0, len(value), budget).integer(_HEADER_SHARDS, 1)
            continue
        if not 0 < shards <= MAX_SHARDS:
            raise MalformedModel("more files than any model has")
        variable = _variable(key, value, name.removesuffix(".index"), shards, budget)
        if variable is not None:
            yield variable


def _variable(key: bytes, value: memoryview, stem: str, shards: int, budget: Budget) -> Elsewhere | None:
    entry = Message(ViewFile(value), 0, len(value), budget)
    dtype = _TYPES.get(entry.integer(_ENTRY_TYPE))
    offset, length = entry.integer(_ENTRY_OFFSET), entry.integer(_ENTRY_SIZE)
    if dtype is None or offset < 0 or length <= 0:
        return None
    shape = entry.message(_ENTRY_SHAPE)
    dimensions = [] if shape is None else [one.integer(_DIMENSION_SIZE) for one in shape.messages(_SHAPE_DIMENSION)]
    location = f"{stem}.data-{entry.integer(_ENTRY_SHARD):05d}-of-{shards:05d}"
    return Elsewhere(key.decode(errors="replace"), location, offset, length, dtype, tuple(dimensions[:MAX_DIMENSIONS]))


def _entries(table: memoryview) -> Iterator[tuple[bytes, memoryview]]:
    """Yield all keys and values of a table, in order: an index of blocks leads to the blocks that hold them."""
    footer = table[-_FOOTER_BYTES:]
    # Of two handles the second is the index's.
    position = _handle(footer, 0)[2]
    start, length, _ = _handle(footer, position)
    for _, handle in _block(table, start, length):
        start, length, _ = _handle(handle, 0)
        yield from _block(table, start, length)


def _block(table: memoryview, start: int, length: int) -> Iterator[tuple[bytes, memoryview]]:
    """Yield the keys and values of one block."""
    block = table[start : start + length]
    if start + length + _TRAILER_BYTES > len(table) or length < 4 or table[start + length] != _UNCOMPRESSED:
        raise MalformedModel("a block leads out of the table, or is compressed")
    # The block ends with the positions of whole keys, and their number.
    entries = block[: max(0, length - 4 - 4 * int.from_bytes(block[-4:], "little"))]
    position, key = 0, b""
    while position < len(entries):
        shared, position = read_varint(entries, position)
        rest, position = read_varint(entries, position)
        value, position = read_varint(entries, position)
        if shared > len(key) or shared + rest > MAX_KEY_BYTES or position + rest + value > len(entries):
            raise MalformedModel("a key or a value leads out of its block")
        key = key[:shared] + bytes(entries[position : position + rest])
        position += rest
        yield key, entries[position : position + value]
        position += value


def _handle(data: memoryview, position: int) -> tuple[int, int, int]:
    """Return a block's offset and its length, and where the handle ends."""
    offset, position = read_varint(data, position)
    length, position = read_varint(data, position)
    return offset, length, position
