"""Free-text dimensions: an organization has so many different values a day, and the rest are told as one."""

from __future__ import annotations

from datetime import date, timedelta
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from telemetry import metrics
from telemetry.cardinality import LIMITS, OTHER, Dimensions
from telemetry.columns import COLUMNS, event_columns
from telemetry.events import Event
from telemetry.shipper import Shipper
from telemetry.spool import Spool
from telemetry.warehouse import Warehouse
from tests.telemetry.samples import NOON, body, event, labels, record
from tests.telemetry.warehouses import embedded

__all__ = ["embedded"]  # a fixture

DAY = date(2026, 5, 14)
ONE = ("org-1", DAY)


def test_what_comes_beyond_the_bound_is_told_as_other_and_counted() -> None:
    counted = metrics.FOLDED_VALUES.labels("os")._value.get()
    dimensions = Dimensions({"os": 2})
    assert dimensions.fold([ONE] * 6, "os", ["a", "b", "c", "", "a", "d"]) == ["a", "b", OTHER, "", "a", OTHER]
    assert metrics.FOLDED_VALUES.labels("os")._value.get() == counted + 2


def test_a_column_within_the_bound_is_left_as_it_is() -> None:
    values = ["a", "b", "a"]
    assert Dimensions({"os": 2}).fold([ONE] * 3, "os", values) is values


def test_other_itself_is_never_beyond_the_bound_and_not_counted() -> None:
    counted = metrics.FOLDED_VALUES.labels("os")._value.get()
    values = ["a", OTHER]
    assert Dimensions({"os": 1}).fold([ONE] * 2, "os", values) is values
    assert metrics.FOLDED_VALUES.labels("os")._value.get() == counted


def test_organizations_days_and_dimensions_have_bounds_of_their_own() -> None:
    dimensions = Dimensions({"os": 1, "locale": 1})
    owners = [ONE, ("org-2", DAY), ("org-1", DAY + timedelta(days=1)), ONE]
    assert dimensions.fold(owners, "os", ["a", "b", "c", "d"]) == ["a", "b", "c", OTHER]
    assert dimensions.fold([ONE], "locale", ["de"]) == ["de"]


@given(st.lists(st.tuples(st.sampled_from("xy"), st.sampled_from("abcdefg")), max_size=60), st.integers(1, 5))
def test_the_bound_holds_over_batches_and_a_batch_that_is_sent_again_is_the_same(
    events: list[tuple[str, str]], limit: int
) -> None:
    dimensions = Dimensions({"os": limit})
    stored: dict[str, set[str]] = {"x": set(), "y": set()}
    for start in range(0, len(events), 7):
        batch = events[start : start + 7]
        owners = [(organization, DAY) for organization, _ in batch]
        values = [value for _, value in batch]
        folded = dimensions.fold(owners, "os", values)
        assert all(new in (old, OTHER) for new, old in zip(folded, values, strict=True))
        assert dimensions.fold(owners, "os", values) == folded
        for (organization, _), value in zip(batch, folded, strict=True):
            stored[organization].add(value)
    assert all(len(values - {OTHER}) <= limit for values in stored.values())


def test_the_oldest_day_is_forgotten_when_there_is_too_much_to_remember() -> None:
    dimensions = Dimensions({"os": 2}, max_remembered=3)
    for day, values in ((DAY, ["a", "b"]), (DAY + timedelta(days=1), ["a", "b"])):
        records = [record(event(os=value), at=NOON + (day - DAY)) for value in values]
        dimensions.bounded(event_columns(records))
    kept = dimensions.bounded(
        event_columns([record(event(os="c"), at=NOON), record(event(os="c"), at=NOON + timedelta(1))])
    )
    assert kept.values[COLUMNS.index("os")] == ["c", OTHER]


def test_only_free_texts_of_events_are_bounded_and_each_of_them_is() -> None:
    texts = {name for name, kind in Event.__annotations__.items() if "Name" in str(kind) or name == "error"}
    assert set(LIMITS) == texts - {"model"}


async def test_the_shipper_bounds_what_it_inserts(tmp_path: Path, embedded: Warehouse) -> None:
    async with Spool(tmp_path / "spool" / "0", roll_seconds=0.01) as spool:
        many = [event(device=f"d-{n}", os=f"os {n}") for n in range(LIMITS["os"] + 10)]
        await spool.append(labels(), body(*many), NOON)
    await Shipper(tmp_path / "spool", embedded).drain(20)
    (told,) = await embedded.query("SELECT uniqExact(os) AS different, countIf(os = 'other') AS other FROM events")
    assert told == {"different": LIMITS["os"] + 1, "other": 10}
