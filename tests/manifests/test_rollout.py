"""The rollout rule: shares that only grow, conditions that fail closed, versions in their order."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from manifests.model import BUCKETS, FACTS, Condition, Release, Rule, release_from_target, release_to_custom
from manifests.rollout import DeviceFacts, bucket, choose, compare_versions, matches
from manifests.versions import MAX_VERSION_LENGTH, is_version
from tests.manifests.builders import release
from tests.manifests.strategies import conditions, device_ids, releases, rules, texts, versions

VECTORS = json.loads((Path(__file__).parent.parent / "vectors" / "rollout.json").read_bytes())
facts_of_devices = st.builds(
    DeviceFacts,
    device_id=device_ids,
    interface=st.none() | texts,
    os=st.none() | texts,
    os_version=st.none() | versions,
    app_version=st.none() | versions | texts,
    device_model=st.none() | texts,
    locale=st.none() | texts,
)


def read_release(offer: dict[str, Any]) -> Release:
    """Read a release through the same code that reads a manifest, so that unknown parts count as on a device."""
    whole = release(version=offer.get("version", 1), position=offer.get("position", 0))
    custom = release_to_custom(whole) | {"rule": offer["rule"], "interface": offer.get("interface")}
    return release_from_target(whole.path, whole.length, {"sha256": whole.artifact}, custom)


@pytest.mark.parametrize("case", VECTORS["bucket"], ids=lambda case: f"{case['salt']}:{case['device_id']}"[:40])
def test_vector_bucket(case: dict[str, Any]) -> None:
    assert bucket(case["salt"], case["device_id"]) == case["bucket"]


@pytest.mark.parametrize("case", VECTORS["compare_versions"], ids=lambda case: f"{case['left']} {case['right']}"[:40])
def test_vector_compare_versions(case: dict[str, Any]) -> None:
    assert compare_versions(case["left"], case["right"]) == case["order"]


@pytest.mark.parametrize("case", VECTORS["matches"], ids=lambda case: case["why"])
def test_vector_matches(case: dict[str, Any]) -> None:
    assert matches(read_release(case).rule, DeviceFacts(**case["facts"])) is case["matches"]


@pytest.mark.parametrize("case", VECTORS["choose"], ids=lambda case: case["why"])
def test_vector_choose(case: dict[str, Any]) -> None:
    chosen = choose([read_release(offer) for offer in case["releases"]], DeviceFacts(**case["facts"]))
    assert (chosen and chosen.version) == case["version"]


def test_there_are_enough_vectors() -> None:
    assert sum(len(cases) for cases in VECTORS.values() if isinstance(cases, list)) >= 40


@settings(max_examples=100)
@given(texts, device_ids)
def test_a_bucket_is_one_of_ten_thousand(salt: str, device_id: str) -> None:
    assert 0 <= bucket(salt, device_id) < BUCKETS


@settings(max_examples=100)
@given(rules, facts_of_devices, st.integers(0, BUCKETS))
def test_raising_a_share_evicts_nobody(rule: Rule, facts: DeviceFacts, more: int) -> None:
    wider = replace(rule, buckets=max(rule.buckets, more))
    assert matches(wider, facts) or not matches(rule, facts)


@settings(max_examples=100)
@given(rules, facts_of_devices, conditions)
def test_a_further_condition_reaches_nobody_new(rule: Rule, facts: DeviceFacts, further: dict[str, Condition]) -> None:
    narrower = replace(rule, conditions={**further, **rule.conditions})
    assert matches(rule, facts) or not matches(narrower, facts)


@settings(max_examples=100)
@given(facts_of_devices, texts.filter(lambda name: name not in FACTS))
def test_an_unknown_fact_or_part_reaches_nobody(facts: DeviceFacts, name: str) -> None:
    assert not matches(Rule("s", BUCKETS, {name: Condition()}), facts)
    assert not matches(Rule("s", BUCKETS, {"os": Condition(never=True)}), facts)


@settings(max_examples=100)
@given(st.lists(releases(st.just("m")), max_size=5, unique_by=lambda r: r.version), facts_of_devices, st.randoms())
def test_the_choice_does_not_depend_on_the_order_of_the_list(
    offered: list[Release], facts: DeviceFacts, random: Any
) -> None:
    shuffled = random.sample(offered, len(offered))
    chosen = choose(offered, facts)
    assert choose(shuffled, facts) == chosen
    assert chosen is None or matches(chosen.rule, facts)


def test_a_share_is_met_within_what_chance_allows() -> None:
    devices = [f"device-{number}" for number in range(20_000)]
    share = sum(bucket("5a17", device) < 2_500 for device in devices) / len(devices)
    # Four standard deviations of 20,000 draws at a quarter.
    assert abs(share - 0.25) < 4 * (0.25 * 0.75 / len(devices)) ** 0.5


def test_two_salts_draw_differently() -> None:
    devices = [f"device-{number}" for number in range(4_000)]
    both = sum(bucket("a", d) < 5_000 and bucket("b", d) < 5_000 for d in devices) / len(devices)
    assert abs(both - 0.25) < 0.04


@settings(max_examples=100)
@given(versions, versions, versions)
def test_versions_have_one_order(a: str, b: str, c: str) -> None:
    forth, back = compare_versions(a, b), compare_versions(b, a)
    assert forth is not None
    assert back == -forth
    if forth <= 0 and compare_versions(b, c) in (-1, 0):
        assert compare_versions(a, c) in (-1, 0)
    assert compare_versions(a, a + ".0") == 0
    assert compare_versions(a, a + ".1") == -1
    assert compare_versions(a + "-rc.1", a) == -1


@settings(max_examples=200)
@given(st.text(max_size=80), st.text(max_size=80))
def test_any_texts_compare_or_do_not(a: str, b: str) -> None:
    assert compare_versions(a, b) in (None, -1, 0, 1)
    assert (compare_versions(a, b) is None) == (not is_version(a) or not is_version(b))


def test_a_version_is_bounded() -> None:
    assert is_version("1." * 7 + "1")
    assert not is_version("1." * 8 + "1")
    assert is_version("9" * 18)
    assert not is_version("9" * 19)
    assert is_version("1-" + "a" * (MAX_VERSION_LENGTH - 2))
    assert not is_version("1-" + "a" * (MAX_VERSION_LENGTH - 1))
