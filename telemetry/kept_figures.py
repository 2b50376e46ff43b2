"""Figures of days and hours that are over, counted once and kept as numbers.

To count which devices did what on each of thirty days takes as long as all these devices' days are many; the numbers
that come of it do not change once nothing more arrives. So a question about periods first looks what is kept. A kept
figure counts while nothing arrived for its period since, by ClickHouse's own clock (table ``arrivals``); the others are
counted now, a few periods at a time, and kept when they are over.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from string import Template
from typing import Any, Final

import structlog

from telemetry.literals import Value
from telemetry.subject import OF_SUBJECT, Subject
from telemetry.warehouse import QueryFailed, Row, Warehouse, WarehouseUnavailable

HOUR_SECONDS: Final = 3600
DAY_SECONDS: Final = 86_400
SETTLED_SECONDS: Final = 300
"""A period is kept so long after the last arrival: an insert tells its time when it begins, and has ended or failed in
well under a minute (``ANSWER_SECONDS``)."""
HOURS_AT_ONCE: Final = 120
"""Hours that are counted by one question: its memory grows with the devices times the periods."""

IN_HOURS: Final = OF_SUBJECT + " AND hour >= toDateTime({first}, 'UTC') AND hour < toDateTime({end}, 'UTC')"
"""The condition for the subject's rows from ``{first}`` to before ``{end}``, where a table has hours."""

_ARRIVED: Final = Template("""
SELECT toUInt32(arrived) AS start, toUnixTimestamp(max(inserted)) AS inserted, toUnixTimestamp(now()) AS present
FROM (
    SELECT toUInt32(intDiv(toUnixTimestamp(hour), {seconds}) * {seconds}) AS arrived, model, hour,
        maxMerge(inserted_at) AS inserted
    FROM arrivals
    WHERE $hours
    GROUP BY arrived, model, hour
) AS arrival
GROUP BY arrived
ORDER BY start
""").substitute(hours=IN_HOURS)

_KEPT: Final = """
SELECT toUnixTimestamp(period) AS start, value, toUnixTimestamp(max(kept_at)) AS kept,
    argMax(numbers, kept_at) AS latest
FROM kept_figures
WHERE organization_id = {organization_id} AND application_id = {application_id} AND environment = {environment}
  AND model = {kept_model} AND question = {question}
  AND period >= toDateTime({first}, 'UTC') AND period < toDateTime({end}, 'UTC')
GROUP BY period, value
"""

_KEEP: Final = """
INSERT INTO kept_figures
    (organization_id, application_id, environment, model, question, period, value, numbers, kept_at)
SELECT {organization_id}, {application_id}, {environment}, {kept_model}, {question},
    toDateTime(start, 'UTC'), value, numbers, toDateTime({present}, 'UTC')
FROM ($figures) AS figure
"""

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Figure:
    """What was counted in one period, of one value."""

    start: int
    value: str
    numbers: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class _Kept:
    """A period's kept figures, and when they were counted."""

    at: int = 0
    figures: list[Figure] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class PeriodQuestion:
    """A question whose figures belong to one period each.

    Attributes:
        name: under which its figures are kept; another one for another meaning.
        seconds: length of a period, ``HOUR_SECONDS`` or ``DAY_SECONDS``.
        sql: ``SELECT start, value, numbers``: the period's first second since 1970 as UInt32, a String and an
            Array(UInt64), of the periods from ``{first}`` to before ``{end}``, both in seconds; ``{first_day}`` and
            ``{last_day}`` are their days.
    """

    name: str
    seconds: int
    sql: str


async def figures(
    warehouse: Warehouse, subject: Subject, question: PeriodQuestion, first: int, end: int
) -> list[Figure]:
    """Return the figures of the periods from ``first`` to before ``end`` (seconds since 1970), by period and value.

    Raises:
        WarehouseUnavailable: ClickHouse cannot answer.
    """
    values = subject.values() | {
        "kept_model": _names(subject),
        "question": question.name,
        "seconds": question.seconds,
    }
    values |= _between(first, end)
    arrived = await warehouse.query(_ARRIVED, values)
    if not arrived:
        return []
    present = int(arrived[0]["present"])
    kept = await _kept(warehouse, values)
    stale = [row for row in arrived if not _settled(row, kept[int(row["start"])].at)]
    over = [int(row["start"]) for row in stale if _settled(row, present) and _is_over(row, question, present)]
    remaining = {int(row["start"]) for row in stale}
    if over and await _keep(warehouse, question, over, values | {"present": present}):
        kept = await _kept(warehouse, values)
        remaining -= set(over)
    found = [one for start, period in kept.items() if start not in remaining for one in period.figures]
    for start, stop in _runs(sorted(remaining), question.seconds):
        found += map(_figure, await warehouse.query(question.sql, values | _between(start, stop)))
    return sorted(found, key=lambda one: (one.start, one.value))


async def _kept(warehouse: Warehouse, values: dict[str, Value]) -> dict[int, _Kept]:
    """Return what is kept, by the starts of the periods; of a period that was kept again, the newest rows."""
    kept: dict[int, _Kept] = defaultdict(_Kept)
    for row in await warehouse.query(_KEPT, values):
        start, at = int(row["start"]), int(row["kept"])
        if at > kept[start].at:
            kept[start] = _Kept(at)
        if at == kept[start].at:
            kept[start].figures.append(_figure(row | {"numbers": row["latest"]}))
    return kept


def _settled(row: Row, moment: int) -> bool:
    """Whether all that had arrived for a period was there at that moment."""
    return int(row["inserted"]) + SETTLED_SECONDS <= moment


def _is_over(row: Row, question: PeriodQuestion, present: int) -> bool:
    return int(row["start"]) + question.seconds <= present


async def _keep(
    warehouse: Warehouse, question: PeriodQuestion, periods: Sequence[int], values: dict[str, Value]
) -> bool:
    """Count periods and keep their figures; say whether that went well. A reader may not be allowed to write."""
    sql = Template(_KEEP).substitute(figures=question.sql)
    try:
        for start, stop in _runs(periods, question.seconds):
            await warehouse.query(sql, values | _between(start, stop))
    except (QueryFailed, WarehouseUnavailable) as error:
        log.warning("figures_not_kept", question=question.name, error=str(error))
        return False
    return True


def _runs(periods: Sequence[int], seconds: int) -> Iterator[tuple[int, int]]:
    """Yield the periods as stretches without a gap, each of at most ``HOURS_AT_ONCE``."""
    most = HOURS_AT_ONCE * HOUR_SECONDS
    start = stop = 0
    for period in periods:
        if period != stop or stop - start >= most:
            if stop > start:
                yield start, stop
            start = period
        stop = period + seconds
    if stop > start:
        yield start, stop


def _between(first: int, end: int) -> dict[str, Value]:
    return {"first": first, "end": end, "first_day": moment(first).date(), "last_day": moment(end - 1).date()}


def _names(subject: Subject) -> str:
    """Return a text that tells this subject's names, with its versions under them, from any other's."""
    return repr([(each.name, each.first, each.last, each.since.isoformat()) for each in subject.names])


def _figure(row: Row) -> Figure:
    numbers: list[Any] = row["numbers"]
    return Figure(int(row["start"]), str(row["value"]), tuple(int(number) for number in numbers))


def moment(start: int) -> datetime:
    """Return the moment at which a period starts."""
    return datetime.fromtimestamp(start, UTC)
