"""Whose figures a question is about, and of which days; and how both become SQL.

Devices tell a model by the name that it had for them. So a question is about all names that the model has had; and
where another model has had one of them too, about the numbers of its own versions under that name.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from string import Template
from typing import Final

from telemetry.literals import Value

MAX_DAYS: Final = 730
"""The daily tables are kept for two years."""

OF_SUBJECT: Final = (
    "organization_id = {organization_id} AND application_id = {application_id} "
    "AND environment = {environment} AND model IN {names}"
)
"""The condition that every table's sorting key begins with."""


@dataclass(frozen=True, slots=True)
class ModelName:
    """A name that a model has or had, and which version numbers under it are the model's.

    Args:
        first: the lowest; 1 unless another model had the name before.
        last: the highest; None unless another model has taken the name since.
        since: the day from which devices that hold no version count; only looked at when ``first`` is above 1.
    """

    name: str
    first: int = 1
    last: int | None = None
    since: date = date(1970, 1, 1)

    @property
    def is_shared(self) -> bool:
        """Whether another model had the name, or has it now."""
        return self.first > 1 or self.last is not None


@dataclass(frozen=True, slots=True)
class Subject:
    """A model in an environment.

    Args:
        environment: its name, as edges write it.
        names: all that the model has had, as devices write them; the present one first, then the newest.
    """

    organization_id: str
    application_id: str
    environment: str
    names: Sequence[ModelName]

    @property
    def shares_names(self) -> bool:
        """Whether another model had one of the names, or has one now."""
        return any(each.is_shared for each in self.names)

    def values(self) -> dict[str, Value]:
        """Return what the placeholders of ``OF_SUBJECT``, ``condition`` and ``place`` stand for."""
        values: dict[str, Value] = {
            "organization_id": self.organization_id,
            "application_id": self.application_id,
            "environment": self.environment,
            "names": [each.name for each in self.names],
        }
        for place, each in enumerate(self.names):
            values |= {f"name_{place}": each.name, f"first_{place}": each.first, f"since_{place}": each.since}
            values |= {f"last_{place}": each.last or 0}
        return values

    def sql(self, text: str, **parts: str) -> str:
        """Complete a question: ``$subject`` in it is ``OF_SUBJECT``, ``$place`` is ``place()``, and so on."""
        return Template(text).substitute(subject=OF_SUBJECT, place=self.place(), **parts)

    def condition(self, version: str, day: str) -> str:
        """Return the condition that a version is the model's.

        Args:
            version: the column with its number; 0 is no version.
            day: the column with the day on which a device said so.
        """
        if not self.shares_names:
            return "1"
        parts = []
        for place, each in enumerate(self.names):
            terms = [f"model = {{name_{place}}}"]
            if each.last is not None:
                terms.append(f"{version} >= {{first_{place}}} AND {version} <= {{last_{place}}}")
            elif each.first > 1:
                terms.append(f"({version} >= {{first_{place}}} OR {version} = 0 AND {day} >= {{since_{place}}})")
            parts.append(" AND ".join(terms))
        return " OR ".join(f"({part})" for part in parts)

    def place(self) -> str:
        """Return an expression for the place of a row's ``model`` among the names: 0 for the present one."""
        cases = "".join(f"model = {{name_{place}}}, {place}, " for place in range(len(self.names)))
        return f"multiIf({cases}{len(self.names)})"


@dataclass(frozen=True, slots=True)
class Days:
    """A window of days of UTC by the server's clock, both ends included.

    Raises:
        ValueError: it is empty, or longer than ``MAX_DAYS``.
    """

    first: date
    last: date

    def __post_init__(self) -> None:
        if not 1 <= self.count <= MAX_DAYS:
            raise ValueError(f"days is between 1 and {MAX_DAYS}")

    @property
    def count(self) -> int:
        """How many days it has."""
        return (self.last - self.first).days + 1

    def values(self) -> dict[str, Value]:
        """Return what ``{first_day}`` and ``{last_day}`` stand for."""
        return {"first_day": self.first, "last_day": self.last}

    def seconds(self) -> tuple[int, int]:
        """Return its first second, and the first one after it, since 1970."""
        first, last = (datetime(day.year, day.month, day.day, tzinfo=UTC) for day in (self.first, self.last))
        return int(first.timestamp()), int((last + timedelta(days=1)).timestamp())


def last_days(days: int, now: datetime) -> Days:
    """Return the window of the last days, today included.

    Args:
        days: 1 to ``MAX_DAYS``.
        now: the present, with its zone.

    Raises:
        ValueError: ``days`` is out of range.
    """
    today = now.astimezone(UTC).date()
    if not 1 <= days <= MAX_DAYS:
        raise ValueError(f"days is between 1 and {MAX_DAYS}")
    return Days(today - timedelta(days=days - 1), today)
