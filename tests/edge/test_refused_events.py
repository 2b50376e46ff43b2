"""Why events were refused is counted in few words: the field that is wrong, or missing."""

from __future__ import annotations

import json
import uuid
from typing import Any

import msgspec
import pytest

from edge.refused_events import OTHER, count_refusals, refusal_word
from telemetry.events import MAX_REASONS_PER_BATCH, Event, decode_batch

GOOD = {"event_id": str(uuid.uuid4()), "type": "check", "occurred_at": "2026-01-02T03:04:05Z", "device_id": "d-1"}
FIELDS = [field.encode_name for field in msgspec.structs.fields(Event)]


def reason(item: Any) -> str:
    return decode_batch(json.dumps([item]).encode()).refused[0].reason


@pytest.mark.parametrize("name", FIELDS)
def test_a_field_of_another_kind_is_named(name: str) -> None:
    assert refusal_word(reason({**GOOD, name: {"an": "object"}})) == name


@pytest.mark.parametrize("name", GOOD)
def test_a_field_that_is_missing_is_named(name: str) -> None:
    assert refusal_word(reason({key: value for key, value in GOOD.items() if key != name})) == f"missing_{name}"


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"type": "Not a type"}, "type"),
        ({"device_id": "ä"}, "device_id"),
        ({"bytes": -1}, "bytes"),
        ({"os": "x" * 101}, "os"),
    ],
)
def test_a_value_beyond_its_bounds_names_its_field(change: dict[str, Any], word: str) -> None:
    assert refusal_word(reason({**GOOD, **change})) == word


@pytest.mark.parametrize(
    "text", ["Expected `object`, got `int`", "- at `$.made_up`", "Object missing required field `x`", ""]
)
def test_whatever_else_is_other(text: str) -> None:
    assert refusal_word(text) == OTHER


def test_all_refusals_are_counted_also_those_whose_reason_was_not_kept() -> None:
    batch = decode_batch(json.dumps([{**GOOD, "bytes": -1}] * (MAX_REASONS_PER_BATCH + 7)).encode())
    assert count_refusals(batch.refused, batch.refused_count) == {"bytes": MAX_REASONS_PER_BATCH, OTHER: 7}
