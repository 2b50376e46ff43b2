"""Which versions the devices of an environment hold, asked of telemetry.

What devices report is not authenticated, so nothing here decides what they get: it only tells which patches save most.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from control_plane.errors import Unavailable
from control_plane.warehouse import WarehouseGate
from telemetry.adoption import ModelName, held_now
from telemetry.warehouse import QueryFailed, WarehouseUnavailable

# An app that is not opened for two weeks is rarely opened again, and its device then takes the full artifact.
ACTIVE_DAYS = 14
# The answer takes milliseconds. What is slower would hold up the plans of others.
ANSWER_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Question:
    """A model in an environment, as telemetry knows it.

    Args:
        environment: its name.
        names: all that the model has had (`control_plane.model_names.names_of`).
        versions: the numbers of its versions; at least one.
    """

    organization_id: str
    application_id: str
    environment: str
    names: Sequence[ModelName]
    versions: Sequence[int]


@dataclass(frozen=True, slots=True)
class Holdings:
    """What active devices hold.

    Args:
        active: their number, those that hold no version or an unknown one included.
        devices: how many hold each version.
        asked_at: when telemetry was asked.
    """

    active: int
    devices: Mapping[int, int]
    asked_at: datetime


class Census(Protocol):
    """Tells what devices hold."""

    async def ready(self) -> None:
        """Return once it can be asked, which may be never."""

    async def ask(self, question: Question, now: datetime) -> Holdings:
        """Return what devices hold now.

        Raises:
            Unavailable: it cannot be asked. That is not the same as no devices.
        """


class TelemetryCensus:
    """Asks ClickHouse.

    Args:
        warehouse: the way to it.
    """

    def __init__(self, warehouse: WarehouseGate) -> None:
        self._warehouse = warehouse

    async def ready(self) -> None:
        """See `Census.ready`."""
        await self._warehouse.wait()

    async def ask(self, question: Question, now: datetime) -> Holdings:
        """See `Census.ask`."""
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                shares = await held_now(
                    self._warehouse.get(),
                    question.organization_id,
                    question.application_id,
                    question.environment,
                    question.names,
                    question.versions,
                    ACTIVE_DAYS,
                    now,
                )
        except (WarehouseUnavailable, QueryFailed, TimeoutError) as error:
            raise Unavailable("ClickHouse cannot be reached; try again in a moment.", "clickhouse") from error
        devices = {share.version: share.devices for share in shares if share.version is not None}
        return Holdings(sum(share.devices for share in shares), devices, now)


def moved(before: Holdings | None, now: Holdings | None) -> float:
    """Return which share of the devices, from 0 to 1, changed to another version between two answers.

    It is 1 when only one of them tells of devices, and 0 when none does.
    """
    first, second = (_shares(each) if each is not None else {} for each in (before, now))
    if not first or not second:
        return 0.0 if not first and not second else 1.0
    changes = [second.get(version, 0.0) - first.get(version, 0.0) for version in first.keys() | second.keys()]
    return max(sum(change for change in changes if change > 0), -sum(change for change in changes if change < 0))


def _shares(holdings: Holdings) -> dict[int, float]:
    return {version: devices / holdings.active for version, devices in holdings.devices.items() if devices}
