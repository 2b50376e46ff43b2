"""Events and labels for tests, with a value for everything that a test does not care about."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import msgspec
import numpy as np

from telemetry.native import Coded
from telemetry.segment import EventLabels, Record

NOON = datetime.now(UTC).replace(hour=12, minute=0, second=0, microsecond=0) - timedelta(days=1)
"""Noon of yesterday: raw events expire after 90 days, so a date that is written down would stop working."""


def labels(organization_id: str = "org-1", application_id: str = "app-1", environment: str = "prod") -> EventLabels:
    """Labels of an application; its names are made from its ids."""
    return EventLabels(
        organization_id=organization_id,
        organization=f"name of {organization_id}",
        application_id=application_id,
        application=f"name of {application_id}",
        environment=environment,
    )


def event(kind: str = "check", device: str = "device-1", event_id: UUID | None = None, **fields: Any) -> dict[str, Any]:
    """One event as a device sends it."""
    return {
        "event_id": str(event_id or uuid4()),
        "type": kind,
        "occurred_at": "2026-05-14T11:59:58Z",
        "device_id": device,
        "model": "faces",
        **fields,
    }


def body(*events: dict[str, Any]) -> bytes:
    """A batch as it comes over the wire."""
    return msgspec.json.encode(list(events))


def record(*events: dict[str, Any], at: datetime = NOON, sender: EventLabels | None = None) -> Record:
    """A batch as it lies in the spool."""
    return Record(sender or labels(), int(at.timestamp() * 1000), body(*events))


def coded(texts: Sequence[str]) -> Coded:
    """A column of texts."""
    different = list(dict.fromkeys(texts))
    return Coded(np.array([different.index(text) for text in texts], np.int64), different)
