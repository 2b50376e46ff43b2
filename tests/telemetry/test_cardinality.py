"""Free-text dimensions: an organization has so many different values a day, and the rest are told as one."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import REGISTRY

from telemetry import cardinality
from telemetry.cardinality import LIMITS, OTHER, Dimensions, Owner
from telemetry.columns import event_columns
from telemetry.events import Event
from telemetry.native import Coded
from telemetry.shipper import Shipper
from telemetry.spool import Spool
from telemetry.warehouse import Warehouse
from tests.telemetry.samples import NOON, body, coded, event, labels, record
from tests.telemetry.warehouses import embedded

__all__ = ["embedded"]  # a fixture

DAY = 20_000
ONE = ("org-1", DAY)


def fold(dimensions: Dimensions, owners: Sequence[Owner], values: Sequence[str], dimension: str = "os") -> list[str]:
    """What becomes of values, given whose each is."""
    different = list(dict.fromkeys(owners))
    owned = np.array([different.index(owner) for owner in owners], np.int64)
    folded = dimensions.fold(different, owned, dimension, coded(values))
    assert set(folded.texts) == set(folded.rows()), "the dictionary that is stored holds what rows have"
    return folded.rows()


@pytest.fixture(autouse=True, params=["by table", "by sorting"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Find the different values in both ways that there are."""
    if request.param == "by sorting":
        monkeypatch.setattr(cardinality, "MAX_TABLE", 0)


def counted() -> float:
    return REGISTRY.get_sample_value("skafos_shipper_folded_values_total", {"dimension": "os"}) or 0.0


def test_what_comes_beyond_the_bound_is_told_as_other_and_counted() -> None:
    before = counted()
    values = ["a", "b", "c", "", "a", "d"]
    assert fold(Dimensions({"os": 2}), [ONE] * 6, values) == ["a", "b", OTHER, "", "a", OTHER]
    assert counted() == before + 2


def test_a_column_within_the_bound_is_left_as_it_is() -> None:
    column = coded(["a", "b", "a"])
    assert Dimensions({"os": 2}).fold([ONE], np.zeros(3, np.int64), "os", column) is column


def test_other_itself_is_never_beyond_the_bound_and_not_counted() -> None:
    before = counted()
    assert fold(Dimensions({"os": 1}), [ONE] * 3, ["a", OTHER, "b"]) == ["a", OTHER, OTHER]
    assert counted() == before + 1


def test_organizations_days_and_dimensions_have_bounds_of_their_own() -> None:
    dimensions = Dimensions({"os": 1, "locale": 1})
    owners = [ONE, ("org-2", DAY), ("org-1", DAY + 1), ONE]
    assert fold(dimensions, owners, ["a", "b", "c", "d"]) == ["a", "b", "c", OTHER]
    assert fold(dimensions, [ONE], ["de"], "locale") == ["de"]


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
        folded = fold(dimensions, owners, values)
        assert all(new in (old, OTHER) for new, old in zip(folded, values, strict=True))
        assert fold(dimensions, owners, values) == folded
        for (organization, _), value in zip(batch, folded, strict=True):
            stored[organization].add(value)
    assert all(len(values - {OTHER}) <= limit for values in stored.values())


def test_the_oldest_day_is_forgotten_when_there_is_too_much_to_remember() -> None:
    dimensions = Dimensions({"os": 2}, max_remembered=3)
    for days, values in ((0, ["a", "b"]), (1, ["a", "b"])):
        records = [record(event(os=value), at=NOON + timedelta(days)) for value in values]
        dimensions.bounded(event_columns(records))
    later = [record(event(os="c"), at=NOON), record(event(os="c"), at=NOON + timedelta(1))]
    columns = dimensions.bounded(event_columns(later))
    by_name = columns.by_name()
    os, day = by_name["os"], by_name["day"]
    assert isinstance(os, Coded)
    assert isinstance(day, np.ndarray)
    assert dict(zip(day - day.min(), os.rows(), strict=True)) == {0: "c", 1: OTHER}


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
