"""An unmodified TUF client on our metadata: it updates, and it withstands each attack of the TUF specification."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from tuf.api.exceptions import (
    BadVersionNumberError,
    DownloadHTTPError,
    DownloadLengthMismatchError,
    ExpiredMetadataError,
    LengthOrHashMismatchError,
    UnsignedMetadataError,
)

from manifests.canonical_json import canonical
from manifests.trust import SignedManifest, next_root, releases_of, root_file_name, sign_content, tuf_files
from tests.manifests.builders import LIFETIMES, Repository, artifact_of, days_ago, release, signer


@pytest.mark.parametrize("model", ["digits", "silero vad", "größe", "a/b", "100%", "数字", "q?x=1#y", "...", "-"])
def test_refreshes_finds_and_downloads_a_target_of_any_model_name(tmp_path: Path, model: str) -> None:
    wanted = release(model, 3)
    repository = Repository([wanted, release("other", 9)])
    updater = repository.updater(tmp_path)
    updater.refresh()
    target = updater.get_targetinfo(wanted.path)
    assert target is not None
    downloaded = updater.download_target(target, str(tmp_path / "download"))
    assert Path(downloaded).read_bytes() == artifact_of(model, 3)
    assert releases_of((tmp_path / "metadata" / "targets.json").read_bytes()) == releases_of(
        repository.manifest.targets
    )


def test_follows_content_that_changes_and_content_that_is_only_signed_anew(tmp_path: Path) -> None:
    repository = Repository([release(version=1)])
    repository.updater(tmp_path).refresh()
    repository.publish(release(version=2))
    updater = repository.updater(tmp_path)
    assert updater.get_targetinfo(release(version=2).path) is not None
    assert updater.get_targetinfo(release(version=1).path) is None
    repository.resign()
    repository.fetched.clear()
    repository.updater(tmp_path).refresh()
    assert repository.fetched == ["2.root.json", "timestamp.json"]


def test_follows_root_rotations_that_it_slept_through(tmp_path: Path) -> None:
    repository = Repository([release()])
    repository.updater(tmp_path).refresh()
    for seed in (2, 3, 4):
        repository.rotate_root(signer(seed))
    assert repository.root == 4
    repository.updater(tmp_path).refresh()
    repository.updater(tmp_path / "a new installation").refresh()


def test_follows_a_rotation_of_the_online_key(tmp_path: Path) -> None:
    repository = Repository([release()])
    repository.updater(tmp_path).refresh()
    repository.rotate_online(signer(77))
    updater = repository.updater(tmp_path)
    assert updater.get_targetinfo(release().path) is not None
    assert repository.manifest.targets_version == 2


def test_arbitrary_software_is_refused(tmp_path: Path) -> None:
    repository = Repository([release()])
    updater = repository.updater(tmp_path)
    target = updater.get_targetinfo(release().path)
    assert target is not None
    for name, data in repository.targets.items():
        repository.targets[name] = b"x" * len(data)
    with pytest.raises(LengthOrHashMismatchError):
        updater.download_target(target, str(tmp_path / "download"))


def test_changed_metadata_is_refused(tmp_path: Path) -> None:
    repository = Repository([release()])
    repository.replaced["1.targets.json"] = repository.manifest.targets.replace(b"digits", b"widget")
    with pytest.raises(UnsignedMetadataError):
        repository.updater(tmp_path).refresh()


def test_metadata_signed_with_a_wrong_key_is_refused(tmp_path: Path) -> None:
    repository = Repository([release()])
    repository.manifest = sign_content([release()], None, signer(66), 1, repository.now, LIFETIMES)
    with pytest.raises(UnsignedMetadataError):
        repository.updater(tmp_path).refresh()


def test_metadata_of_another_environment_is_refused(tmp_path: Path) -> None:
    repository = Repository([release()])
    repository.manifest = Repository([release(version=2)], seed=9).manifest
    with pytest.raises(UnsignedMetadataError):
        repository.updater(tmp_path).refresh()


def test_a_rollback_to_an_earlier_manifest_is_refused(tmp_path: Path) -> None:
    repository = Repository([release(version=1)])
    earlier = repository.manifest
    repository.publish(release(version=2))
    repository.updater(tmp_path).refresh()
    repository.manifest = earlier
    with pytest.raises(BadVersionNumberError):
        repository.updater(tmp_path).refresh()


def test_an_indefinite_freeze_ends_with_the_timestamp_s_life(tmp_path: Path) -> None:
    repository = Repository([release()], now=days_ago(8))
    with pytest.raises(ExpiredMetadataError):
        repository.updater(tmp_path).refresh()


def test_mixed_files_of_two_manifests_are_refused(tmp_path: Path) -> None:
    repository = Repository([release(version=1)])
    earlier = repository.manifest
    repository.publish(release(version=2))
    repository.replaced["2.targets.json"] = earlier.targets
    with pytest.raises(BadVersionNumberError):
        repository.updater(tmp_path).refresh()
    del repository.replaced["2.targets.json"]
    repository.replaced["2.snapshot.json"] = earlier.snapshot
    with pytest.raises(BadVersionNumberError):
        repository.updater(tmp_path / "another").refresh()


def test_endless_data_is_cut_off(tmp_path: Path) -> None:
    class Endless(Repository):
        def _fetch(self, url: str) -> Iterator[bytes]:
            return itertools.repeat(b" " * 4096) if "timestamp" in url else super()._fetch(url)

    with pytest.raises(DownloadLengthMismatchError):
        Endless([release()]).updater(tmp_path).refresh()


def test_a_stolen_online_key_is_worth_nothing_after_its_rotation(tmp_path: Path) -> None:
    repository = Repository([release()])
    stolen = repository.online
    repository.updater(tmp_path).refresh()
    repository.rotate_online(signer(77))
    repository.manifest = sign_content([release(version=66)], repository.manifest, stolen, 2, repository.now, LIFETIMES)
    with pytest.raises(UnsignedMetadataError):
        repository.updater(tmp_path).refresh()


def test_a_fast_forward_with_a_stolen_key_is_undone_by_rotating_it(tmp_path: Path) -> None:
    repository = Repository([release()])
    honest = repository.manifest
    far = [data.replace(b'"version":1}', b'"version":2000000000}') for data in (honest.snapshot, honest.targets)]
    forwarded = SignedManifest(1, honest.timestamp.replace(b'"version":1}', b'"version":2000000000}'), *far)
    repository.manifest = sign_content(
        [release(version=66)], forwarded, repository.online, 1, repository.now, LIFETIMES
    )
    updater = repository.updater(tmp_path)
    assert updater.get_targetinfo(release(version=66).path) is not None
    assert repository.manifest.revision == 2_000_000_001
    repository.manifest = honest
    repository.rotate_online(signer(77))
    assert repository.manifest.revision == 2
    updater = repository.updater(tmp_path)
    assert updater.get_targetinfo(release().path) is not None
    assert updater.get_targetinfo(release(version=66).path) is None


def test_a_stolen_root_key_is_worth_nothing_after_its_rotation(tmp_path: Path) -> None:
    repository = Repository([release()])
    stolen = repository.root_signer
    repository.rotate_root(signer(2))
    believed = repository.roots[1].replace(b'"version":1}', b'"version":2}')
    repository.updater(tmp_path).refresh()
    repository.replaced["3.root.json"] = next_root(believed, [stolen], [stolen], signer(66), repository.now, LIFETIMES)
    with pytest.raises(UnsignedMetadataError):
        repository.updater(tmp_path).refresh()


def test_a_root_that_only_its_own_new_key_signed_is_refused(tmp_path: Path) -> None:
    repository = Repository([release()])
    stranger = Repository([release()], seed=40)
    stranger.rotate_root(signer(41))
    repository.replaced[root_file_name(2)] = stranger.roots[2]
    with pytest.raises(UnsignedMetadataError):
        repository.updater(tmp_path).refresh()


def test_a_skipped_root_is_refused(tmp_path: Path) -> None:
    repository = Repository([release()])
    repository.rotate_online(signer(2))
    repository.rotate_online(signer(3))
    repository.replaced[root_file_name(2)] = repository.roots[3]
    with pytest.raises(BadVersionNumberError):
        repository.updater(tmp_path).refresh()


def test_an_expired_root_is_refused_until_the_next_one(tmp_path: Path) -> None:
    repository = Repository([release()], now=days_ago(366))
    repository.now = days_ago(0)
    repository.resign()
    with pytest.raises(ExpiredMetadataError):
        repository.updater(tmp_path).refresh()
    repository.rotate_root(repository.root_signer)
    repository.updater(tmp_path).refresh()


def test_a_missing_file_is_a_failed_download(tmp_path: Path) -> None:
    repository = Repository([release()])
    first_files = tuf_files(repository.manifest)
    repository.files = lambda: {"timestamp.json": first_files["timestamp.json"]}  # type: ignore[method-assign]
    with pytest.raises(DownloadHTTPError):
        repository.updater(tmp_path).refresh()


def test_metadata_files_are_canonical_json() -> None:
    repository = Repository([release("größe")])
    for data in repository.files().values():
        assert canonical(json.loads(data)) == data
