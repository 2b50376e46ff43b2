"""Rows as devices post them: JSON arrays, with fields that the server does not know and both forms of a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

import numpy as np

from bench.telemetry.population import Population
from bench.telemetry.rows import TEXTS, Column, Rows

NUMBERS: Final = ("version", "from_version", "bytes", "full_bytes", "duration_ms")
# Strings that a row's code stands for, with their names in front; nothing for what is empty.
_NAMED: Final = {
    column: [f',"{"type" if column == "kind" else column}":"{text}"' if text else "" for text in texts]
    for column, texts in TEXTS.items()
}
_SECONDS_AS_NUMBER: Final = 8
"""One device of so many tells seconds since 1970; the others write RFC 3339."""
_UNKNOWN_FIELD: Final = ',"battery":0.83'
_KNOWS_MORE: Final = 16
"""One device of so many sends a field that the server does not know."""


@dataclass(frozen=True, slots=True)
class PostedBatch:
    """One delivery: who sent it, when the server took it, and its body."""

    source: int
    device: int
    received_ms: int
    body: bytes
    events: int


def posted(rows: Rows, populations: Sequence[Population]) -> Iterator[PostedBatch]:
    """Yield the batches of rows that are in order of arrival."""
    if not len(rows):
        return
    texts = event_texts(rows, populations)
    starts = _starts(rows)
    for begin, end in zip(starts, [*starts[1:], len(rows)], strict=True):
        body = f"[{','.join(texts[begin:end])}]".encode()
        yield PostedBatch(
            int(rows["source"][begin]), int(rows["device"][begin]), int(rows["received_ms"][begin]), body, end - begin
        )


def event_texts(rows: Rows, populations: Sequence[Population]) -> list[str]:
    """Return each row as a JSON object."""
    ids = device_ids(rows, populations)
    columns = {name: rows[name].tolist() for name in (*NUMBERS, *TEXTS, "id_high", "id_low", "occurred", "device")}
    texts = []
    for place, (high, low) in enumerate(zip(columns["id_high"], columns["id_low"], strict=True)):
        number, device = f"{high:016x}{low:016x}", columns["device"][place]
        occurred = columns["occurred"][place]
        moment = (
            str(occurred)
            if device % _SECONDS_AS_NUMBER == 0
            else f'"{datetime.fromtimestamp(occurred, UTC):%Y-%m-%dT%H:%M:%SZ}"'
        )
        texts.append(
            f'{{"event_id":"{number[:8]}-{number[8:12]}-{number[12:16]}-{number[16:20]}-{number[20:]}"'
            f',"occurred_at":{moment},"device_id":"{ids[place]}"'
            + "".join([_NAMED[name][columns[name][place]] for name in TEXTS])
            + "".join([f',"{name}":{columns[name][place]}' for name in NUMBERS if columns[name][place] >= 0])
            + (_UNKNOWN_FIELD if device % _KNOWS_MORE == 1 else "")
            + "}"
        )
    return texts


def device_ids(rows: Rows, populations: Sequence[Population]) -> list[str]:
    """Return the device id of each row."""
    return [one.decode() for one in device_id_bytes(rows, populations).tolist()]


def device_id_bytes(rows: Rows, populations: Sequence[Population]) -> Column:
    """Return the device id of each row as bytes."""
    ids = np.empty(len(rows), populations[0].devices.ids.dtype)
    for population in populations:
        ours = rows["source"] == population.source
        ids[ours] = population.device_ids(rows["device"][ours])
    return ids


def _starts(rows: Rows) -> list[int]:
    changed = np.ones(len(rows), bool)
    changed[1:] = False
    for name in ("received_ms", "source", "device"):
        changed[1:] |= rows[name][1:] != rows[name][:-1]
    return [int(place) for place in np.flatnonzero(changed)]
