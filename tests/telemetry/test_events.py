"""Batches of events: what is accepted, what is refused alone, and what is no batch at all."""

from __future__ import annotations

import json
import tracemalloc
from typing import Any
from uuid import UUID

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from telemetry.events import (
    MAX_BATCH_BYTES,
    MAX_ERROR_CHARS,
    MAX_EVENTS_PER_BATCH,
    MAX_HALVES_MENDED,
    MAX_NAME_CHARS,
    MAX_REASONS_PER_BATCH,
    BatchTooLarge,
    InvalidBatch,
    decode_batch,
    decode_events,
)
from tests.telemetry.samples import body, event


def test_a_json_array_is_kept_byte_for_byte_with_the_fields_nobody_knows() -> None:
    sent = b'[ {"colour": "blue", ' + body(event())[2:]

    batch = decode_batch(sent, "application/json; charset=utf-8")

    assert batch.raw == sent
    assert batch.refused == ()
    assert batch.count == 1


@pytest.mark.parametrize("content_type", ["application/x-ndjson", "application/ndjson", None, "text/plain"])
def test_lines_of_json_are_a_batch_and_empty_lines_are_nothing(content_type: str | None) -> None:
    first, second = event(), event("activate", version=2)
    sent = f"{json.dumps(first)}\r\n\n{json.dumps(second)}\n".encode()

    batch = decode_batch(sent, content_type)

    assert [one.type for one in decode_events(batch.raw)] == ["check", "activate"]
    assert json.loads(batch.raw) == [first, second]


BAD: list[tuple[dict[str, Any], str]] = [
    ({"event_id": "not-a-uuid"}, "UUID"),
    ({"event_id": None}, "event_id"),
    ({"type": "Has Spaces"}, "type"),
    ({"type": 3}, "type"),
    ({"occurred_at": "yesterday"}, "occurred_at"),
    ({"occurred_at": True}, "occurred_at"),
    ({"device_id": ""}, "device_id"),
    ({"device_id": "x" * 65}, "device_id"),
    ({"device_id": "a\n"}, "device_id"),
    ({"version": -1}, "version"),
    ({"version": 2**32}, "version"),
    ({"version": "3"}, "version"),
    ({"bytes": -1}, "bytes"),
    ({"bytes": 2**63}, "bytes"),
    ({"duration_ms": -0.5}, "duration_ms"),
    ({"model": "m" * (MAX_NAME_CHARS + 1)}, "model"),
    ({"error": "e" * (MAX_ERROR_CHARS + 1)}, "error"),
    ({"locale": ["de"]}, "locale"),
]


@pytest.mark.parametrize(("wrong", "named"), BAD, ids=[str(wrong)[:40] for wrong, _ in BAD])
def test_a_bad_event_is_refused_alone_with_its_place_and_a_reason(wrong: dict[str, Any], named: str) -> None:
    good = event()

    batch = decode_batch(body(good, event(**{}) | wrong, good))

    assert [refused.index for refused in batch.refused] == [1]
    assert named in batch.refused[0].reason
    assert json.loads(batch.raw) == [good, good]


def test_what_is_no_object_is_refused_alone() -> None:
    batch = decode_batch(b'[1, "x", null, [], ' + body(event())[1:])

    assert [refused.index for refused in batch.refused] == [0, 1, 2, 3]
    assert batch.count == 1


def test_text_that_is_no_utf8_spoils_its_event_alone() -> None:
    spoiled = json.dumps(event()).encode().replace(b"faces", b"\xff\xfe")

    batch = decode_batch(b"[" + spoiled + b"," + body(event())[1:])

    assert [refused.index for refused in batch.refused] == [0]


def test_no_more_halves_are_put_right_than_the_bound() -> None:
    def cut(times: int) -> bytes:
        return body(event(colour="HALF")).replace(b"HALF", rb"\ud83d" * times)

    assert decode_batch(cut(MAX_HALVES_MENDED)).count == 1
    with pytest.raises(InvalidBatch):
        decode_batch(cut(MAX_HALVES_MENDED + 1))


HALVES = [
    (r"\ud83d", "�"),
    (r"\uDD25", "�"),
    (r"x\udfff\ud800y", "x��y"),
    (r"\ud83d\ud83d\udd25\udd25", "�🔥�"),
    (r"\ud83d\n", "�\n"),
    (r"\\\\\ud83d\\ud83d", "\\\\�\\ud83d"),
    (r"\\ud83d\ud83d", "\\ud83d�"),
]


@pytest.mark.parametrize(("half", "kept"), HALVES, ids=[half for half, _ in HALVES])
@pytest.mark.parametrize("joined", [b",", b"\n"], ids=["array", "lines"])
def test_half_a_surrogate_pair_is_replaced_and_spoils_nothing(half: str, kept: str, joined: bytes) -> None:
    whole = json.dumps(event("error", error="🔥", colour=["🔥"])).encode()
    cut = json.dumps(event("error", error="HALF")).replace("HALF", half).encode()
    lines = joined.join([whole, cut, b"{}", whole])

    batch = decode_batch(lines if joined == b"\n" else b"[" + lines + b"]")

    assert [refused.index for refused in batch.refused] == [2]
    assert [one.error for one in decode_events(batch.raw)] == ["🔥", kept, "🔥"]
    assert json.loads(batch.raw)[0] == json.loads(whole)


@pytest.mark.parametrize(
    "tail", [b"", b"]]", b"] x", b"},", b",]", b";{}]", b",NaN]", b', {"x": -Infinity}]', b", 01]"]
)
def test_a_bad_event_does_not_hide_that_the_body_is_broken(tail: bytes) -> None:
    with pytest.raises(InvalidBatch):
        decode_batch(b"[{}" + tail, "application/json")


@pytest.mark.parametrize("item", [b"1,", b"{},", b"1\n", b"\n1"])
def test_a_body_that_swells_to_a_million_items_is_refused_before_they_are_made(item: bytes) -> None:
    many = item * (MAX_BATCH_BYTES // len(item) - 1)
    sent = many if b"\n" in item else b"[" + many + b"1]"

    tracemalloc.start()
    with pytest.raises(BatchTooLarge):
        decode_batch(sent, "application/x-ndjson" if b"\n" in item else "application/json")
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert most < 6 * MAX_BATCH_BYTES


def test_an_event_of_a_type_from_the_future_is_kept() -> None:
    assert decode_events(decode_batch(body(event("rolled_back"))).raw)[0].type == "rolled_back"


def test_reasons_are_bounded_and_refusals_are_all_counted() -> None:
    batch = decode_batch(b"[" + b",".join([b"{}"] * 500) + b"]")

    assert len(batch.refused) == MAX_REASONS_PER_BATCH
    assert batch.refused_count == 500


@pytest.mark.parametrize(
    "broken",
    [
        b"",
        b"   ",
        b"null",
        b"3",
        b'"x"',
        b"[",
        b"[{]",
        b"{",
        b'{"a":',
        b"[1,]",
        b"\xff",
        b"[" * 100_000,
        b'[{"a":' * 50_000,
    ],
    ids=repr,
)
def test_a_body_that_is_no_batch_is_an_error(broken: bytes) -> None:
    with pytest.raises(InvalidBatch):
        decode_batch(broken[:200_000])


def test_an_object_sent_as_json_is_no_batch() -> None:
    with pytest.raises(InvalidBatch, match="array"):
        decode_batch(json.dumps(event()).encode(), "application/json")


def test_a_batch_is_bounded_in_events_and_in_bytes() -> None:
    one = json.dumps(event()).encode()
    most = b"[" + b",".join([one] * MAX_EVENTS_PER_BATCH) + b"]"
    assert decode_batch(most).count == MAX_EVENTS_PER_BATCH
    for too_large in (b"[" + one + b"," + most[1:], b"[" + b"{}," * MAX_EVENTS_PER_BATCH + b"{}]"):
        with pytest.raises(BatchTooLarge):
            decode_batch(too_large)
    with pytest.raises(BatchTooLarge):
        decode_batch(b" " * (MAX_BATCH_BYTES + 1))


@pytest.mark.parametrize(
    ("clock", "seconds"),
    [
        ("2026-05-14T12:00:00Z", 1_778_760_000),
        ("2026-05-14T14:00:00.999+02:00", 1_778_760_000),
        ("2026-05-14T12:00:00", 1_778_760_000),
        (1_778_760_000, 1_778_760_000),
        (1_778_760_000.75, 1_778_760_000),
        ("1970-01-01T00:00:00Z", 0),
        ("0001-01-01T00:00:00+14:00", 0),
        ("9999-12-31T23:59:59-14:00", 2**32 - 1),
        (-5, 0),
        (1e300, 2**32 - 1),
    ],
)
def test_a_devices_clock_is_kept_within_what_clickhouse_can_hold(clock: str | float, seconds: int) -> None:
    (decoded,) = decode_events(decode_batch(body(event(occurred_at=clock))).raw)

    assert decoded.occurred_unix() == seconds


anything = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
some_fields = ("event_id", "type", "occurred_at", "device_id", "model", "version", "error", "x")
maybe_events = st.fixed_dictionaries({}, optional=dict.fromkeys(some_fields, anything)).map(
    lambda changed: event() | changed
)


@settings(max_examples=100, deadline=None)
@given(st.lists(maybe_events | anything, max_size=6))
def test_every_event_is_either_accepted_or_refused_and_what_is_accepted_decodes_again(items: list[Any]) -> None:
    try:
        batch = decode_batch(json.dumps(items).encode(), "application/json")
    except InvalidBatch:
        return

    assert batch.count + batch.refused_count == len(items)
    assert len(decode_events(batch.raw)) == batch.count


# What is close to a UUID: its digits, its hyphens in other places, what Python's readers of hexadecimal pass over.
almost = st.text("0aF- _\t\u0660{}", min_size=30, max_size=38)
some_ids = st.uuids().map(str) | st.uuids().map(lambda each: each.hex) | almost


@settings(max_examples=300, deadline=None)
@given(st.lists(some_ids, min_size=1, max_size=4))
def test_ids_that_are_looked_at_together_are_judged_as_each_by_itself(ids: list[str]) -> None:
    def is_uuid(text: str) -> bool:
        try:
            return bool(msgspec.json.decode(json.dumps(text).encode(), type=UUID))
        except msgspec.ValidationError:
            return False

    batch = decode_batch(json.dumps([event() | {"event_id": one} for one in ids]).encode())
    assert [one.index for one in batch.refused] == [place for place, one in enumerate(ids) if not is_uuid(one)]


def test_ids_whose_characters_would_be_ids_together_are_not_each() -> None:
    first, second = str(UUID(int=1)), str(UUID(int=2))
    shifted = [first[:-1], first[-1] + second]
    batch = decode_batch(json.dumps([event() | {"event_id": one} for one in shifted]).encode())
    assert (batch.count, batch.refused_count) == (0, 2)


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=200))
def test_any_bytes_are_a_batch_or_an_invalid_batch(noise: bytes) -> None:
    for content_type in (None, "application/json", "application/x-ndjson"):
        try:
            assert decode_events(decode_batch(noise, content_type).raw) is not None
        except InvalidBatch:
            continue


def test_event_ids_are_read_in_the_forms_that_uuids_have() -> None:
    (decoded,) = decode_events(
        decode_batch(body(event(event_id=None) | {"event_id": "0B8B9A2E6A864BD58F9B0D1F1E1B2A01"})).raw
    )

    assert decoded.event_id == UUID("0b8b9a2e-6a86-4bd5-8f9b-0d1f1e1b2a01")
    assert msgspec.json.decode(decode_batch(body()).raw) == []
