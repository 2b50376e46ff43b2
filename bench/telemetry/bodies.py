"""Batches for load: so many events of one device each, every batch another."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Final

import numpy as np

from bench.telemetry.fleet import EVENTS_PER_DEVICE_DAY, Fleet
from bench.telemetry.rows import joined
from bench.telemetry.wire import event_texts

DAYS: Final = 14
_SPARE: Final = 2
"""What a device has left over when its events are cut into batches is not used."""


def varied_bodies(count: int, events: int, seed: int = 1) -> Iterator[bytes]:
    """Yield so many batches as JSON arrays, each of so many events of one device, no event twice.

    Raises:
        ValueError: the population that is drawn for it is too small; it never is for batches of up to 20.
    """
    devices = int(count * events * _SPARE / DAYS / EVENTS_PER_DEVICE_DAY) + 20
    fleet = Fleet(devices, datetime.now(UTC).date() - timedelta(days=DAYS), DAYS, apps=1, seed=seed)
    rows = joined([day.take((day["source"] == 0) & day["last"]) for day in fleet.days()])
    rows = rows.take(np.lexsort((rows.arrival(), rows["device"])))
    _, first, number = np.unique(rows["device"], return_index=True, return_counts=True)
    begins = [
        int(start) + place
        for start, of in zip(first, number, strict=True)
        for place in range(0, of, events)
        if place + events <= of
    ][:count]
    if len(begins) < count:
        raise ValueError(f"{len(begins)} batches of {events} events are not {count}")
    for begin in begins:
        texts = event_texts(rows.take(np.arange(begin, begin + events)), fleet.populations)
        yield f"[{','.join(texts)}]".encode()
