"""Metadata is made, signed anew and rotated as TUF asks."""

from __future__ import annotations

import json
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from securesystemslib.signer import Signer  # type: ignore[attr-defined]
from tuf.api.metadata import Metadata

from manifests.model import InvalidManifest, Release
from manifests.trust import (
    Lifetimes,
    SignedManifest,
    first_root,
    key_ids,
    next_root,
    releases_of,
    resign,
    root_expires,
    root_file_name,
    root_version,
    sign_content,
    tuf_files,
)
from tests.manifests.builders import LIFETIMES, release, signer

NOW = datetime.fromisoformat("2026-01-01T12:00:00+00:00")
ROOT_KEY, ONLINE = signer(1), signer(2)
ROOT = first_root([ROOT_KEY], ONLINE, NOW, LIFETIMES)


def content(*releases: Release, previous: SignedManifest | None = None, now: datetime = NOW) -> SignedManifest:
    return sign_content(releases, previous, ONLINE, 1, now, LIFETIMES)


def signed_part(data: bytes) -> dict[str, Any]:
    part: dict[str, Any] = json.loads(data)["signed"]
    return part


def assert_consistent(manifest: SignedManifest, root: bytes) -> None:
    """What every client checks: the root's keys signed each file, and each names the next one's version."""
    trusted = Metadata.from_bytes(root).signed
    for role, data in {
        "timestamp": manifest.timestamp,
        "snapshot": manifest.snapshot,
        "targets": manifest.targets,
    }.items():
        metadata = Metadata.from_bytes(data)
        trusted.verify_delegate(role, metadata.signed_bytes, metadata.signatures)
    assert signed_part(manifest.timestamp)["meta"] == {"snapshot.json": {"version": manifest.snapshot_version}}
    assert signed_part(manifest.snapshot)["meta"] == {"targets.json": {"version": manifest.targets_version}}


def test_the_first_root_names_a_root_key_and_one_online_key_for_the_rest() -> None:
    assert root_version(ROOT) == 1
    assert root_expires(ROOT) == NOW + timedelta(days=365)
    assert key_ids(ROOT, "root") == (ROOT_KEY.public_key.keyid,)
    assert {key_ids(ROOT, role) for role in ("targets", "snapshot", "timestamp")} == {(ONLINE.public_key.keyid,)}
    assert signed_part(ROOT)["consistent_snapshot"] is True


def test_each_content_goes_one_version_further_in_all_three_files() -> None:
    first = content()
    second = content(release(), previous=first)
    for number, manifest in ((1, first), (2, second)):
        assert (manifest.revision, manifest.snapshot_version, manifest.targets_version) == (number,) * 3
        assert_consistent(manifest, ROOT)
    assert releases_of(first.targets) == ()
    assert releases_of(second.targets) == (release(),)


def test_a_manifest_expires_with_the_first_of_its_files() -> None:
    assert content().expires == NOW + timedelta(days=7)
    late = sign_content([], None, ONLINE, 1, NOW, Lifetimes(targets=timedelta(days=1)))
    assert late.expires == NOW + timedelta(days=1)


def test_times_are_written_in_utc_whatever_zone_they_come_in() -> None:
    elsewhere = NOW.astimezone(timezone(timedelta(hours=9)))
    assert content(now=elsewhere) == content()
    assert first_root([ROOT_KEY], ONLINE, elsewhere, LIFETIMES) == ROOT


def test_signing_the_same_twice_gives_the_same_bytes() -> None:
    assert content(release(), release("b")) == content(release("b"), release())


def test_signing_anew_changes_the_timestamp_only() -> None:
    before = content(release())
    after = resign(before, ONLINE, 1, NOW + timedelta(days=3), LIFETIMES)
    assert after.revision == 2
    assert after.expires == NOW + timedelta(days=10)
    assert (after.snapshot, after.targets) == (before.snapshot, before.targets)
    assert_consistent(after, ROOT)


def test_past_half_of_their_life_snapshot_and_targets_are_signed_anew_with_the_same_content() -> None:
    before = content(release())
    on_time = resign(before, ONLINE, 1, NOW + timedelta(days=45), LIFETIMES)
    assert on_time.targets == before.targets
    after = resign(before, ONLINE, 1, NOW + timedelta(days=45, seconds=1), LIFETIMES)
    assert (after.revision, after.snapshot_version, after.targets_version) == (2, 2, 2)
    assert releases_of(after.targets) == (release(),)
    assert_consistent(after, ROOT)


def test_a_snapshot_that_ages_faster_than_the_targets_is_signed_anew_alone() -> None:
    before = content(release())
    lifetimes = Lifetimes(targets=timedelta(days=100))
    after = resign(before, ONLINE, 1, NOW + timedelta(days=46), Lifetimes(targets=timedelta(days=40)))
    assert (after.snapshot_version, after.targets) == (2, before.targets)
    assert_consistent(after, ROOT)
    assert resign(before, ONLINE, 1, NOW + timedelta(days=1), lifetimes).snapshot == before.snapshot


def test_a_new_online_key_signs_all_three_files() -> None:
    new = signer(3)
    root = next_root(ROOT, [ROOT_KEY], [ROOT_KEY], new, NOW, LIFETIMES)
    after = resign(content(release()), new, 2, NOW, LIFETIMES)
    assert (after.root, after.revision, after.snapshot_version, after.targets_version) == (2, 2, 2, 2)
    assert_consistent(after, root)


def test_a_next_root_is_signed_by_the_old_key_and_by_the_new_one() -> None:
    new = signer(3)
    root = next_root(ROOT, [ROOT_KEY], [new], ONLINE, NOW, LIFETIMES)
    assert root_version(root) == 2
    assert key_ids(root, "root") == (new.public_key.keyid,)
    assert set(Metadata.from_bytes(root).signatures) == {ROOT_KEY.public_key.keyid, new.public_key.keyid}


def test_a_key_that_is_old_and_new_signs_once() -> None:
    root = next_root(ROOT, [ROOT_KEY], [ROOT_KEY], ONLINE, NOW, LIFETIMES)
    assert len(json.loads(root)["signatures"]) == 1


def test_thresholds_are_kept_and_can_be_changed() -> None:
    three = [signer(10), signer(11), signer(12)]
    root = first_root(three, ONLINE, NOW, LIFETIMES, threshold=2)
    kept = next_root(root, three[:2], three, ONLINE, NOW, LIFETIMES)
    assert signed_part(kept)["roles"]["root"]["threshold"] == 2
    lowered = next_root(kept, three[1:], [signer(13)], ONLINE, NOW, LIFETIMES, threshold=1)
    assert signed_part(lowered)["roles"]["root"]["threshold"] == 1


@pytest.mark.parametrize(
    ("old", "new", "threshold"),
    [
        ([signer(10)], [signer(20), signer(21)], None),
        ([signer(66), signer(67)], [signer(20), signer(21)], None),
        ([signer(10), signer(10)], [signer(20), signer(21)], None),
        ([signer(10), signer(11)], [signer(20)], None),
        ([signer(10), signer(11)], [signer(20), signer(20)], 2),
        ([signer(10), signer(11)], [signer(20)], 0),
    ],
    ids=["too few old", "strangers", "one old twice", "too few new", "one new twice", "threshold zero"],
)
def test_a_root_without_enough_signatures_is_not_made(
    old: list[Signer], new: list[Signer], threshold: int | None
) -> None:
    root = first_root([signer(10), signer(11)], ONLINE, NOW, LIFETIMES, threshold=2)
    with pytest.raises(ValueError, match=r"threshold|signed by enough"):
        next_root(root, old, new, ONLINE, NOW, LIFETIMES, threshold)


def test_a_root_needs_as_many_keys_as_its_threshold() -> None:
    with pytest.raises(ValueError, match="threshold of 2"):
        first_root([ROOT_KEY], ONLINE, NOW, LIFETIMES, threshold=2)
    with pytest.raises(ValueError, match="threshold"):
        first_root([], ONLINE, NOW, LIFETIMES)


def test_files_are_named_as_a_tuf_client_asks_for_them() -> None:
    manifest = resign(content(release(), previous=content()), ONLINE, 1, NOW, LIFETIMES)
    assert set(tuf_files(manifest)) == {"timestamp.json", "2.snapshot.json", "2.targets.json"}
    assert manifest.revision == 3
    assert root_file_name(12) == "12.root.json"


@pytest.mark.parametrize("data", [b"", b"{}", b"\xff", ROOT, b"[" * 10_000])
def test_what_is_no_targets_metadata_has_no_releases(data: bytes) -> None:
    with pytest.raises(InvalidManifest):
        releases_of(data)


steps = st.lists(st.sampled_from(["content", "resign", "online", "root"]), max_size=8)
pauses = st.lists(st.integers(0, 60), min_size=8, max_size=8)


@settings(max_examples=50)
@given(steps, pauses)
def test_any_order_of_publishing_signing_and_rotating_stays_consistent_and_moves_on(
    happenings: list[str], days: list[int]
) -> None:
    now, root, root_key, online, manifest = NOW, ROOT, ROOT_KEY, ONLINE, content()
    for number, (happening, pause) in enumerate(zip(happenings, days, strict=False)):
        now += timedelta(days=pause)
        before = manifest
        if happening == "content":
            offered = [release(version=number + 1)]
            manifest = sign_content(offered, before, online, root_version(root), now, LIFETIMES)
        else:
            new_online = signer(100 + number) if happening == "online" else online
            new_root = signer(50 + number) if happening == "root" else root_key
            if happening != "resign":
                root = next_root(root, [root_key], [new_root], new_online, now, LIFETIMES)
            root_key, online = new_root, new_online
            manifest = resign(before, online, root_version(root), now, LIFETIMES)
            assert releases_of(manifest.targets) == releases_of(before.targets)
        assert_consistent(manifest, root)
        assert manifest.revision == before.revision + 1
        assert manifest.root == root_version(root)
        assert manifest.snapshot_version - before.snapshot_version in (0, 1)
        assert manifest.targets_version - before.targets_version in (0, 1)
        assert manifest.expires == now + LIFETIMES.timestamp
