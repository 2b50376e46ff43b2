"""Columns in ClickHouse's own format: byte for byte what the driver writes, and nothing that it would not."""

from __future__ import annotations

from io import BytesIO
from types import SimpleNamespace
from typing import Any
from uuid import UUID

import numpy as np
import pytest
from clickhouse_driver import defines
from clickhouse_driver.block import ColumnOrientedBlock
from clickhouse_driver.bufferedwriter import CompressedBufferedWriter
from clickhouse_driver.streams.native import BlockOutputStream
from hypothesis import given
from hypothesis import strategies as st

from telemetry.native import Coded, Column, Nullable, encode_block
from tests.telemetry.samples import coded

NUMBERS = st.integers(0, 2**32 - 1)
ROW = st.tuples(st.text(max_size=200), st.sampled_from(["", "a", "ü" * 100]), st.none() | NUMBERS, NUMBERS, st.uuids())
TYPES = {
    "text": "String",
    "word": "LowCardinality(String)",
    "perhaps": "Nullable(UInt32)",
    "number": "UInt32",
    "id": "UUID",
}


def as_columns(rows: list[tuple[str, str, int | None, int, UUID]]) -> list[Column]:
    texts, words, perhaps, numbers, ids = map(list, zip(*rows, strict=True))
    missing = np.array([value is None for value in perhaps], np.uint8)
    halves = [divmod(one.int, 2**64) for one in ids]
    return [
        coded(texts),
        coded(words),
        Nullable(np.array([value or 0 for value in perhaps], np.uint32), missing),
        np.array(numbers, np.uint32),
        np.array(halves, np.uint64).reshape(-1, 2),
    ]


def by_the_driver(rows: list[tuple[str, str, int | None, int, UUID]], revision: int) -> bytes:
    context: Any = SimpleNamespace(
        server_info=SimpleNamespace(used_revision=revision, get_timezone=lambda: "UTC"),
        client_settings={"strings_as_bytes": False, "strings_encoding": "utf-8", "use_numpy": False},
        settings={},
    )
    written = BytesIO()  # in the place of a compressor
    block = ColumnOrientedBlock(list(TYPES.items()), list(map(list, zip(*rows, strict=True))))
    BlockOutputStream(CompressedBufferedWriter(written, 1 << 20), context).write(block)
    return written.getvalue()


@given(st.lists(ROW, min_size=1, max_size=30), st.booleans())
def test_a_block_is_what_the_driver_writes_itself(
    rows: list[tuple[str, str, int | None, int, UUID]], newer: bool
) -> None:
    kinds = defines.DBMS_MIN_REVISION_WITH_CUSTOM_SERIALIZATION
    revision = kinds if newer else kinds - 1
    block_info = b"\x01\x00\x02\xff\xff\xff\xff\x00"

    ours = encode_block(TYPES.keys(), TYPES.values(), as_columns(rows), len(rows), serialization_kinds=newer)

    assert block_info + ours == by_the_driver(rows, revision)


@pytest.mark.parametrize(("different", "width"), [(256, 1), (257, 2), (65_536, 2), (65_537, 4)])
def test_codes_are_as_wide_as_the_number_of_texts_asks_for(different: int, width: int) -> None:
    texts = [f"{number:05}" for number in range(different)]
    columns: list[Column] = [Coded(np.arange(different), texts), np.zeros(different, np.uint8)]
    kinds = ["LowCardinality(String)", "UInt8"]
    block = encode_block(["a", "b"], kinds, columns, different)

    codes = block[: -different - len("\x01b\x05UInt8")][-width * different :]
    assert np.frombuffer(codes, f"<u{width}").tolist() == list(range(different))


def test_columns_of_different_lengths_are_a_mistake() -> None:
    with pytest.raises(ValueError, match="2 rows"):
        encode_block(["a"], ["UInt8"], [np.zeros(2, np.uint8)], 3)


def test_ranks_follow_the_order_of_bytes() -> None:
    texts = ["b", "", "é", "a", "🦊", "\uffff"]
    column = Coded(np.arange(6), texts)

    assert column.rows() == texts
    assert [texts[place] for place in np.argsort(column.ranks())] == sorted(texts, key=str.encode)
