"""What devices did around the moments at which they were woken, against a truth that can be counted by hand."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from telemetry import wake_ups as questions
from telemetry.columns import event_columns
from telemetry.segment import Record
from telemetry.subject import ModelName, Subject
from telemetry.wake_ups import Steps, WakeUps, wake_ups
from telemetry.warehouse import Warehouse, WarehouseUnavailable, open_warehouse
from tests.telemetry.samples import NOON, event, labels, record
from tests.telemetry.warehouses import server, warehouse

__all__ = ["server", "warehouse"]  # fixtures

FACES = Subject("org-1", "app-1", "prod", [ModelName("faces")])
MINUTE = timedelta(minutes=1)


async def tell(warehouse: Warehouse, *records: Record) -> None:
    await warehouse.insert_events(event_columns(list(records)), "all")
    # As a server without tokens has it after a retry.
    await warehouse.insert_events(event_columns(list(records)), "again")


def at(minutes: float, kind: str, device: str, version: int = 2, **more: Any) -> Record:
    """An event so many minutes after noon."""
    return record(event(kind, device, version=version, **more), at=NOON + minutes * MINUTE)


async def test_steps_are_counted_by_the_hour_of_each_device(
    warehouse: Warehouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(questions, "MAX_ASKED", 3)
    await tell(
        warehouse,
        # updated by the push
        at(10, "check", "a"),
        at(11, "download", "a", 3),
        at(11, "verify", "a", 3),
        at(12, "activate", "a", 3),
        at(40, "check", "a", 3),
        # came as far as the download; was there before as well
        at(-20, "check", "b"),
        at(15, "download", "b", 3),
        # another version is no effect, an error is a sign of life
        at(20, "activate", "c", 2),
        at(21, "error", "d", 3, error="hash"),
        # the bounds: the very moment counts, and an hour later does not
        at(0, "check", "e"),
        at(60, "check", "f"),
        at(-60, "check", "g"),
        at(-60.1, "check", "h"),
        # had it before the push
        at(-30, "activate", "i", 3),
        # was sent to half an hour later than the others
        at(29, "check", "late"),
        at(80, "activate", "late", 3),
        # was not sent to, is elsewhere, is about another model
        at(5, "activate", "bystander", 3),
        record(event("activate", "f", version=3), at=NOON + MINUTE, sender=labels(environment="dev")),
        at(5, "activate", "f", 3, model="other"),
    )
    sent = [(device, NOON) for device in "ihgfedcba"] + [("late", NOON + 30 * MINUTE), ("silent", NOON)]
    found = await wake_ups(warehouse, FACES, 3, sent)
    assert found == WakeUps(after=Steps(6, 3, 2), before=Steps(4, 1, 1))


async def test_a_model_that_took_a_name_counts_its_own_versions(warehouse: Warehouse) -> None:
    heir = Subject("org-1", "app-1", "prod", [ModelName("faces", first=3, since=NOON.date())])
    await tell(warehouse, at(5, "check", "a", 2), at(5, "check", "b", 3), at(6, "activate", "b", 3))
    found = await wake_ups(warehouse, heir, 3, [("a", NOON), ("b", NOON)])
    assert found.after == Steps(1, 1, 1)


async def test_a_full_question_of_the_longest_ids_is_not_too_long(warehouse: Warehouse) -> None:
    sent = [(f"{number:064d}", NOON + number * timedelta(seconds=3)) for number in range(questions.MAX_ASKED)]
    await tell(warehouse, at(10, "check", sent[0][0]), at(110, "check", sent[-1][0]))
    assert (await wake_ups(warehouse, FACES, 3, sent)).after == Steps(2, 0, 0)


async def test_nobody_sent_to_is_no_question_and_no_answer_is_no_zero(tmp_path: Path) -> None:
    gone = open_warehouse("clickhouse://default@127.0.0.1:1/skafos", tmp_path)
    assert await wake_ups(gone, FACES, 3, []) == WakeUps()
    with pytest.raises(WarehouseUnavailable):
        await wake_ups(gone, FACES, 3, [("a", NOON)])
    await gone.close()
