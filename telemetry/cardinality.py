"""Few enough values: what devices say of themselves is free text, and every different one costs each question a row.

So an organization has so many different values a day in each free-text dimension; whatever comes beyond them is stored
as ``other``. Values are admitted in the order in which they come, and one that was admitted stays so for its day, so
that an insert that is tried again holds the same rows.

The bound is of one shipper: it remembers what it admitted while it lives. With several shippers, or after a restart, a
day has some multiple of it, and is bounded all the same.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import date
from operator import ne
from typing import Final

from telemetry import metrics
from telemetry.columns import COLUMNS, EventColumns

OTHER: Final = "other"
LIMITS: Final[Mapping[str, int]] = {
    "encoding": 50,
    "os": 50,
    "os_version": 500,
    # Android has some 10,000 models in use; the 5,000 most used ones are all but a per mille of the devices.
    "device_model": 5_000,
    "app_version": 500,
    "locale": 500,
    "error": 500,
}
"""Different values of a dimension that an organization may have on a day. Honest populations stay far below; what goes
beyond are errors that name a file or an address each time, and whoever has a key and plays with it."""
MAX_REMEMBERED: Final = 1_000_000
"""Values of all organizations and days together: some 64 MB at worst. Beyond it the oldest day is forgotten."""

Owner = tuple[str, date]
"""An organization's id and a day."""

_ORGANIZATION: Final = COLUMNS.index("organization_id")
_DAY: Final = COLUMNS.index("day")


class Dimensions:
    """What was admitted, by organization, day and dimension.

    Args:
        limits: different values a day, by dimension.
        max_remembered: of all of them together.
    """

    def __init__(self, limits: Mapping[str, int] = LIMITS, max_remembered: int = MAX_REMEMBERED) -> None:
        self._limits = limits
        self._max_remembered = max_remembered
        self._remembered = 0
        # A text may be long, so its hash stands for it. Two of one hash are one value: seldom, and harmless.
        self._admitted: dict[Owner, dict[str, set[int]]] = {}

    def bounded(self, columns: EventColumns) -> EventColumns:
        """Return the events with every value beyond the bounds replaced by ``other``."""
        values = list(columns.values)
        owners, owned = _numbered(list(zip(values[_ORGANIZATION], values[_DAY], strict=True)))
        for dimension in self._limits:
            place = COLUMNS.index(dimension)
            values[place] = self._fold(owners, owned, dimension, values[place])
        self._forget()
        return EventColumns(tuple(values), columns.count)

    def fold(self, owners: Sequence[Owner], dimension: str, values: list[str]) -> list[str]:
        """Return a column with what is beyond the bound replaced by ``other``; the same column when nothing is.

        Args:
            owners: whose event each is, and the day on which it was received.
            dimension: the column's name, one of the limits'.
            values: the column. An empty text is no value.
        """
        return self._fold(*_numbered(owners), dimension, values)

    def _fold(self, owners: list[Owner], owned: list[int], dimension: str, values: list[str]) -> list[str]:
        """Do as `fold` does; ``owned`` has the place of each event's owner."""
        if len(owners) == 1:  # as in most batches: pairs need not be made for every event
            different: Iterable[tuple[int, str]] = [(0, value) for value in dict.fromkeys(values)]
        else:
            different = dict.fromkeys(zip(owned, values, strict=True))
        beyond = {pair for pair in different if pair[1] and not self._admit(owners[pair[0]], dimension, pair[1])}
        if not beyond:
            return values
        folded = [OTHER if pair in beyond else pair[1] for pair in zip(owned, values, strict=True)]
        metrics.FOLDED_VALUES.labels(dimension).inc(sum(map(ne, folded, values)))
        return folded

    def _admit(self, owner: Owner, dimension: str, value: str) -> bool:
        """Tell whether a value may be stored; the first ones are remembered."""
        admitted = self._admitted.setdefault(owner, {}).setdefault(dimension, set())
        mark = hash(value)
        if mark in admitted:
            return True
        if len(admitted) >= self._limits[dimension]:
            return value == OTHER
        admitted.add(mark)
        self._remembered += 1
        return True

    def _forget(self) -> None:
        """Forget the oldest days while there is too much to remember."""
        for owner in sorted(self._admitted, key=lambda owner: owner[1]):
            if self._remembered <= self._max_remembered:
                return
            self._remembered -= sum(map(len, self._admitted.pop(owner).values()))


def _numbered(owners: Sequence[Owner]) -> tuple[list[Owner], list[int]]:
    """Return the different owners, and of each event the place of its owner among them."""
    places = {owner: place for place, owner in enumerate(dict.fromkeys(owners))}
    return list(places), [places[owner] for owner in owners]
