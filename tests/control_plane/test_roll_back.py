"""What a roll-back leaves of the versions that a model offers."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from control_plane.errors import Conflict
from control_plane.offers import MAX_OFFERS, Offer, deploy
from control_plane.roll_back import Left, Step, roll_back
from manifests.model import BUCKETS

IOS_17 = {"os_version": {"min": "17"}}
# Two versions of each interface, so that most deploys change one that is there.
ANY_OFFER = st.builds(
    lambda version, buckets, conditions: Offer(version, "ab"[version % 2], buckets, conditions),
    version=st.integers(1, 4),
    buckets=st.sampled_from([1000, 5000, BUCKETS]),
    conditions=st.sampled_from([{}, IOS_17]),
)


def offer(version: int, percent: int = 100, interface: str | None = None) -> Offer:
    return Offer(version, interface, percent * BUCKETS // 100)


def history(*moves: Offer | None) -> list[Step]:
    return [Step(number, move) for number, move in enumerate(moves, 1)]


def deployed(deploys: Sequence[Offer]) -> tuple[Offer, ...]:
    return reduce(deploy, deploys, ())


@pytest.mark.parametrize(
    ("moves", "left"),
    [
        ([offer(1), offer(2)], [offer(1)]),
        ([offer(1), offer(2, 10), offer(2, 50), offer(2)], [offer(1)]),
        ([offer(1), offer(2, 10), offer(2, 50)], [offer(1)]),
        ([offer(1), offer(2, 10), offer(3)], [offer(2, 10), offer(1)]),
        ([offer(1), offer(2, 50), offer(3, 10), offer(3, 50)], [offer(2, 50), offer(1)]),
        # Two rollouts side by side: the version is gone altogether, not back at a smaller share.
        ([offer(1), offer(2, 10), offer(3, 10), offer(2, 50), offer(3, 50), offer(2)], [offer(1)]),
        # A version that comes a second time is taken back to what it replaced then.
        ([offer(1), offer(2), offer(1)], [offer(2)]),
        # The old version deployed again ends a rollout; taking the old one back goes to what was before it.
        ([offer(1), offer(2), offer(3, 50), offer(2)], [offer(1)]),
        ([offer(1), offer(2), None, offer(3)], [offer(1)]),
        ([offer(1), offer(2, 10), offer(2), offer(3, 10), offer(3), None], [offer(1)]),
    ],
)
def test_the_version_that_was_deployed_last_is_taken_back(moves: list[Offer | None], left: list[Offer]) -> None:
    assert roll_back(history(*moves)).offers == tuple(left)


def test_versions_for_other_builds_of_the_app_stay() -> None:
    moves = [offer(1, interface="a"), offer(2, 10, "a"), offer(3, interface="b"), offer(2, interface="a")]
    assert roll_back(history(*moves)) == Left((offer(3, interface="b"), offer(1, interface="a")), 3)


def test_a_first_version_for_new_builds_of_the_app_leaves_the_others() -> None:
    moves = [offer(1, interface="a"), offer(2, 10, "b"), offer(2, interface="b")]
    assert roll_back(history(*moves)) == Left((offer(1, interface="a"),), 1)


def test_after_a_roll_back_at_most_as_many_versions_are_offered_as_there_can_be() -> None:
    moves = [offer(number, interface=f"interface {number}") for number in range(1, MAX_OFFERS + 3)]
    left = roll_back(history(*moves))
    assert [each.version for each in left.offers] == list(range(MAX_OFFERS + 1, 1, -1))


@pytest.mark.parametrize(
    "moves",
    [
        [],
        [offer(1)],
        [offer(1, 10), offer(1)],
        [offer(1), offer(2), None],
        [offer(1), offer(2, 10), offer(1)],
    ],
)
def test_what_was_offered_from_the_beginning_cannot_be_taken_back(moves: list[Offer | None]) -> None:
    with pytest.raises(Conflict) as caught:
        roll_back(history(*moves))
    assert caught.value.code == "nothing_to_roll_back_to"


@given(st.lists(ANY_OFFER, min_size=1, max_size=12))
@settings(max_examples=200)
def test_a_version_that_is_taken_back_is_offered_to_nobody_and_every_other_interface_as_before(
    deploys: list[Offer],
) -> None:
    last = deploys[-1]
    try:
        left = roll_back(history(*deploys))
    except Conflict:
        assert {each.interface for each in deploys} == {last.interface}
        return
    before = deployed(deploys)
    assert last.version not in [each.version for each in left.offers]
    for interface in {"a", "b"} - {last.interface}:
        others = [each for each in left.offers if each.interface == interface]
        assert others == [each for each in before if each.interface == interface]


@given(st.lists(ANY_OFFER, min_size=1, max_size=12))
@settings(max_examples=200)
def test_what_is_left_is_what_the_deploys_that_stand_would_have_made(deploys: list[Offer]) -> None:
    """Against the obvious model: leave deploys out, from the last one back, until the version is no longer offered."""
    last = deploys[-1]
    standing = list(deploys)
    for index in range(len(deploys) - 1, -1, -1):
        if last.version not in [each.version for each in deployed(standing)]:
            break
        if deploys[index].interface == last.interface:
            del standing[index]
    if not standing:
        with pytest.raises(Conflict):
            roll_back(history(*deploys))
        return
    assert roll_back(history(*deploys)).offers == deployed(standing)


@given(st.lists(st.none() | ANY_OFFER, max_size=20))
@settings(max_examples=200)
def test_roll_backs_come_to_the_first_version_and_each_goes_further_back(moves: list[Offer | None]) -> None:
    steps: list[Step] = []
    for move in moves:
        try:
            if move is None:
                roll_back(steps)
        except Conflict:
            continue
        steps.append(Step(len(steps) + 1, move))
    newest = len(steps) + 1
    while True:
        try:
            left = roll_back(steps)
        except Conflict:
            break
        assert left.newest < newest
        newest = left.newest
        steps.append(Step(len(steps) + 1, None))
