"""Erasing a device, or an organization, from everything that ClickHouse holds, and keeping it away.

1. A row in ``erasures`` comes first. From then on the shipper leaves out what comes of it, however long it lay in a
   spool or a dead-letter folder (``without_erased``). The row is kept as long as events are.
2. Then its rows are deleted from every table that names it: whatever has a column ``organization_id`` and, for a
   device, ``device_id``. ClickHouse does that in the background (a mutation), so ``erase`` is asked again until it says
   that nothing is left.

A rollup without devices cannot forget one: it has counts, and hashes within a sketch, until its rows expire.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import date
from typing import Any, Final, Protocol

import msgspec

from telemetry.cluster import LOCAL_SUFFIX, Cluster
from telemetry.literals import Value, bind
from telemetry.segment import Record

WHOLE_ORGANIZATION: Final = ""
"""The subject that stands for all that an organization has."""
ERASED_ROWS: Final = "SELECT organization_id, subject FROM erasures GROUP BY organization_id, subject"
"""The question for ``erased_by``."""

_TABLE: Final = "erasures"
_ADD: Final = "INSERT INTO erasures SELECT {organization_id}, {subject}, {day}"
_TABLES: Final = "SELECT name, engine FROM system.tables WHERE database = currentDatabase()"
_COLUMNS: Final = """
SELECT table, name FROM system.columns
WHERE database = currentDatabase() AND name IN ('organization_id', 'device_id')
"""
_UNDER_WAY: Final = "SELECT DISTINCT table FROM system.mutations WHERE database = currentDatabase() AND is_done = 0"
_OF_ORGANIZATION: Final = "organization_id = {organization_id}"
_OF_DEVICE: Final = "organization_id = {organization_id} AND device_id = {device_id}"


class Engine(Protocol):
    """The blocking calls that erasing needs."""

    def execute(self, sql: str) -> Any:
        """Run a statement."""

    def fetch(self, sql: str) -> list[dict[str, Any]]:
        """Run a question."""


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
            engine.execute(f"ALTER TABLE {_changed(table, cluster)} DELETE WHERE {condition}")
    return done


def _tables_with(engine: Engine, erasure: Erasure) -> list[str]:
    """Return the tables that hold rows, on this server itself, and name what is erased."""
    needed = {"organization_id"} if erasure.device_id is None else {"organization_id", "device_id"}
    columns: dict[str, set[str]] = defaultdict(set)
    for row in engine.fetch(_COLUMNS):
        columns[str(row["table"])].add(str(row["name"]))
    stored = {str(row["name"]) for row in engine.fetch(_TABLES) if str(row["engine"]).endswith("MergeTree")}
    stored -= {_TABLE, _TABLE + LOCAL_SUFFIX}
    return sorted(name for name in stored if columns[name] >= needed)


def _asked(table: str, cluster: Cluster | None) -> str:
    """Return the name by which the rows of all shards are asked for."""
    return table if cluster is None else table.removesuffix(LOCAL_SUFFIX)


def _changed(table: str, cluster: Cluster | None) -> str:
    return table if cluster is None else f"`{cluster.database}`.{table} {cluster.clause}"


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


def without_erased(records: Iterable[Record], erased: Erased) -> Iterator[Record]:
    """Leave the events of erased devices and organizations out of spooled records.

    Records of an organization of which nothing was erased, nearly all, pass as they are. A record that cannot be
    decoded passes too: whoever reads it next puts it aside with its reason.
    """
    known: dict[tuple[str, str], bool] = {}
    for record in records:
        subjects = erased.subjects(record.labels.organization_id)
        if not subjects:
            yield record
        elif WHOLE_ORGANIZATION not in subjects and (kept := _without_devices(record, subjects, known)):
            yield kept


class _Who(msgspec.Struct, gc=False):
    device_id: str


_WHO: Final = msgspec.json.Decoder(list[_Who])
_RAW: Final = msgspec.json.Decoder(list[msgspec.Raw])


def _without_devices(record: Record, subjects: frozenset[str], known: dict[tuple[str, str], bool]) -> Record | None:
    """Leave events out of one record; None when nothing remains. ``known`` remembers which devices were erased."""
    try:
        devices = [event.device_id for event in _WHO.decode(record.events)]
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return record
    keys = [(record.labels.organization_id, device_id) for device_id in devices]
    for key in set(keys) - known.keys():
        known[key] = device_subject(*key) in subjects
    if not any(known[key] for key in keys):
        return record
    events = [event for event, key in zip(_RAW.decode(record.events), keys, strict=True) if not known[key]]
    return replace(record, events=msgspec.json.encode(events)) if events else None
