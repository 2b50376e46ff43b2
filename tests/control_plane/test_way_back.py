"""The way back from a deployment: the examples of its module, and that it leads back whatever happened before."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from control_plane.errors import Conflict
from control_plane.offers import Offer, deploy
from control_plane.roll_back import Step, roll_back
from control_plane.way_back import RollBack, Stand, way_back
from manifests.model import BUCKETS

OFFERS = st.builds(
    Offer,
    version=st.integers(1, 4),
    interface=st.sampled_from(["a", "b"]),
    buckets=st.sampled_from([1, 5000, BUCKETS, BUCKETS]),
)


def played(steps: list[Offer | None]) -> list[Stand]:
    """Return the history of deploys, and of roll-backs (None) where there is something to go back to."""
    history: list[Stand] = []
    for step in steps:
        history = follow(history, RollBack() if step is None else step) or history
    return history


def follow(history: list[Stand], way: Offer | RollBack) -> list[Stand] | None:
    present, steps = history[-1].offers if history else (), [stand.step for stand in history]
    step = Step(len(history) + 1, way if isinstance(way, Offer) else None)
    try:
        offers = deploy(present, way) if isinstance(way, Offer) else roll_back(steps).offers
    except Conflict:
        return None
    return [*history, Stand(step, offers)]


ONE, TWO = Offer(1, "a"), Offer(2, "a")
TWO_TO_10, TWO_TO_50 = Offer(2, "a", BUCKETS // 10), Offer(2, "a", BUCKETS // 2)
EXAMPLES: list[tuple[list[Offer | None], Offer | RollBack | None]] = [
    ([ONE, TWO], RollBack()),
    ([ONE, TWO_TO_10], RollBack()),
    ([ONE, TWO_TO_10, TWO_TO_50], TWO_TO_10),
    ([ONE, TWO, None], TWO),
    ([ONE, TWO_TO_10, None], TWO_TO_10),
    ([ONE, TWO_TO_10, TWO], None),
    ([ONE, TWO_TO_10, ONE], TWO_TO_10),
    ([ONE], None),
    ([ONE, ONE], ONE),
]


@pytest.mark.parametrize(("steps", "way"), EXAMPLES, ids=str)
def test_the_way_back_is_a_roll_back_or_a_deploy_or_there_is_none(
    steps: list[Offer | None], way: Offer | RollBack | None
) -> None:
    assert way_back(played(steps)) == way


@given(st.lists(st.none() | OFFERS, min_size=1, max_size=9))
def test_whatever_happened_before_the_way_back_restores_it(steps: list[Offer | None]) -> None:
    history = played(steps)
    way = way_back(history) if history else None
    if way is not None:
        taken_back = follow(history, way)
        assert taken_back is not None
        assert taken_back[-1].offers == history[-2].offers
