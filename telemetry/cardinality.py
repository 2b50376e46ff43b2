"""Few enough values: what devices say of themselves is free text, and every different one costs each question a row.

So an organization has so many different values a day in each free-text dimension; whatever comes beyond them is stored
as ``other``. Values are admitted in the order in which they come, and one that was admitted stays so for its day, so
that an insert that is tried again holds the same rows.

The bound is of one shipper: it remembers what it admitted while it lives. With several shippers, or after a restart, a
day has some multiple of it, and is bounded all the same. A batch that another shipper sends again may then tell a rare
value where the first one told ``other``, of the same event: figures by that dimension know the device under both.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

import numpy as np
from numpy.typing import NDArray

from telemetry import metrics
from telemetry.columns import EventColumns
from telemetry.native import Coded, Column

OTHER: Final = "other"
LIMITS: Final[Mapping[str, int]] = {
    "encoding": 50,
    "os": 50,
    "os_version": 500,
    # There are over ten thousand models of Android devices, most of them seldom.
    "device_model": 5_000,
    "app_version": 500,
    "locale": 500,
    "error": 500,
}
"""Different values of a dimension that an organization may have on a day. Honest populations stay far below; what goes
beyond are errors that name a file or an address each time, and whoever has a key and plays with it."""
MAX_REMEMBERED: Final = 1_000_000
"""Values of all organizations and days together: some 64 MB at worst. Beyond it the oldest day is forgotten."""

MAX_TABLE: Final = 2**22
"""Pairs of owner and value that are looked up in a table of so many places (4 MB); more are sorted."""

Owner = tuple[str, int]
"""An organization's id, and a day since 1970."""


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
        values = columns.by_name()
        owners, owned = _owners(values)
        for dimension in self._limits:
            column = values[dimension]
            assert isinstance(column, Coded)
            values[dimension] = self.fold(owners, owned, dimension, column)
        self._forget()
        return EventColumns(tuple(values.values()), columns.count)

    def fold(self, owners: list[Owner], owned: NDArray[np.int64], dimension: str, column: Coded) -> Coded:
        """Return a column with what is beyond the bound replaced by ``other``; the same column when nothing is.

        Args:
            owners: whose events there are, and of which days.
            owned: the place of each event's owner among them.
            dimension: the column's name, one of the limits'.
            column: an empty text in it is no value.
        """
        width, texts = len(column.texts), column.texts
        pairs = owned * width + column.codes
        beyond = [
            pair
            for pair in _different(pairs, len(owners) * width)
            if texts[pair % width] and not self._admit(owners[pair // width], dimension, texts[pair % width])
        ]
        if not beyond:
            return column
        folded = np.isin(pairs, beyond)
        metrics.FOLDED_VALUES.labels(dimension).inc(int(folded.sum()))
        known = [*texts, OTHER]
        return Coded(np.where(folded, known.index(OTHER), column.codes), known).compact()

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


def _owners(values: Mapping[str, Column]) -> tuple[list[Owner], NDArray[np.int64]]:
    """Return the different owners, and of each event the place of its owner among them."""
    organizations, days = values["organization_id"], values["day"]
    assert isinstance(organizations, Coded)
    assert isinstance(days, np.ndarray)
    some_days, places = np.unique(days, return_inverse=True)
    owners = [(organization, int(day)) for organization in organizations.texts for day in some_days]
    return owners, organizations.codes * len(some_days) + places


def _different(pairs: NDArray[np.int64], room: int) -> Iterable[int]:
    """Return the different pairs in order, of which each is below ``room``."""
    if room > MAX_TABLE:
        different: list[int] = np.unique(pairs).tolist()
        return different
    there = np.zeros(room, np.bool_)
    there[pairs] = True
    found: list[int] = np.flatnonzero(there).tolist()
    return found
