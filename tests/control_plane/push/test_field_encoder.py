"""What the encoder makes is what any decoder of HPACK reads, whatever enters and leaves the table of fields."""

from __future__ import annotations

import hpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from control_plane.push.field_encoder import FieldEncoder

VALUES = st.one_of(st.sampled_from([b"a", b"b", b"POST", b"x" * 120]), st.binary(max_size=90))
FIELDS = st.tuples(st.sampled_from([b":method", b":path", b"authorization", b"apns-topic", b"apns-expiration"]), VALUES)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(st.lists(FIELDS, max_size=6), st.sampled_from([None, None, None, 0, 64, 200, 4096]))))
def test_blocks_are_read_as_they_were_meant(turns: list[tuple[list[tuple[bytes, bytes]], int | None]]) -> None:
    encoder, decoder = FieldEncoder(), hpack.Decoder()
    for fields, table_size in turns:
        if table_size is not None:  # the server says so in its settings, and its decoder takes no more
            encoder.header_table_size = table_size
        for _ in range(2):  # what came before is a number, perhaps
            read = decoder.decode(encoder.encode(fields), raw=True)
            assert [tuple(field) for field in read] == fields


def test_what_all_requests_have_in_common_takes_a_byte_each_and_paths_are_never_kept() -> None:
    encoder, decoder = FieldEncoder(), hpack.Decoder()
    common = [(":method", "POST"), ("authorization", "bearer " + "t" * 200), ("apns-topic", "com.example.camera")]
    sizes = []
    for number in range(1_000):
        path = f"/3/device/{number:064x}"
        block = encoder.encode([*common, (":path", path)])
        *_, kept = decoder.decode(block, raw=True)
        assert (*kept, kept.indexable) == (b":path", path.encode(), False)
        sizes.append(len(block) - len(path))
    assert sizes[0] > 100
    assert set(sizes[1:]) == {len(common) + 2}
    assert len(encoder.header_table.dynamic_entries) == 2


@pytest.mark.parametrize("table_size", [0, 4096])
def test_what_is_remembered_is_no_more_than_the_table_holds(table_size: int) -> None:
    encoder = FieldEncoder()
    encoder.header_table_size = table_size
    for number in range(2_000):
        encoder.encode([("x-request", str(number)), (":method", "POST"), (":status", "200")])
        encoder.encode([("x-request", str(number))])
    assert len(encoder._numbers) <= 200
