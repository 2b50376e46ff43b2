"""Which patches are wanted: from what devices hold and are offered, within the bounds."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from control_plane.holdings import Holdings, moved
from control_plane.patch_policy import PatchPolicy
from control_plane.patch_wishes import (
    MAX_SHOWN_UNWANTED,
    TRIES_FOR_EACH_PLACE,
    Held,
    Known,
    Stored,
    Wish,
    beyond_budget,
    wishes,
)

POLICY = PatchPolicy(max_per_target=3, min_device_share=0.01)


def known(version: int, interface: str | None = "i", artifact: str | None = None) -> Known:
    return Known(version, artifact or f"a{version}", interface)


def held(active: int, **devices: int) -> Held:
    """Return what devices hold, as in ``v1=90``."""
    return Held(active, tuple((known(int(name[1:])), number) for name, number in devices.items()))


def wanted(found: list[Wish]) -> list[tuple[str, str]]:
    return [wish.pair for wish in found if wish.unwanted is None]


def reasons(found: list[Wish]) -> dict[str, str]:
    return {wish.base: wish.unwanted for wish in found if wish.unwanted is not None}


def test_what_most_devices_hold_comes_first() -> None:
    found = wishes([known(4)], [known(4), known(3)], held(100, v1=20, v2=50, v4=30), [], POLICY)
    assert [(wish.base, wish.rank, wish.devices, wish.share) for wish in found] == [
        ("a2", 0, 50, 0.5),
        ("a1", 1, 20, 0.2),
    ]
    assert wanted(found) == [("a2", "a4"), ("a1", "a4")]


def test_a_version_that_too_few_devices_hold_gets_no_patch_and_says_so() -> None:
    found = wishes([known(4)], [], held(1000, v1=9, v2=10, v3=0), [], POLICY)
    assert wanted(found) == [("a2", "a4")]
    assert reasons(found) == {"a1": "too_few_devices", "a3": "too_few_devices"}


def test_the_number_of_patches_is_bounded_and_those_beyond_say_so() -> None:
    found = wishes([known(9)], [], held(100, v1=10, v2=20, v3=30, v4=25), [], POLICY)
    assert [base for base, _ in wanted(found)] == ["a3", "a4", "a2"]
    assert reasons(found) == {"a1": "over_number"}
    none = wishes([known(9)], [known(9), known(8)], None, [], PatchPolicy(max_per_target=0))
    assert reasons(none) == {"a8": "over_number"}


def test_versions_with_the_same_bytes_count_together_and_need_no_patch_among_them() -> None:
    same = [(known(1, artifact="x"), 3), (known(2, artifact="x"), 4), (known(3, artifact="y"), 5)]
    found = wishes([known(5, artifact="y")], [], Held(20, tuple(same)), [], POLICY)
    assert [(wish.base, wish.devices) for wish in found] == [("x", 7)]


def test_the_version_that_left_is_a_base_however_few_devices_hold_it_by_now() -> None:
    recent = [known(3), known(2), known(1)]
    devices = held(1000, v1=999, v2=1)
    assert ("a2", "a3") in wanted(wishes([known(3)], recent, devices, [], POLICY, deployed_lately=True))
    assert wanted(wishes([known(3)], recent, devices, [], POLICY, deployed_lately=False)) == [("a1", "a3")]


def test_a_roll_back_wants_the_patch_from_the_version_that_left() -> None:
    # Version 2 was taken back: version 1 is offered again, and was deployed last.
    found = wishes([known(1)], [known(1), known(2)], held(100, v1=100), [], POLICY, deployed_lately=True)
    assert wanted(found) == [("a2", "a1")]


def test_all_versions_of_a_staged_rollout_are_bases_of_one_another() -> None:
    found = wishes([known(3), known(2)], [known(3), known(2)], held(1000, v2=1000), [], POLICY)
    assert wanted(found) == [("a2", "a3"), ("a3", "a2")]


def test_versions_for_other_builds_of_the_app_are_bases_only_when_devices_hold_them() -> None:
    offered = [known(3, "new"), known(1, "old")]
    assert wanted(wishes(offered, offered, held(10, v1=0), [], POLICY)) == []
    devices = Held(10, ((known(1, "old"), 10),))
    assert wanted(wishes(offered, offered, devices, [], POLICY)) == [("a1", "a3")]


def test_patches_of_a_rollout_take_the_places_of_others() -> None:
    devices = held(100, v1=50, v2=30, v3=15, v8=5)
    found = wishes([known(9), known(8)], [], devices, [], POLICY)
    assert [base for base, target in wanted(found) if target == "a9"] == ["a1", "a2", "a8"]
    assert {wish.base: wish.unwanted for wish in found if wish.target == "a9" and wish.unwanted} == {
        "a3": "over_number"
    }


def test_without_an_answer_the_versions_deployed_lately_are_the_bases() -> None:
    found = wishes([known(5)], [known(5), known(4), known(3), known(2), known(1)], None, [], POLICY)
    assert wanted(found) == [("a4", "a5"), ("a3", "a5"), ("a2", "a5")]
    assert {wish.devices for wish in found} == {None}
    assert reasons(found) == {"a1": "over_number"}


def test_a_share_that_wavers_around_the_least_does_not_make_a_patch_come_and_go() -> None:
    standing = {("a1", "a2")}
    for devices, before, after in ((9, False, True), (5, False, True), (4, False, False), (10, True, True)):
        holding = held(1000, v1=devices)
        assert bool(wanted(wishes([known(2)], [], holding, [], POLICY))) == before
        assert bool(wanted(wishes([known(2)], [], holding, standing, POLICY))) == after


def test_a_place_is_kept_against_a_version_with_a_few_more_devices() -> None:
    one = PatchPolicy(max_per_target=1)
    assert wanted(wishes([known(9)], [], held(100, v1=45, v2=55), {("a1", "a9")}, one)) == [("a1", "a9")]
    assert wanted(wishes([known(9)], [], held(100, v1=30, v2=70), {("a1", "a9")}, one)) == [("a2", "a9")]


def test_of_many_versions_that_hardly_anybody_holds_only_some_are_told() -> None:
    devices = held(10_000, **{f"v{number}": 1 for number in range(1, 101)})
    found = wishes([known(200)], [], devices, [], POLICY)
    assert len(found) == MAX_SHOWN_UNWANTED


versions = st.lists(st.integers(1, 12), max_size=6, unique=True)
counts = st.dictionaries(st.integers(1, 12), st.integers(0, 50), max_size=8)


@given(versions, versions, st.none() | counts, st.integers(0, 5), st.booleans(), versions)
def test_no_patch_is_wanted_twice_or_from_a_version_to_itself_and_their_number_is_bounded(
    offered: list[int],
    recent: list[int],
    devices: dict[int, int] | None,
    most: int,
    lately: bool,
    tried: list[int],
) -> None:
    policy = PatchPolicy(max_per_target=most)
    holding = None
    if devices is not None:
        holding = Held(sum(devices.values()) + 1, tuple((known(version), n) for version, n in devices.items()))
    hopeless = [(f"a{base}", f"a{target}") for base in tried for target in offered]
    found = wishes([known(v) for v in offered], [known(v) for v in recent], holding, [], policy, lately, hopeless)
    pairs = [wish.pair for wish in found]
    assert len(set(pairs)) == len(pairs)
    assert all(base != target for base, target in pairs)
    for target in offered:
        of_target = [wish for wish in found if wish.target == f"a{target}"]
        assert len(wanted(of_target)) <= most * TRIES_FOR_EACH_PLACE
        assert len([pair for pair in wanted(of_target) if pair not in hopeless]) <= most
        assert [wish.rank for wish in of_target] == sorted(wish.rank for wish in of_target)


def test_a_pair_of_which_no_patch_is_worth_it_leaves_its_place_to_the_next_but_not_without_end() -> None:
    two = PatchPolicy(max_per_target=2)
    devices = held(100, v1=9, v2=8, v3=7, v4=6, v5=5, v6=4)

    def with_hopeless(*versions: int) -> list[str]:
        hopeless = [(f"a{version}", "a9") for version in versions]
        found = wishes([known(9)], [], devices, [], two, hopeless=hopeless)
        return [base for base, _ in wanted(found)]

    assert with_hopeless() == ["a1", "a2"]
    assert with_hopeless(1) == ["a1", "a2", "a3"]
    assert with_hopeless(1, 2, 3) == ["a1", "a2", "a3", "a4"]
    assert with_hopeless(1, 2, 3, 4, 5) == ["a1", "a2", "a3", "a4"], "twice as many were tried as there are places"


# --- Room -------------------------------------------------------------------------------------------------------------


def test_patches_for_the_most_devices_get_the_room() -> None:
    patches = [Stored("few", 40, 1, 2), Stored("most", 60, 100, 0), Stored("many", 50, 50, 1), Stored("none", 1, 0, 3)]
    assert beyond_budget(patches, 101) == {"many"}
    assert beyond_budget(patches, 0) == {"few", "most", "many", "none"}
    assert beyond_budget(patches, 1000) == set()


@given(st.lists(st.tuples(st.integers(1, 100), st.integers(0, 9), st.integers(0, 9)), max_size=10), st.integers(0, 300))
def test_what_has_room_never_exceeds_the_budget(patches: list[tuple[int, int, int]], budget: int) -> None:
    stored = [Stored(str(place), *patch) for place, patch in enumerate(patches)]
    beyond = beyond_budget(stored, budget)
    assert sum(each.length for each in stored if each.base not in beyond) <= budget


# --- How much moved ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("before", "now", "share"),
    [
        ({1: 10}, {1: 10}, 0.0),
        ({1: 10}, {2: 10}, 1.0),
        ({1: 10}, {1: 19, 2: 1}, 0.05),
        ({1: 10}, {1: 5, 2: 5}, 0.5),
        ({}, {}, 0.0),
        ({}, {1: 1}, 1.0),
    ],
)
def test_how_much_moved_is_the_share_of_devices_that_hold_another_version(
    before: dict[int, int], now: dict[int, int], share: float
) -> None:
    at = datetime(2026, 5, 1, tzinfo=UTC)
    assert moved(*(Holdings(sum(each.values()), each, at) for each in (before, now))) == pytest.approx(share)


def test_a_first_answer_is_a_move() -> None:
    answer = Holdings(1, {1: 1}, datetime(2026, 5, 1, tzinfo=UTC))
    assert moved(None, answer) == 1.0
    assert moved(None, None) == 0.0
