"""What a deploy makes of the versions that a model offers."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from control_plane.errors import Conflict, Invalid
from control_plane.offers import (
    MAX_OFFERS,
    Offer,
    buckets_of,
    checked_conditions,
    deploy,
    salt_of,
)

IOS_17 = {"os_version": {"min": "17"}}
ANY_OFFER = st.builds(
    Offer,
    version=st.integers(1, 12),
    interface=st.sampled_from([None, "a", "b"]),
    buckets=st.sampled_from([1, 1000, 10_000]),
    conditions=st.sampled_from([{}, IOS_17]),
)


def versions(offers: tuple[Offer, ...]) -> list[int]:
    return [offer.version for offer in offers]


def test_the_first_full_deploy_is_the_only_offer() -> None:
    assert deploy((), Offer(1, "a")) == (Offer(1, "a"),)


def test_a_full_deploy_replaces_what_has_the_same_interface() -> None:
    present = (Offer(2, "a", 1000), Offer(1, "a"))
    assert versions(deploy(present, Offer(3, "a"))) == [3]


def test_a_full_deploy_keeps_what_older_builds_of_the_app_use() -> None:
    present = (Offer(2, "b"), Offer(1, "a"))
    assert versions(deploy(present, Offer(3, "b"))) == [3, 1]
    assert versions(deploy(present, Offer(3, None))) == [3, 2, 1]


def test_a_full_deploy_beyond_the_bound_drops_the_oldest_interface() -> None:
    present = tuple(Offer(number, f"interface {number}") for number in range(MAX_OFFERS, 0, -1))
    after = deploy(present, Offer(9, "new"))
    assert versions(after) == [9, 8, 7, 6, 5, 4, 3, 2]


def test_a_partial_deploy_goes_on_top() -> None:
    assert versions(deploy((Offer(1, "a"),), Offer(2, "a", 1000))) == [2, 1]
    assert versions(deploy((Offer(1, "a"),), Offer(2, "a", conditions=IOS_17))) == [2, 1]


def test_raising_the_percentage_moves_the_version_rather_than_doubling_it() -> None:
    after = deploy((Offer(2, "a", 1000), Offer(1, "a")), Offer(2, "a", 5000))
    assert after == (Offer(2, "a", 5000), Offer(1, "a"))


def test_a_partial_deploy_beyond_the_bound_is_a_conflict() -> None:
    present = tuple(Offer(number, "a", 1000) for number in range(1, MAX_OFFERS + 1))
    with pytest.raises(Conflict, match="8 versions are offered already"):
        deploy(present, Offer(9, "a", 1000))
    assert len(deploy(present, Offer(8, "a", 2000))) == MAX_OFFERS


@given(st.lists(ANY_OFFER, max_size=30))
@settings(max_examples=100)
def test_after_any_deploys_offers_are_few_and_each_version_is_there_once(deploys: list[Offer]) -> None:
    offers: tuple[Offer, ...] = ()
    for new in deploys:
        try:
            offers = deploy(offers, new)
        except Conflict:
            assert not new.is_for_all
            continue
        assert offers[0] == new
        assert len(offers) <= MAX_OFFERS
        assert len(set(versions(offers))) == len(offers)


@given(st.lists(ANY_OFFER, max_size=10), ANY_OFFER)
@settings(max_examples=100)
def test_deploying_the_same_again_changes_nothing(deploys: list[Offer], new: Offer) -> None:
    offers: tuple[Offer, ...] = ()
    for each in deploys:
        try:
            offers = deploy(offers, each)
        except Conflict:
            continue
    try:
        once = deploy(offers, new)
    except Conflict:
        return
    assert deploy(once, new) == once


@pytest.mark.parametrize(("percent", "buckets"), [(100, 10_000), (0.01, 1), (12.5, 1250), (33.33, 3333), (99.99, 9999)])
def test_percentages_become_buckets(percent: float, buckets: int) -> None:
    assert buckets_of(percent) == buckets


@pytest.mark.parametrize("percent", [0, -1, 100.001, 101, 0.001, math.nan, math.inf, True, "50", None])
def test_other_percentages_are_invalid(percent: object) -> None:
    with pytest.raises(Invalid, match="percent must be"):
        buckets_of(percent)


def test_conditions_are_checked_by_the_rule_that_devices_follow() -> None:
    assert checked_conditions(IOS_17) == IOS_17
    assert checked_conditions(None) == {}
    with pytest.raises(Invalid, match="There is no fact 'shoe_size'"):
        checked_conditions({"shoe_size": {"min": "42"}})


def test_the_salt_depends_on_the_environment_and_the_version_alone() -> None:
    assert salt_of("e", "v") == salt_of("e", "v")
    assert len({salt_of("e", "v"), salt_of("e", "w"), salt_of("f", "v")}) == 3
    assert len(salt_of("e", "v")) == 16
