"""The manifest body: what goes in comes out byte for byte, and nothing hostile gets further than `InvalidManifest`."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from copy import deepcopy
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from manifests.canonical_json import MAX_DEPTH
from manifests.model import MAX_ENCODINGS, MAX_RELEASES, Encoding, InvalidManifest, Release, Rule
from manifests.trust import (
    MAX_MANIFEST_BYTES,
    etag,
    parse_body,
    releases_of,
    render_body,
    sign_content,
    tuf_files,
)
from tests.manifests.builders import LIFETIMES, Repository, release, signer
from tests.manifests.strategies import json_values, release_lists

REPOSITORY = Repository([release(version=3), release(version=2, position=1), release("größe")])
BODY = render_body(REPOSITORY.manifest, 1)


@settings(max_examples=100)
@given(release_lists, st.integers(1, 9), st.integers(0, 9))
def test_releases_and_files_come_back_as_they_were_signed(releases: list[Release], first: int, more: int) -> None:
    root = first + more
    manifest = sign_content(releases, None, signer(1), root, REPOSITORY.now, LIFETIMES)
    parsed, parsed_first = parse_body(render_body(manifest, first))
    assert (parsed, parsed_first) == (manifest, first)
    assert sorted(releases_of(parsed.targets), key=repr) == sorted(releases, key=repr)


@settings(max_examples=200)
@given(json_values)
def test_any_other_json_is_refused(value: Any) -> None:
    with pytest.raises(InvalidManifest):
        parse_body(json.dumps(value).encode())


@settings(max_examples=200)
@given(st.binary(max_size=200))
def test_any_other_bytes_are_refused(body: bytes) -> None:
    with pytest.raises(InvalidManifest):
        parse_body(body)


@settings(max_examples=300)
@given(st.data())
def test_a_body_changed_anywhere_is_read_or_refused(data: st.DataObject) -> None:
    body = deepcopy(json.loads(BODY))
    change_somewhere(body, data)
    with suppress(InvalidManifest):
        read_everything(json.dumps(body).encode())


@settings(max_examples=300)
@given(st.integers(0, len(BODY) - 1), st.binary(max_size=3), st.integers(0, 40))
def test_bytes_changed_anywhere_are_read_or_refused(position: int, new: bytes, dropped: int) -> None:
    with suppress(InvalidManifest):
        read_everything(BODY[:position] + new + BODY[position + dropped :])


@settings(max_examples=200)
@given(json_values)
def test_a_custom_object_of_anything_is_read_or_refused(custom: Any) -> None:
    targets = json.loads(REPOSITORY.manifest.targets)
    for target in targets["signed"]["targets"].values():
        target["custom"] = custom
    with suppress(InvalidManifest):
        releases_of(json.dumps(targets).encode())


def read_everything(body: bytes) -> None:
    """Do all that a device does with a body before it is verified, and that nobody expects to fail later."""
    manifest, first = parse_body(body)
    assert 1 <= first <= manifest.root
    assert manifest.revision >= 1
    assert manifest.targets_version >= 1
    assert manifest.expires.tzinfo is not None
    assert len(tuf_files(manifest)) == 3
    releases_of(manifest.targets)


def change_somewhere(value: Any, data: st.DataObject) -> None:
    """Walk into the JSON at random and set, remove or add something there."""
    while True:
        names = list(value) if isinstance(value, dict) else list(range(len(value)))
        if not names:
            return
        name = data.draw(st.sampled_from(names))
        inner = value[name]
        if isinstance(inner, dict | list) and inner and data.draw(st.integers(0, 3)):
            value = inner
            continue
        if data.draw(st.booleans()):
            value[name] = data.draw(json_values)
        else:
            del value[name]
        return


# Each takes a good body apart and breaks one rule.
BROKEN: dict[str, Callable[[dict[str, Any]], object]] = {
    "another format": lambda body: body.update(skafos=2),
    "a format that is true": lambda body: body.update(skafos=True),
    "no root": lambda body: body.pop("root"),
    "a root below the first": lambda body: body.update(root=1, first_root=2),
    "root zero": lambda body: body.update(root=0, first_root=0),
    "a root that is a text": lambda body: body.update(root="1"),
    "a root beyond what JSON holds": lambda body: body.update(root=2**53),
    "no timestamp": lambda body: body.pop("timestamp"),
    "a snapshot that is null": lambda body: body.update(snapshot=None),
    "files in each other's place": lambda body: body.update(snapshot=body["timestamp"]),
    "a version that is true": lambda body: body["timestamp"]["signed"].update(version=True),
    "version zero": lambda body: body["targets"]["signed"].update(version=0),
    "a fraction": lambda body: body["targets"]["signed"].update(x=1.0),
    "a control character": lambda body: body["targets"]["signed"].update(x="\n"),
    "half a surrogate pair": lambda body: body["targets"]["signed"].update(x="\ud800"),
    "a control character in a name": lambda body: body["targets"]["signed"].update({"\n": 1}),
    "no expiry": lambda body: body["targets"]["signed"].pop("expires"),
    "a time that is none": lambda body: body["timestamp"]["signed"].update(expires="soon"),
}


@pytest.mark.parametrize("rule", BROKEN)
def test_refuses(rule: str) -> None:
    body = json.loads(BODY)
    BROKEN[rule](body)
    with pytest.raises(InvalidManifest):
        parse_body(json.dumps(body).encode())


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\xff\xfe",
        b"[" * 100_000,
        b'{"skafos":1,"skafos":1' + BODY[len(b'{"skafos":1') :],
        BODY.replace(b'"root":1', b'"root":NaN'),
        BODY.replace(b'"root":1', b'"root":' + b"1" * 5000),
        BODY + b"{}",
        BODY[:-1],
        BODY[:-1] + b',"x":' + b"[" * MAX_DEPTH + b"]" * MAX_DEPTH + b"}",
    ],
)
def test_refuses_bytes(body: bytes) -> None:
    with pytest.raises(InvalidManifest):
        parse_body(body)


def test_ignores_members_that_it_does_not_know() -> None:
    body = json.loads(BODY)
    body["later"] = {"x": [1, None]}
    assert parse_body(json.dumps(body).encode()) == (REPOSITORY.manifest, 1)


def test_whitespace_and_order_on_the_way_do_not_change_the_files() -> None:
    shuffled = json.dumps(json.loads(BODY), indent=2, sort_keys=True, ensure_ascii=False).encode()
    assert parse_body(shuffled) == (REPOSITORY.manifest, 1)


def test_a_body_over_the_limit_is_refused_before_it_is_parsed() -> None:
    fits = BODY + b" " * (MAX_MANIFEST_BYTES - len(BODY))
    assert parse_body(fits)[1] == 1
    with pytest.raises(InvalidManifest, match="at most"):
        parse_body(fits + b" ")


def test_content_that_would_make_too_large_a_body_is_not_signed() -> None:
    patches = tuple(Encoding("zstd-prefix", "0" * 64, 1, "1" * 64) for _ in range(MAX_ENCODINGS))
    many = [Release("m", version, "2" * 64, 1, 0, Rule("s"), patches) for version in range(1, 400)]
    with pytest.raises(InvalidManifest, match="bytes"):
        sign_content(many, None, signer(1), 1, REPOSITORY.now, LIFETIMES)


def test_more_releases_than_the_limit_are_neither_signed_nor_read() -> None:
    many = [Release("m", version, "2" * 64, 1, 0, Rule("s"), ()) for version in range(1, MAX_RELEASES + 2)]
    sign_content(many[:-1], None, signer(1), 1, REPOSITORY.now, LIFETIMES)
    with pytest.raises(InvalidManifest, match="1024 releases"):
        sign_content(many, None, signer(1), 1, REPOSITORY.now, LIFETIMES)
    targets = json.loads(REPOSITORY.manifest.targets)
    one = next(iter(targets["signed"]["targets"].values()))
    targets["signed"]["targets"] = {f"m/{number}": one for number in range(MAX_RELEASES + 1)}
    with pytest.raises(InvalidManifest, match="1024 releases"):
        releases_of(json.dumps(targets).encode())


def test_three_models_make_about_two_kilobytes() -> None:
    offered = [release("a"), release("b"), release("c")]
    assert len(render_body(Repository(offered).manifest, 1)) < 3_500


def test_an_etag_is_strong_and_says_which_bytes() -> None:
    assert etag(BODY) == etag(bytes(BODY))
    assert etag(BODY) != etag(BODY + b" ")
    assert etag(BODY).startswith('"')
    assert etag(BODY).endswith('"')
