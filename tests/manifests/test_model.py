"""Releases as TUF targets, and conditions as people state them and as devices read them."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings

from manifests.model import (
    BUCKETS,
    MAX_CONDITION_VALUES,
    MAX_CONDITIONS,
    MAX_ENCODINGS,
    MAX_VALUE_LENGTH,
    Condition,
    Encoding,
    InvalidManifest,
    Release,
    Rule,
    check_releases,
    of_model,
    parse_conditions,
    release_from_target,
    release_to_custom,
    target_path,
)
from tests.manifests.builders import release
from tests.manifests.strategies import releases, stated_conditions


def read(release: Release, custom: Any) -> Release:
    return release_from_target(release.path, release.length, {"sha256": release.artifact}, custom)


@settings(max_examples=100)
@given(releases())
def test_a_release_comes_back_from_its_target(release: Release) -> None:
    custom = json.loads(json.dumps(release_to_custom(release)))
    assert read(release, custom) == release


@pytest.mark.parametrize(
    ("model", "path"),
    [
        ("digits", "digits/7"),
        ("silero vad", "silero%20vad/7"),
        ("größe", "gr%C3%B6%C3%9Fe/7"),
        ("a/b", "a%2Fb/7"),
        ("100%", "100%25/7"),
        ("A-z_0.9~", "A-z_0.9~/7"),
        ("q?x=1#y&z+", "q%3Fx%3D1%23y%26z%2B/7"),
    ],
)
def test_a_target_s_path_is_percent_encoded(model: str, path: str) -> None:
    assert target_path(model, 7) == path
    assert release(model, 7).path == path


GOOD = release()
BROKEN: dict[str, tuple[str, Any]] = {
    "another format": ("skafos", 2),
    "a format that is true": ("skafos", True),
    "an empty model": ("model", ""),
    "a model of one dot": ("model", "."),
    "a model of two dots": ("model", ".."),
    "a model that is too long": ("model", "m" * 257),
    "a model with a control character": ("model", "a\x00b"),
    "another model than the path says": ("model", "letters"),
    "another version than the path says": ("version", 2),
    "a version that is true": ("version", True),
    "version zero": ("version", 0),
    "a position below zero": ("position", -1),
    "a position that is a text": ("position", "0"),
    "an empty interface": ("interface", ""),
    "encodings that are an object": ("encodings", {}),
    "too many encodings": ("encodings", [{"name": "x", "blob": "0" * 64, "length": 1}] * (MAX_ENCODINGS + 1)),
    "an encoding without a blob": ("encodings", [{"name": "x", "length": 1}]),
    "an encoding whose blob is upper case": ("encodings", [{"name": "x", "blob": "A" * 64, "length": 1}]),
    "an encoding with a base that is no hash": (
        "encodings",
        [{"name": "x", "blob": "0" * 64, "length": 1, "base": "../../etc/passwd"}],
    ),
    "an encoding of a length below zero": ("encodings", [{"name": "x", "blob": "0" * 64, "length": -1}]),
    "no rule": ("rule", None),
    "a rule without a salt": ("rule", {"buckets": 1}),
    "a rule without buckets": ("rule", {"salt": "s"}),
    "more buckets than there are": ("rule", {"salt": "s", "buckets": BUCKETS + 1}),
    "conditions that are a list": ("rule", {"salt": "s", "buckets": 1, "conditions": []}),
    "too many conditions": (
        "rule",
        {"salt": "s", "buckets": 1, "conditions": {f"fact-{number}": {} for number in range(MAX_CONDITIONS + 1)}},
    ),
    "a condition that is a text": ("rule", {"salt": "s", "buckets": 1, "conditions": {"os": "ios"}}),
    "a condition's version that is a number": (
        "rule",
        {"salt": "s", "buckets": 1, "conditions": {"os_version": {"min": 17}}},
    ),
    "too many values": (
        "rule",
        {"salt": "s", "buckets": 1, "conditions": {"os": {"any_of": ["x"] * (MAX_CONDITION_VALUES + 1)}}},
    ),
}


@pytest.mark.parametrize("rule", BROKEN)
def test_a_device_refuses(rule: str) -> None:
    member, value = BROKEN[rule]
    with pytest.raises(InvalidManifest):
        read(GOOD, release_to_custom(GOOD) | {member: value})


@pytest.mark.parametrize("custom", [None, [], "x", 1, {}])
def test_a_target_without_a_custom_object_is_no_release(custom: Any) -> None:
    with pytest.raises(InvalidManifest):
        read(GOOD, custom)


def test_a_target_without_a_sha256_is_no_release() -> None:
    with pytest.raises(InvalidManifest, match="hash"):
        release_from_target(GOOD.path, GOOD.length, {"sha512": "0" * 128}, release_to_custom(GOOD))


def test_a_target_s_length_is_bounded() -> None:
    with pytest.raises(InvalidManifest, match="length"):
        release_from_target(GOOD.path, 2**53, {"sha256": GOOD.artifact}, release_to_custom(GOOD))


def test_members_that_cannot_widen_a_release_are_ignored() -> None:
    custom = release_to_custom(GOOD) | {"notes": "later"}
    custom["encodings"][0]["window"] = 27
    assert read(GOOD, custom) == GOOD


@pytest.mark.parametrize(
    "condition",
    [{"matches": "i.*"}, {"any_of": ["ios"], "later": 1}, {"any_of": []}, {"min": None}, {"min": "1", "none_of": []}],
)
def test_a_condition_with_a_part_that_a_device_does_not_understand_holds_for_nobody(condition: dict[str, Any]) -> None:
    custom = release_to_custom(GOOD)
    custom["rule"]["conditions"] = {"os": condition}
    assert read(GOOD, custom).rule.conditions == {"os": Condition(never=True)}


def test_a_rule_with_a_member_that_a_device_does_not_understand_reaches_nobody() -> None:
    custom = release_to_custom(GOOD)
    custom["rule"]["after"] = "2027-01-01"
    assert read(GOOD, custom).rule.buckets == 0


@pytest.mark.parametrize(
    "broken",
    [
        replace(GOOD, model="\ud800"),
        replace(GOOD, model=".."),
        replace(GOOD, version=0),
        replace(GOOD, artifact="0"),
        replace(GOOD, encodings=(Encoding("", "0" * 64, 1),)),
        replace(GOOD, rule=Rule("s", 10_001)),
        replace(GOOD, rule=Rule("s\n", 1)),
        replace(GOOD, rule=Rule("s", 1, {"os": Condition(never=True)})),
    ],
)
def test_what_a_device_would_not_read_is_not_signed(broken: Release) -> None:
    with pytest.raises(InvalidManifest):
        check_releases([broken])


def test_a_version_is_offered_once() -> None:
    with pytest.raises(InvalidManifest, match="once"):
        check_releases([GOOD, replace(GOOD, position=1)])


def test_releases_of_one_model_come_in_the_order_in_which_they_are_asked() -> None:
    offered = [release("a", 1, position=2), release("b", 1), release("a", 2, position=0), release("a", 3, position=2)]
    assert [r.version for r in of_model(offered, "a")] == [2, 3, 1]


# --- Conditions as a person states them ---


@settings(max_examples=100)
@given(stated_conditions)
def test_conditions_that_are_accepted_mean_the_same_on_a_device(stated: dict[str, Any]) -> None:
    conditions = parse_conditions(stated)
    custom = release_to_custom(replace(GOOD, rule=Rule("s", 1, conditions)))
    assert custom["rule"]["conditions"] == stated
    assert read(GOOD, custom).rule.conditions == conditions


def test_conditions_are_read() -> None:
    stated = {"os_version": {"min": "17.0", "below": "18"}, "locale": {"any_of": ["de", "fr-CH"], "none_of": ["de-AT"]}}
    assert parse_conditions(stated) == {
        "os_version": Condition(min="17.0", below="18"),
        "locale": Condition(any_of=("de", "fr-CH"), none_of=("de-AT",)),
    }
    assert parse_conditions({}) == {}


@pytest.mark.parametrize(
    ("stated", "sentence"),
    [
        (None, "must be an object"),
        ([], "must be an object"),
        ({"colour": {"any_of": ["red"]}}, "There is no fact 'colour'; conditions may name os, .* and locale"),
        ({7: {"any_of": ["red"]}}, "There is no fact 7"),
        ({"os": {}}, "The condition on os must be an object with at least one of"),
        ({"os": ["ios"]}, "The condition on os must be an object"),
        ({"os": {"equals": "ios"}}, "The condition on os has an unknown part 'equals'"),
        ({"os": {"never": True}}, "unknown part 'never'"),
        ({"os": {"min": "17"}}, "The condition on os cannot have min: only os_version and app_version have an order"),
        ({"os_version": {"min": "seventeen"}}, "min of os_version must be a version text"),
        ({"os_version": {"below": 18}}, "below of os_version must be a version text"),
        ({"os_version": {"below": None}}, "below of os_version must be a version text"),
        ({"os_version": {"min": "18", "below": "18.0"}}, "No os_version is at least 18 and below 18.0"),
        ({"os_version": {"min": "18", "below": "2"}}, "No os_version is at least 18 and below 2"),
        ({"locale": {"any_of": []}}, "any_of of locale must be a list of 1 to 256 texts"),
        ({"locale": {"any_of": "de"}}, "any_of of locale must be a list"),
        ({"locale": {"any_of": ["x"] * 257}}, "any_of of locale must be a list of 1 to 256 texts"),
        ({"locale": {"none_of": [""]}}, "none_of of locale must hold texts of 1 to 128 characters"),
        ({"locale": {"none_of": ["x" * (MAX_VALUE_LENGTH + 1)]}}, "texts of 1 to 128 characters"),
        ({"locale": {"none_of": [1]}}, "texts of 1 to 128 characters"),
        ({"locale": {"none_of": ["d\x00e"]}}, "without control characters"),
        ({"x" * 5000: {}}, "There is no fact 'xxx"),
    ],
)
def test_conditions_that_make_no_sense_are_refused_with_a_sentence(stated: Any, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence) as refused:
        parse_conditions(stated)
    assert len(str(refused.value)) < 200
