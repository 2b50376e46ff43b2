"""Environment keys: taken apart, put together, and true to their root."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from manifests.keys import (
    RANDOM_BYTES,
    EnvironmentKey,
    InvalidKey,
    UncertifiedRoot,
    certify,
    fingerprint,
    make_key,
    parse_key,
)
from manifests.trust import first_root
from tests.manifests.builders import LIFETIMES, Repository, release, signer

VECTORS = json.loads((Path(__file__).parent.parent / "vectors" / "key_fingerprint.json").read_bytes())
ROOT = first_root([signer(1)], signer(2), datetime.fromtimestamp(0, UTC), LIFETIMES)
names = st.from_regex(r"[a-z][a-z0-9-]{0,30}", fullmatch=True)


@pytest.mark.parametrize("case", VECTORS["fingerprints"], ids=lambda case: case["why"])
def test_vector_fingerprint(case: dict[str, Any]) -> None:
    assert fingerprint(case["root"].encode()) == case["fingerprint"]


@pytest.mark.parametrize("case", VECTORS["keys"], ids=lambda case: repr(case["text"]))
def test_vector_key(case: dict[str, Any]) -> None:
    if case["parts"] is None:
        with pytest.raises(InvalidKey):
            parse_key(case["text"])
    else:
        key = parse_key(case["text"])
        assert key == EnvironmentKey(**case["parts"])
        assert str(key) == case["text"]


@pytest.mark.parametrize("case", VECTORS["certified"], ids=lambda case: case["why"])
def test_vector_certified(case: dict[str, Any]) -> None:
    key, root = parse_key(case["key"]), case["root"].encode()
    if case["certified"]:
        certify(key, root)
    else:
        with pytest.raises(UncertifiedRoot):
            certify(key, root)


def test_equal_keys_have_one_fingerprint_and_others_have_others() -> None:
    by_hashed: dict[str, set[str]] = {}
    for case in VECTORS["fingerprints"]:
        by_hashed.setdefault(case["hashed"], set()).add(case["fingerprint"])
    assert all(len(prints) == 1 for prints in by_hashed.values())
    assert len({next(iter(prints)) for prints in by_hashed.values()}) == len(by_hashed) == 5


@settings(max_examples=100)
@given(names, st.binary(min_size=RANDOM_BYTES, max_size=32))
def test_a_key_comes_apart_as_it_was_made(name: str, random: bytes) -> None:
    text = make_key(name, ROOT, random)
    key = parse_key(text)
    assert (key.name, key.fingerprint, str(key)) == (name, fingerprint(ROOT), text)
    certify(key, ROOT)


@settings(max_examples=200)
@given(st.text(max_size=90) | st.from_regex(r"[a-z0-9-]{60,90}", fullmatch=True))
def test_any_text_is_a_key_or_is_refused(text: str) -> None:
    try:
        key = parse_key(text)
    except InvalidKey:
        return
    assert str(key) == text


@pytest.mark.parametrize("name", ["", "Prod", "2", "-a", "a_b", "a" * 32, "prod\n", "größe"])
def test_a_key_is_made_for_environment_names_only(name: str) -> None:
    with pytest.raises(ValueError, match="environment's name"):
        make_key(name, ROOT, bytes(RANDOM_BYTES))


def test_a_key_needs_enough_random_bytes() -> None:
    with pytest.raises(ValueError, match="random bytes"):
        make_key("prod", ROOT, bytes(RANDOM_BYTES - 1))


@pytest.mark.parametrize("data", [b"", b"{}", b"\xff", b"[" * 10_000, Repository([release()]).manifest.targets])
def test_what_is_no_root_has_no_fingerprint(data: bytes) -> None:
    with pytest.raises(UncertifiedRoot):
        fingerprint(data)


def test_a_changed_root_is_not_certified() -> None:
    key = parse_key(make_key("prod", ROOT, bytes(8)))
    online = signer(2).public_key.keyval["public"].encode()
    swapped = signer(66).public_key.keyval["public"].encode()
    assert fingerprint(ROOT.replace(online, swapped)) == key.fingerprint
    with pytest.raises(UncertifiedRoot, match="not signed"):
        certify(key, ROOT.replace(online, swapped))


def test_an_id_says_nothing_of_the_root_and_differs_with_the_random_bytes() -> None:
    ids = {parse_key(make_key("prod", ROOT, bytes([number]) * 8)).id for number in range(50)}
    assert len(ids) == 50
