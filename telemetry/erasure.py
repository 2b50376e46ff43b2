"""Erasing a device, or an organization, from everything that ClickHouse holds, and keeping it away.

1. A row in ``erasures`` comes first. From then on the shipper leaves out what comes of it, however long it lay in a
   spool or a dead-letter folder (``without_erased``). The row is kept as long as events are.
2. Then its rows are deleted from every table that names it: whatever has a column ``organization_id`` and, for a
   device, ``device_id``. ClickHouse does that in the background (a mutation), so ``erase`` is asked again until it says
   that nothing is left.

A table without devices cannot forget one: it has counts, in which none can be found, until its rows expire.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import date
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from telemetry.cluster import LOCAL_SUFFIX, Cluster, everywhere
from telemetry.columns import EventColumns
from telemetry.engine import Engine, tables_of
from telemetry.literals import Value, bind
from telemetry.native import Coded

WHOLE_ORGANIZATION: Final = ""
"""The subject that stands for all that an organization has."""
ERASED_ROWS: Final = "SELECT organization_id, subject FROM erasures GROUP BY organization_id, subject"
"""The question for ``erased_by``."""

_TABLE: Final = "erasures"
_ADD: Final = "INSERT INTO erasures SELECT {organization_id}, {subject}, {day}"
_COLUMNS: Final = """
SELECT table, name FROM system.columns
WHERE database = currentDatabase() AND name IN ('organization_id', 'device_id')
"""
_UNDER_WAY: Final = "SELECT DISTINCT table FROM system.mutations WHERE database = currentDatabase() AND is_done = 0"
_OF_ORGANIZATION: Final = "organization_id = {organization_id}"
_OF_DEVICE: Final = "organization_id = {organization_id} AND device_id = {device_id}"


@dataclass(frozen=True, slots=True)
class Erasure:
    """What is to be erased.

    Args:
        organization_id: whose devices it is about.
        device_id: one device, in whichever app of the organization; None for all that the organization has.
        day: when it was asked for, in UTC.
    """

    organization_id: str
    device_id: str | None = field(repr=False)
    day: date

    @property
    def subject(self) -> str:
        """What stands for it in the table ``erasures``."""
        if self.device_id is None:
            return WHOLE_ORGANIZATION
        return device_subject(self.organization_id, self.device_id)


def device_subject(organization_id: str, device_id: str) -> str:
    """Return what stands for a device: a hash that nobody can turn back, as the id is random."""
    return hashlib.sha256(f"{organization_id}\0{device_id}".encode()).hexdigest()


def erase(engine: Engine, erasure: Erasure, cluster: Cluster | None = None) -> bool:
    """Take one step towards forgetting; idempotent.

    Returns:
        Whether nothing is left, and nothing is under way.
    """
    values: dict[str, Value] = {"organization_id": erasure.organization_id, "device_id": erasure.device_id or ""}
    if erasure.subject not in erased_by(engine.fetch(ERASED_ROWS)).subjects(erasure.organization_id):
        engine.execute(bind(_ADD, values | {"subject": erasure.subject, "day": erasure.day}))
    condition = bind(_OF_ORGANIZATION if erasure.device_id is None else _OF_DEVICE, values)
    under_way = {str(row["table"]) for row in engine.fetch(_UNDER_WAY)}
    done = True
    for table in _tables_with(engine, erasure):
        if table in under_way:
            done = False
        elif engine.fetch(f"SELECT count() AS n FROM {_asked(table, cluster)} WHERE {condition}")[0]["n"]:  # noqa: S608
            done = False
            engine.execute(f"ALTER TABLE {everywhere(table, cluster)} DELETE WHERE {condition}")
    return done


def _tables_with(engine: Engine, erasure: Erasure) -> list[str]:
    """Return the tables that hold rows, on this server itself, and name what is erased."""
    needed = {"organization_id"} if erasure.device_id is None else {"organization_id", "device_id"}
    columns: dict[str, set[str]] = defaultdict(set)
    for row in engine.fetch(_COLUMNS):
        columns[str(row["table"])].add(str(row["name"]))
    stored = {name for name, kind in tables_of(engine).items() if kind.endswith("MergeTree")}
    stored -= {_TABLE, _TABLE + LOCAL_SUFFIX}
    return sorted(name for name in stored if columns[name] >= needed)


def _asked(table: str, cluster: Cluster | None) -> str:
    """Return the name by which the rows of all shards are asked for."""
    return table if cluster is None else table.removesuffix(LOCAL_SUFFIX)


@dataclass(frozen=True, slots=True)
class Erased:
    """Everything that was erased, as long as it is remembered: subjects by organization."""

    organizations: Mapping[str, frozenset[str]] = field(default_factory=dict, repr=False)

    def subjects(self, organization_id: str) -> frozenset[str]:
        """Return what was erased of an organization."""
        return self.organizations.get(organization_id, frozenset())


def erased_by(rows: Iterable[Mapping[str, Any]]) -> Erased:
    """Return what the rows of ``ERASED_ROWS`` say."""
    erased: dict[str, set[str]] = defaultdict(set)
    for row in rows:
        erased[str(row["organization_id"])].add(str(row["subject"]))
    return Erased({organization_id: frozenset(subjects) for organization_id, subjects in erased.items()})


def without_erased(columns: EventColumns, erased: Erased) -> EventColumns:
    """Leave the events of erased devices and organizations out of what is about to be inserted.

    Columns without an organization of which something was erased, nearly all, are returned as they are.
    """
    by_name = columns.by_name()
    organizations, devices = by_name["organization_id"], by_name["device_id"]
    assert isinstance(organizations, Coded), "texts are coded"
    assert isinstance(devices, Coded), "texts are coded"
    keep = np.ones(columns.count, np.bool_)
    for code, organization_id in enumerate(organizations.texts):
        subjects = erased.subjects(organization_id)
        if subjects:
            rows = np.flatnonzero(organizations.codes == code)
            keep[rows] = _kept(devices, rows, organization_id, subjects)
    if keep.all():
        return columns
    kept = columns.rows(np.flatnonzero(keep))
    # Not even in the list of a column's texts may their names remain.
    compact = (column.compact() if isinstance(column, Coded) else column for column in kept.values)
    return EventColumns(tuple(compact), kept.count)


def _kept(
    devices: Coded, rows: NDArray[np.intp], organization_id: str, subjects: frozenset[str]
) -> NDArray[np.bool_] | bool:
    """Return which of an organization's rows stay."""
    if WHOLE_ORGANIZATION in subjects:
        return False
    used, places = np.unique(devices.codes[rows], return_inverse=True)
    gone = [device_subject(organization_id, devices.texts[code]) in subjects for code in used.tolist()]
    return ~np.array(gone, np.bool_)[places]
