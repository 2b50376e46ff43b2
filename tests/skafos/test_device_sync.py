"""A device checks for an update: what it does in every situation that the design names."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import random
import shutil
import threading
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from artifacts.archive import ArchiveInfo, archive_directory
from artifacts.encodings import IDENTITY, SKAFOS_DELTA, ZSTD, ZSTD_PREFIX
from artifacts.patch import apply
from artifacts.patch.decode import Decoder
from artifacts.patch.journal import Checkpoint
from artifacts.patch.limits import PatchLimits
from manifests.model import Condition
from skafos.device import (
    ArtifactRejected,
    DeviceClient,
    DeviceError,
    DirectoryBusy,
    DiskFailed,
    EdgeUnavailable,
    Facts,
    ManifestRejected,
    NoModel,
    NoSpace,
    Retry,
    UnknownKey,
)
from skafos.device.lock import locked
from skafos.device.slots import SEEN_SUFFIX, ModelSlots
from tests.skafos.conftest import MakeDevice
from tests.skafos.failing_disk import undeletable, unreadable, unwritable
from tests.skafos.repository import Reply, Repository, Request, Served, Version, refusal

WEIGHTS = bytes(range(256)) * 400
FILES_1 = {"Model/weights.bin": WEIGHTS, "labels.txt": b"cat\n"}
FILES_2 = {"Model/weights.bin": WEIGHTS + b"!", "labels.txt": b"cat\ndog\n"}


def files_in(folder: Path | None) -> dict[str, bytes]:
    assert folder is not None
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def versions(repository: Repository) -> tuple[Version, Version]:
    """Two versions, the second also as a patch of the first. The first is offered."""
    first = repository.add_version(1, FILES_1)
    second = repository.add_version(2, FILES_2, bases=[first])
    repository.offer(first.release)
    return first, second


# Weights that nothing compresses, so that a patch is worth its while.
NOISE = random.Random(1).randbytes(100_000)
TUNED = {"m.bin": NOISE[:70_000] + b"tuned" + NOISE[70_005:]}


@pytest.fixture
def tuned(repository: Repository) -> tuple[Version, Version]:
    """Two versions, the second also as a patch of the kind that knows tensors. The first is offered."""
    first = repository.add_version(1, {"m.bin": NOISE})
    second = repository.add_version(2, TUNED, bases=[first], patches=SKAFOS_DELTA)
    repository.offer(first.release)
    return first, second


def test_a_new_device_downloads_the_smallest_full_encoding(
    versions: tuple[Version, Version], make_device: MakeDevice
) -> None:
    result = make_device().sync("vision")
    smallest = min(encoding.length for encoding in versions[0].release.encodings)
    assert (result.status, result.version, result.previous) == ("updated", 1, None)
    assert (result.encoding, result.bytes, result.full_bytes) == (ZSTD, smallest, smallest)
    assert files_in(result.path) == FILES_1


def test_a_device_that_is_up_to_date_asks_with_its_etag_and_downloads_nothing(
    repository: Repository, versions: tuple[Version, Version], make_device: MakeDevice
) -> None:
    device = make_device()
    device.sync("vision")
    asked = len(repository.asked("/artifacts/"))
    result = device.sync("vision")
    assert (result.status, result.version, result.bytes) == ("current", 1, 0)
    assert "if-none-match" in repository.asked("/manifest")[-1].headers
    assert len(repository.asked("/artifacts/")) == asked


def test_the_next_version_comes_as_a_patch_of_the_one_in_use(
    repository: Repository, versions: tuple[Version, Version], make_device: MakeDevice
) -> None:
    device = make_device()
    device.sync("vision")
    repository.offer(versions[1].release)
    result = device.sync("vision")
    assert (result.status, result.version, result.previous, result.encoding) == ("updated", 2, 1, ZSTD_PREFIX)
    assert result.bytes < result.full_bytes
    assert files_in(result.path) == FILES_2
    assert files_in(device.load("vision").path) == FILES_2


def test_the_next_version_comes_as_a_patch_that_knows_tensors(
    repository: Repository, tuned: tuple[Version, Version], make_device: MakeDevice, tmp_path: Path
) -> None:
    _, second = tuned
    device = make_device()
    device.sync("vision")
    repository.offer(second.release)
    result = device.sync("vision")
    patch = next(encoding for encoding in second.release.encodings if encoding.base)
    assert (result.status, result.version, result.previous) == ("updated", 2, 1)
    assert (result.encoding, result.bytes) == (SKAFOS_DELTA, patch.length)
    assert files_in(result.path) == TUNED
    assert repository.events_of("download")[-1]["encoding"] == SKAFOS_DELTA
    assert not (tmp_path / "device/vision/work").exists()


@pytest.mark.parametrize("trouble", ["damaged", "leads elsewhere", "costly", "for another base"])
def test_a_patch_that_knows_tensors_and_fails_is_replaced_by_the_full_artifact(
    repository: Repository, tuned: tuple[Version, Version], make_device: MakeDevice, trouble: str
) -> None:
    first, second = tuned
    device = make_device(patch_limits=PatchLimits(max_apply_bytes=1000 if trouble == "costly" else 8 << 20))
    device.sync("vision")
    release = second.release
    patch = next(encoding for encoding in release.encodings if encoding.base)
    full = [encoding for encoding in release.encodings if not encoding.base]
    if trouble == "damaged":
        repository.blobs[patch.blob] = repository.blobs[patch.blob][:-1] + b"?"
    elif trouble == "leads elsewhere":
        wrong = repository.add_version(3, {"m.bin": b"else"}, bases=[first], patches=SKAFOS_DELTA)
        other = next(encoding for encoding in wrong.release.encodings if encoding.base)
        release = replace(release, encodings=(other, *full))
    elif trouble == "for another base":
        third = repository.add_version(3, {"m.bin": b"another base" + NOISE[12:]})
        wrong = repository.add_version(2, TUNED, bases=[third], patches=SKAFOS_DELTA)
        other = next(encoding for encoding in wrong.release.encodings if encoding.base)
        release = replace(release, encodings=(replace(other, base=first.info.sha256), *full))
    repository.offer(release)
    result = device.sync("vision")
    assert (result.version, result.encoding) == (2, IDENTITY)
    assert files_in(result.path) == TUNED
    assert "encoding_failed: skafos-delta" in repository.events_of("error")[-1]["error"]


def test_applying_a_patch_goes_on_where_it_was_interrupted(
    repository: Repository, tuned: tuple[Version, Version], make_device: MakeDevice, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, second = tuned
    device = make_device()
    device.sync("vision")
    repository.offer(second.release)
    monkeypatch.setattr(apply, "CHECKPOINT_BYTES", 20_000)
    restored: list[int] = []
    write, restore = Decoder.checkpoint, Decoder.restore

    def interrupt(decoder: Decoder) -> Checkpoint | None:
        if (checkpoint := write(decoder)) is not None and checkpoint.target > 60_000:
            raise KeyboardInterrupt
        return checkpoint

    def note(decoder: Decoder, checkpoint: Checkpoint, patch: Any) -> None:
        restored.append(checkpoint.target)
        restore(decoder, checkpoint, patch)

    monkeypatch.setattr(Decoder, "checkpoint", interrupt)
    monkeypatch.setattr(Decoder, "restore", note)
    with pytest.raises(KeyboardInterrupt):
        device.sync("vision")
    assert restored == []
    monkeypatch.setattr(Decoder, "checkpoint", write)
    result = device.sync("vision")
    assert (result.version, result.encoding, files_in(result.path)) == (2, SKAFOS_DELTA, TUNED)
    assert 20_000 <= restored[0] <= 60_000


def test_a_version_that_was_in_use_before_is_activated_without_a_download(
    repository: Repository, versions: tuple[Version, Version], make_device: MakeDevice
) -> None:
    device = make_device()
    device.sync("vision")
    repository.offer(versions[1].release)
    device.sync("vision")
    asked = len(repository.asked("/artifacts/"))
    repository.offer(versions[0].release)
    result = device.sync("vision")
    assert (result.status, result.version, result.previous, result.bytes) == ("updated", 1, 2, 0)
    assert files_in(result.path) == FILES_1
    assert len(repository.asked("/artifacts/")) == asked


def test_a_previous_version_that_was_damaged_is_downloaded_again(
    repository: Repository, versions: tuple[Version, Version], make_device: MakeDevice
) -> None:
    device = make_device()
    first = device.sync("vision").path
    repository.offer(versions[1].release)
    device.sync("vision")
    assert first is not None
    (first / "labels.txt").write_bytes(b"CAT\n")
    repository.offer(versions[0].release)
    result = device.sync("vision")
    assert result.bytes > 0
    assert files_in(result.path) == FILES_1


@pytest.mark.parametrize("damage", ["gone", "short"])
def test_a_version_in_use_that_lost_a_file_is_made_whole(
    versions: tuple[Version, Version], make_device: MakeDevice, damage: str
) -> None:
    device = make_device()
    path = device.sync("vision").path
    assert path is not None
    if damage == "gone":
        (path / "labels.txt").unlink()
    else:
        (path / "labels.txt").write_bytes(b"")
    with pytest.raises(NoModel):
        device.load("vision")
    result = device.sync("vision")
    assert result.status == "updated"
    assert files_in(result.path) == FILES_1


def damage(path: Path | None) -> None:
    """Change bytes of a version without changing a length, as a failing disk does."""
    assert path is not None
    (path / "labels.txt").write_bytes((path / "labels.txt").read_bytes().upper())


@pytest.fixture
def two_held(
    repository: Repository, versions: tuple[Version, Version], make_device: MakeDevice
) -> tuple[DeviceClient, Path]:
    """A device with version 2 in use and version 1 before it, and the folder of version 2."""
    device = make_device()
    device.sync("vision")
    repository.offer(versions[1].release)
    path = device.sync("vision").path
    assert path is not None
    return device, path


@pytest.mark.parametrize("how", ["bytes", "gone", "link"])
def test_without_an_edge_the_version_before_serves_for_one_that_is_damaged(
    repository: Repository, served: Served, two_held: tuple[DeviceClient, Path], how: str
) -> None:
    device, path = two_held
    if how == "bytes":
        damage(path)
    else:
        (path / "labels.txt").unlink()
    if how == "link":
        (path / "labels.txt").symlink_to("/dev/null")
    served.stop()
    result = device.sync("vision")
    assert (result.status, result.version) == ("offline", 1)
    assert result.detail is not None
    assert "version 2 on this device are damaged; version 1 serves" in result.detail
    assert files_in(result.path) == FILES_1
    assert device.load("vision").path == result.path
    assert device.sync("vision").version == 1
    again = Served(repository)
    with again, DeviceClient(again.url, repository.key, result.path.parents[2]) as online:
        healed = online.sync("vision")
    assert (healed.status, healed.version, healed.previous) == ("updated", 2, 1)
    assert files_in(healed.path) == FILES_2
    told = [event for event in repository.events_of("error") if event["error"].startswith("version_damaged")]
    assert [(event["version"], event["from_version"]) for event in told] == [(2, 1)]


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The folders of which every byte was read, in order."""
    folders: list[Path] = []

    def reading(directory: Path, *arguments: Any) -> ArchiveInfo:
        folders.append(directory)
        return archive_directory(directory, *arguments)

    monkeypatch.setattr("skafos.device.slots.archive_directory", reading)
    return folders


def test_files_that_look_as_they_did_are_not_read_at_each_check(
    two_held: tuple[DeviceClient, Path], read: list[Path]
) -> None:
    device, path = two_held
    for _ in range(3):
        assert device.sync("vision").status == "current"
    assert read == [path]
    os.utime(path / "labels.txt")
    assert device.sync("vision").status == "current"
    assert read == [path, path]


@pytest.mark.parametrize("at", [0, 99_999_999_999, None])
def test_files_are_read_again_when_that_was_long_ago_or_cannot_be_told(
    two_held: tuple[DeviceClient, Path], read: list[Path], at: float | None
) -> None:
    device, path = two_held
    device.sync("vision")
    seen = path.with_name(path.name + SEEN_SUFFIX)
    seen.write_text(json.dumps(json.loads(seen.read_text()) | {"at": at}))
    device.sync("vision")
    assert read == [path, path]


def test_what_was_seen_of_a_version_goes_with_it(repository: Repository, two_held: tuple[DeviceClient, Path]) -> None:
    device, path = two_held
    device.sync("vision")
    for number in (3, 4):
        repository.offer(repository.add_version(number, {"model.bin": bytes([number])}).release)
        device.sync("vision")
    assert not list(path.parent.glob(f"{path.name}*"))


def test_a_version_in_use_whose_bytes_changed_is_made_whole_by_a_patch_of_the_one_before(
    repository: Repository, two_held: tuple[DeviceClient, Path]
) -> None:
    device, path = two_held
    damage(path)
    result = device.sync("vision")
    assert (result.status, result.version, result.previous, result.encoding) == ("updated", 2, 1, ZSTD_PREFIX)
    assert result.detail is not None
    assert files_in(result.path) == FILES_2
    assert files_in(device.load("vision").path) == FILES_2
    assert not path.exists()
    assert device.sync("vision").status == "current"


def test_when_every_held_version_is_damaged_the_full_artifact_is_downloaded(
    repository: Repository, versions: tuple[Version, Version], two_held: tuple[DeviceClient, Path], served: Served
) -> None:
    device, path = two_held
    for folder in path.parent.iterdir():
        if folder.is_dir():
            damage(folder)
    result = device.sync("vision")
    assert (result.status, result.version, result.previous, result.encoding) == ("updated", 2, None, ZSTD)
    assert files_in(result.path) == FILES_2


def test_a_damaged_version_with_nothing_before_it_is_not_loaded(
    versions: tuple[Version, Version], served: Served, make_device: MakeDevice
) -> None:
    device = make_device()
    damage(device.sync("vision").path)
    served.stop()
    with pytest.raises(EdgeUnavailable):
        device.sync("vision")
    with pytest.raises(NoModel):
        device.load("vision")


def test_a_damaged_version_gives_way_to_the_one_before_also_by_a_roll_back(
    repository: Repository, versions: tuple[Version, Version], two_held: tuple[DeviceClient, Path]
) -> None:
    device, path = two_held
    damage(path)
    repository.offer(versions[0].release)
    result = device.sync("vision")
    assert (result.status, result.version) == ("current", 1)
    assert device.load("vision").path == result.path
    assert not path.exists()


def test_a_version_that_cannot_be_read_now_is_kept_and_the_one_before_serves(
    served: Served, two_held: tuple[DeviceClient, Path]
) -> None:
    device, path = two_held
    served.stop()
    with unreadable(f"{path}/", errno.EIO):
        result = device.sync("vision")
    assert (result.status, result.version) == ("offline", 1)
    assert device.sync("vision").version == 2
    assert device.load("vision").path == path


def test_a_version_that_cannot_be_read_is_neither_base_nor_source_but_downloaded_in_full(
    repository: Repository, versions: tuple[Version, Version], make_device: MakeDevice
) -> None:
    device = make_device()
    path = device.sync("vision").path
    assert path is not None
    with unreadable(str(path / "Model"), errno.EIO):
        again = device.sync("vision")
        repository.offer(versions[1].release)
        result = device.sync("vision")
    assert (again.status, again.version, again.encoding) == ("updated", 1, ZSTD)
    assert files_in(again.path) == FILES_1
    assert (result.status, result.version) == ("updated", 2)


def test_the_bytes_of_a_version_that_cannot_be_read_are_no_source_for_another_number(
    repository: Repository, versions: tuple[Version, Version], make_device: MakeDevice
) -> None:
    device = make_device()
    path = device.sync("vision").path
    assert path is not None
    repository.offer(repository.add_version(7, FILES_1).release)
    with unreadable(str(path / "Model"), errno.EIO):
        result = device.sync("vision")
    assert (result.status, result.version, result.encoding) == ("updated", 7, ZSTD)
    assert files_in(result.path) == FILES_1


def test_files_that_an_app_puts_beside_a_model_are_no_damage(
    repository: Repository, versions: tuple[Version, Version], make_device: MakeDevice
) -> None:
    device = make_device()
    path = device.sync("vision").path
    assert path is not None
    (path / "compiled.cache").write_bytes(b"made by the app")
    assert device.sync("vision").status == "current"
    repository.offer(versions[1].release)
    assert device.sync("vision").encoding == ZSTD_PREFIX


def test_a_bundle_whose_bytes_are_not_those_of_its_record_is_not_current(
    repository: Repository, versions: tuple[Version, Version], make_device: MakeDevice, bundle: Path
) -> None:
    made = make_device("build machine").sync("vision").path
    assert made is not None
    shutil.copy(made.with_name(made.name + ".json"), bundle / "vision.json")
    damage(bundle / "vision")
    result = make_device(bundle=bundle).sync("vision")
    assert (result.status, result.version, result.previous, result.encoding) == ("updated", 1, None, ZSTD)
    assert files_in(result.path) == FILES_1


def test_activating_the_version_in_use_changes_nothing(two_held: tuple[DeviceClient, Path], tmp_path: Path) -> None:
    slots = ModelSlots(tmp_path / "device", "vision")
    links = [tmp_path / "device/vision" / name for name in ("current", "previous")]
    before = [(link.readlink(), link.lstat().st_ino) for link in links]
    current = slots.usable()
    assert current is not None
    slots.activate(current, slots.previous())
    assert [(link.readlink(), link.lstat().st_ino) for link in links] == before


def test_only_the_version_in_use_and_the_one_before_are_kept(
    repository: Repository, make_device: MakeDevice, tmp_path: Path
) -> None:
    device = make_device()
    for number in (1, 2, 3, 4):
        repository.offer(repository.add_version(number, {"m.bin": b"x" * number}).release)
        device.sync("vision")
    kept = {path.name.split("-")[0] for path in (tmp_path / "device/vision/versions").iterdir() if path.is_dir()}
    assert kept == {"3", "4"}
    assert not (tmp_path / "device/vision/work").exists()


def test_the_same_bytes_under_a_new_number_are_not_downloaded(
    repository: Repository, versions: tuple[Version, Version], make_device: MakeDevice
) -> None:
    device = make_device()
    device.sync("vision")
    asked = len(repository.asked("/artifacts/"))
    repository.offer(repository.add_version(7, FILES_1).release)
    result = device.sync("vision")
    assert (result.status, result.version, result.bytes, result.encoding) == ("updated", 7, 0, None)
    assert files_in(result.path) == FILES_1
    assert len(repository.asked("/artifacts/")) == asked


# --- patches that do not do


def fail_patch(repository: Repository, second: Version, how: str) -> None:
    blob = next(encoding.blob for encoding in second.release.encodings if encoding.base)
    if how == "missing":
        repository.blobs.pop(blob)
    elif how == "other bytes":
        repository.blobs[blob] = bytes(len(repository.blobs[blob]))
    elif how == "shorter":
        repository.blobs[blob] = repository.blobs[blob][:-1]


@pytest.mark.parametrize("how", ["missing", "other bytes", "shorter"])
def test_a_patch_that_cannot_be_had_is_replaced_by_the_full_artifact(
    repository: Repository, versions: tuple[Version, Version], make_device: MakeDevice, how: str
) -> None:
    device = make_device()
    device.sync("vision")
    repository.offer(versions[1].release)
    fail_patch(repository, versions[1], how)
    result = device.sync("vision")
    assert (result.version, result.encoding) == (2, ZSTD)
    assert files_in(result.path) == FILES_2
    assert "encoding_failed: zstd-prefix" in repository.events_of("error")[-1]["error"]


@pytest.mark.parametrize("how", ["missing", "other bytes", "leads elsewhere", "unreadable base"])
def test_what_a_failed_patch_left_is_gone_before_the_full_artifact_is_downloaded(
    repository: Repository, versions: tuple[Version, Version], make_device: MakeDevice, tmp_path: Path, how: str
) -> None:
    device = make_device()
    path = device.sync("vision").path
    assert path is not None
    release = versions[1].release
    if how == "leads elsewhere":
        wrong = repository.add_version(3, {"m.bin": b"else"}, bases=[versions[0]])
        patch = next(encoding for encoding in wrong.release.encodings if encoding.base)
        release = replace(release, encodings=(patch, *(each for each in release.encodings if not each.base)))
    repository.offer(release)
    fail_patch(repository, versions[1], how)
    full = next(encoding.blob for encoding in release.encodings if encoding.name == ZSTD)
    lying_there: list[list[str]] = []

    def look(request: Request) -> None:
        if full in request.path:
            lying_there.append(sorted(file.name for file in (tmp_path / "device/vision/work").iterdir()))

    repository.intercept = look
    with unreadable(str(path / "Model"), errno.EIO) if how == "unreadable base" else nullcontext():
        assert device.sync("vision").encoding == ZSTD
    assert lying_there == [[]]


def test_a_patch_that_leads_elsewhere_is_replaced_by_the_full_artifact(
    repository: Repository, versions: tuple[Version, Version], make_device: MakeDevice
) -> None:
    """The blob is the one that was signed, but applying it gives other bytes: a mistake of the publisher's."""
    device = make_device()
    device.sync("vision")
    wrong = repository.add_version(3, {"m.bin": b"else"}, bases=[versions[0]])
    patch = next(encoding for encoding in wrong.release.encodings if encoding.base)
    full = [encoding for encoding in versions[1].release.encodings if not encoding.base]
    repository.offer(replace(versions[1].release, encodings=(patch, *full)))
    result = device.sync("vision")
    assert (result.version, result.encoding) == (2, ZSTD)


def test_a_patch_over_the_memory_limit_is_replaced_by_the_full_artifact(
    repository: Repository, versions: tuple[Version, Version], make_device: MakeDevice
) -> None:
    device = make_device(patch_limits=PatchLimits(max_apply_bytes=1000))
    device.sync("vision")
    repository.offer(versions[1].release)
    assert device.sync("vision").encoding == ZSTD


def test_a_patch_whose_base_was_changed_on_the_device_is_not_even_downloaded(
    repository: Repository, versions: tuple[Version, Version], make_device: MakeDevice
) -> None:
    device = make_device()
    path = device.sync("vision").path
    assert path is not None
    (path / "labels.txt").write_bytes(b"CAT\n")
    repository.offer(versions[1].release)
    result = device.sync("vision")
    assert (result.version, result.encoding) == (2, ZSTD)
    patch = next(encoding.blob for encoding in versions[1].release.encodings if encoding.base)
    assert repository.asked(patch) == []


def test_encodings_that_are_not_known_are_skipped(
    repository: Repository, versions: tuple[Version, Version], make_device: MakeDevice
) -> None:
    release = versions[0].release
    unknown = replace(release.encodings[0], name="zstd-tensors", length=1)
    repository.offer(replace(release, encodings=(unknown, *release.encodings)))
    assert make_device().sync("vision").encoding == ZSTD


def test_a_release_of_unknown_encodings_only_is_rejected_and_says_so(
    repository: Repository, versions: tuple[Version, Version], make_device: MakeDevice
) -> None:
    release = versions[0].release
    repository.offer(replace(release, encodings=(replace(release.encodings[0], name="zstd-tensors"),)))
    with pytest.raises(ArtifactRejected, match="known to this client"):
        make_device().sync("vision")


# --- downloads that break


def test_a_download_that_was_cut_off_is_resumed_where_it_stopped(
    repository: Repository, make_device: MakeDevice
) -> None:
    content = {"m.bin": bytes(300_000)}
    version = repository.add_version(1, content, encodings=[IDENTITY])
    repository.offer(version.release)
    cuts = iter([100_000, 200_000])

    def cut(request: Request) -> Reply | None:
        if "/artifacts/" not in request.path or (end := next(cuts, None)) is None:
            return None
        repository.intercept, reply = (lambda again: None), repository.answer(request)
        repository.intercept = cut
        return replace(reply, cut=end - (300_000 - len(reply.body) + 2_048))

    repository.intercept = cut
    result = make_device().sync("vision")
    assert files_in(result.path) == content
    assert result.bytes == version.release.length
    later = [request.headers for request in repository.asked("/artifacts/") if "range" in request.headers]
    assert later
    assert all(headers["if-range"] == f'"{version.info.sha256}"' for headers in later)


def test_what_was_downloaded_before_the_network_failed_is_used_at_the_next_check(
    repository: Repository, make_device: MakeDevice
) -> None:
    version = repository.add_version(1, {"m.bin": bytes(300_000)}, encodings=[IDENTITY])
    repository.offer(version.release)
    whole = repository.blobs[version.info.sha256]

    def fail(request: Request) -> Reply | None:
        if "/artifacts/" not in request.path:
            return None
        etag = {"ETag": f'"{version.info.sha256}"'}
        return Reply(503) if "range" in request.headers else Reply(200, whole, etag, cut=200_000)

    repository.intercept = fail
    with pytest.raises(EdgeUnavailable):
        make_device().sync("vision")
    repository.intercept = lambda request: None
    result = make_device().sync("vision")
    assert result.status == "updated"
    assert result.bytes < version.release.length


def test_a_blob_that_changed_under_its_tag_is_downloaded_from_its_start(
    repository: Repository, make_device: MakeDevice, tmp_path: Path
) -> None:
    version = repository.add_version(1, {"m.bin": bytes(300_000)}, encodings=[IDENTITY])
    repository.offer(version.release)
    part = tmp_path / f"device/vision/work/blob-{version.info.sha256}"
    part.parent.mkdir(parents=True)
    part.write_bytes(b"?" * 1000)
    part.with_name(part.name + ".etag").write_text('"something else"')
    assert make_device().sync("vision").bytes == version.release.length


def test_a_part_that_is_damaged_on_the_disk_costs_one_whole_download(
    repository: Repository, make_device: MakeDevice, tmp_path: Path
) -> None:
    version = repository.add_version(1, {"m.bin": bytes(300_000)}, encodings=[IDENTITY])
    repository.offer(version.release)
    part = tmp_path / f"device/vision/work/blob-{version.info.sha256}"
    part.parent.mkdir(parents=True)
    part.write_bytes(b"?" * 1000)
    part.with_name(part.name + ".etag").write_text(f'"{version.info.sha256}"')
    result = make_device().sync("vision")
    assert result.status == "updated"
    assert result.bytes == 2 * version.release.length - 1000


def test_an_edge_that_is_busy_is_asked_again(
    repository: Repository, versions: tuple[Version, Version], make_device: MakeDevice
) -> None:
    busy = iter([True])
    repository.intercept = lambda request: Reply(503, headers={"Retry-After": "1"}) if next(busy, False) else None
    assert make_device().sync("vision").status == "updated"


# --- offline


def test_without_an_edge_the_version_in_use_serves(
    served: Served, versions: tuple[Version, Version], make_device: MakeDevice
) -> None:
    device = make_device()
    device.sync("vision")
    served.stop()
    result = device.sync("vision")
    assert (result.status, result.version) == ("offline", 1)
    assert result.detail
    assert files_in(result.path) == FILES_1


def test_without_an_edge_and_without_a_version_the_error_says_so(
    served: Served, versions: tuple[Version, Version], make_device: MakeDevice
) -> None:
    served.stop()
    device = make_device()
    with pytest.raises(EdgeUnavailable, match="cannot be reached"):
        device.sync("vision")
    with pytest.raises(NoModel):
        device.load("vision")


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """What an app ships: the first version's files."""
    folder = tmp_path / "bundle"
    for name, content in FILES_1.items():
        (folder / "vision" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "vision" / name).write_bytes(content)
    return folder


def test_without_an_edge_the_bundled_version_serves(served: Served, make_device: MakeDevice, bundle: Path) -> None:
    served.stop()
    result = make_device(bundle=bundle).sync("vision")
    assert (result.status, result.version) == ("offline", None)
    assert files_in(result.path) == FILES_1


def test_a_bundled_version_with_its_record_is_current_and_the_base_of_the_first_patch(
    repository: Repository, versions: tuple[Version, Version], make_device: MakeDevice, bundle: Path, tmp_path: Path
) -> None:
    made = make_device("build machine").sync("vision").path
    assert made is not None
    shutil.copy(made.with_name(made.name + ".json"), bundle / "vision.json")
    device = make_device(bundle=bundle)
    result = device.sync("vision")
    assert (result.status, result.version, result.path) == ("current", 1, bundle / "vision")
    repository.offer(versions[1].release)
    result = device.sync("vision")
    assert (result.version, result.previous, result.encoding) == (2, 1, ZSTD_PREFIX)


def test_a_network_that_asks_to_sign_in_counts_as_offline(
    repository: Repository, versions: tuple[Version, Version], make_device: MakeDevice
) -> None:
    device = make_device()
    device.sync("vision")
    repository.intercept = lambda request: Reply(302, headers={"Location": "http://portal.example/"})
    assert device.sync("vision").status == "offline"


def page(status: int = 200, content_type: str = "text/html; charset=utf-8") -> Reply:
    """What the sign-in page of a network, or a proxy, says instead of the edge."""
    return Reply(status, b"<html><title>Welcome to our hotel</title></html>", {"Content-Type": content_type})


IN_BETWEEN = [
    pytest.param(page(), id="sign-in page"),
    pytest.param(page(202), id="page that says accepted"),
    pytest.param(page(content_type="application/json"), id="page that says it is JSON"),
    pytest.param(Reply(200, b'{"message": "Sign in first."}'), id="JSON of somebody else"),
    pytest.param(Reply(200, b"[" * 100_000), id="brackets"),
    pytest.param(Reply(200), id="nothing"),
    pytest.param(page(400), id="page that says bad request"),
    pytest.param(page(404), id="page that says not found"),
]
OTHER_404 = pytest.param(refusal(404, "no_such_page"), id="not found, in JSON of somebody else")


@pytest.mark.parametrize("reply", [*IN_BETWEEN, OTHER_404])
def test_a_network_that_answers_in_the_edges_place_counts_as_offline_and_takes_no_event(
    repository: Repository, versions: tuple[Version, Version], make_device: MakeDevice, reply: Reply
) -> None:
    repository.intercept = lambda request: Reply(503) if request.path.endswith("/events") else None
    device = make_device()
    device.sync("vision")
    repository.intercept = lambda request: reply
    result = device.sync("vision")
    assert (result.status, result.version) == ("offline", 1)
    repository.intercept = lambda request: None
    device.sync("vision")
    assert [event["type"] for event in repository.events] == ["check", "download", "verify", "activate", "check"]


@pytest.mark.parametrize("reply", IN_BETWEEN)
def test_a_registration_that_something_else_than_the_edge_took_is_made_again(
    repository: Repository, versions: tuple[Version, Version], make_device: MakeDevice, reply: Reply
) -> None:
    device = make_device(facts=Facts(os="ios"))
    repository.intercept = lambda request: reply
    with pytest.raises(EdgeUnavailable):
        device.register("abc123", "apns")
    repository.intercept = lambda request: None
    device.sync("vision")
    assert repository.registrations == {device.device_id: {"facts": {"os": "ios"}}}


def test_a_registration_that_the_edge_refuses_is_said_to_be_refused(
    repository: Repository, make_device: MakeDevice
) -> None:
    repository.intercept = lambda request: refusal(400, "invalid_device")
    assert not make_device().register("abc123", "apns")


@pytest.mark.parametrize("part", ["/root/1.json", "/artifacts/"])
def test_a_sign_in_page_that_comes_up_during_an_update_accuses_nobody(
    repository: Repository, versions: tuple[Version, Version], make_device: MakeDevice, part: str
) -> None:
    repository.intercept = lambda request: page() if part in request.path else None
    with pytest.raises(EdgeUnavailable, match="in its place"):
        make_device().sync("vision")


def test_a_root_that_something_else_than_the_edge_does_not_find_is_not_missing(
    repository: Repository, versions: tuple[Version, Version], make_device: MakeDevice
) -> None:
    repository.intercept = lambda request: page(404) if "/root/" in request.path else None
    with pytest.raises(EdgeUnavailable, match="in its place"):
        make_device().sync("vision")


def test_a_manifest_of_another_format_is_rejected_and_reported(
    repository: Repository, versions: tuple[Version, Version], make_device: MakeDevice
) -> None:
    """It is an edge's answer, and not one to stay silent about."""
    other = Reply(200, b'{"skafos": 2}')
    repository.intercept = lambda request: other if request.path.endswith("/manifest") else None
    with pytest.raises(ManifestRejected):
        make_device().sync("vision")
    assert repository.events_of("error")[-1]["error"].startswith("manifest_rejected")


# --- what the manifest chooses


def test_a_release_for_other_devices_is_not_taken(repository: Repository, make_device: MakeDevice) -> None:
    old = repository.add_version(1, {"m.bin": b"old"})
    new = repository.add_version(2, {"m.bin": b"new"}, conditions={"os_version": Condition(min="17")})
    repository.offer(new.release, replace(old.release, position=1))
    assert make_device("a", facts=Facts(os_version="16.4")).sync("vision").version == 1
    assert make_device("b", facts=Facts(os_version="17.0")).sync("vision").version == 2


def test_an_app_takes_only_versions_of_its_interface(repository: Repository, make_device: MakeDevice) -> None:
    one = repository.add_version(1, {"m.bin": b"one"}, interface="a" * 32)
    two = repository.add_version(2, {"m.bin": b"two"}, interface="b" * 32)
    repository.offer(two.release, replace(one.release, position=1))
    assert make_device(facts=Facts(interface="a" * 32)).sync("vision").version == 1


def test_what_a_device_has_stays_when_nothing_is_offered_to_it(
    repository: Repository, versions: tuple[Version, Version], make_device: MakeDevice
) -> None:
    device = make_device()
    assert device.sync("speech").status == "none"
    device.sync("vision")
    repository.offer()
    result = device.sync("vision")
    assert (result.status, result.version) == ("none", 1)
    assert files_in(result.path) == FILES_1


def test_a_part_of_the_devices_takes_a_partial_rollout(repository: Repository, make_device: MakeDevice) -> None:
    old = repository.add_version(1, {"m.bin": b"old"})
    new = repository.add_version(2, {"m.bin": b"new"}, buckets=5_000)
    repository.offer(new.release, replace(old.release, position=1))
    taken = [make_device(f"device-{number}").sync("vision").version for number in range(40)]
    assert set(taken) == {1, 2}


@pytest.mark.parametrize("model", ["../../escape", "a/b", ".skafos", "Größe 🚀", "x" * 100, "%2e%2e", "ü" * 100])
def test_a_model_of_any_name_stays_in_the_directory(
    repository: Repository, make_device: MakeDevice, tmp_path: Path, model: str
) -> None:
    source = repository.add_version(1, {"m.bin": b"x"})
    repository.offer(replace(source.release, model=model))
    before = set(tmp_path.iterdir())
    result = make_device().sync(model)
    assert result.path is not None
    assert result.path.parent.parent.parent == tmp_path / "device"
    assert set(tmp_path.iterdir()) - before <= {tmp_path / "device"}
    assert make_device().sync(model).status == "current"


# --- reports


def test_events_tell_the_story_of_an_update(
    repository: Repository, versions: tuple[Version, Version], make_device: MakeDevice
) -> None:
    device = make_device(facts=Facts(os="linux", locale="de-AT"))
    device.sync("vision")
    repository.offer(versions[1].release)
    device.sync("vision")
    told = [(event["type"], event.get("version"), event.get("from_version")) for event in repository.events]
    assert told == [
        ("check", None, None),
        ("download", 1, None),
        ("verify", 1, None),
        ("activate", 1, None),
        ("check", 1, None),
        ("download", 2, 1),
        ("verify", 2, 1),
        ("activate", 2, 1),
    ]
    download = repository.events_of("download")[-1]
    assert (download["encoding"], download["locale"], download["device_id"]) == (
        ZSTD_PREFIX,
        "de-AT",
        device.device_id,
    )
    assert download["bytes"] < download["full_bytes"]
    assert len({event["event_id"] for event in repository.events}) == len(repository.events)


def test_events_wait_on_the_disk_until_the_edge_takes_them(
    repository: Repository, versions: tuple[Version, Version], make_device: MakeDevice
) -> None:
    repository.intercept = lambda request: Reply(503) if request.path.endswith("/events") else None
    make_device().sync("vision")
    assert repository.events == []
    repository.intercept = lambda request: None
    make_device().sync("vision")
    kinds = [event["type"] for event in repository.events]
    assert kinds == ["check", "download", "verify", "activate", "check"]
    make_device().sync("vision")
    assert len(repository.events) == 6


def test_a_device_registers_once_and_again_when_its_facts_change(
    repository: Repository, versions: tuple[Version, Version], make_device: MakeDevice
) -> None:
    device = make_device(facts=Facts(app_version="1.0"))
    device.sync("vision")
    device.sync("vision")
    assert len(repository.asked("/devices/")) == 1
    again = make_device(facts=Facts(app_version="1.1"))
    again.sync("vision")
    assert device.device_id == again.device_id
    assert repository.registrations == {again.device_id: {"facts": {"app_version": "1.1"}}}


@pytest.mark.parametrize(("down", "taken"), [("/devices/", "/events"), ("/events", "/devices/")])
def test_events_and_the_registration_do_not_wait_for_each_other(
    repository: Repository, versions: tuple[Version, Version], make_device: MakeDevice, down: str, taken: str
) -> None:
    repository.intercept = lambda request: Reply(503) if down in request.path else None
    make_device().sync("vision")
    assert len(repository.asked(taken)) == 1
    assert bool(repository.events) == (taken == "/events")
    assert bool(repository.registrations) == (taken == "/devices/")
    repository.intercept = lambda request: None
    make_device().sync("vision")
    assert repository.events
    assert repository.registrations


def test_a_push_token_is_registered_when_the_app_has_one(
    repository: Repository, served: Served, make_device: MakeDevice
) -> None:
    device = make_device(facts=Facts(os="ios"))
    assert device.register("abc123", "apns")
    assert repository.registrations[device.device_id]["push_token"] == "abc123"
    served.stop()
    with pytest.raises(EdgeUnavailable):
        device.register("abc123", "apns")


def test_a_push_token_stays_registered_when_the_facts_change(repository: Repository, make_device: MakeDevice) -> None:
    make_device(facts=Facts(app_version="1.0")).register("abc123", "apns")
    again = make_device(facts=Facts(app_version="1.1"))
    again.sync("vision")
    assert repository.registrations[again.device_id] == {
        "facts": {"app_version": "1.1"},
        "push_token": "abc123",
        "push_service": "apns",
    }


# --- wrong use, and more than one at once


def test_a_key_that_the_edge_does_not_know_is_said_to_be_unknown(
    repository: Repository, served: Served, versions: tuple[Version, Version], tmp_path: Path
) -> None:
    other = repository.key.replace("prod-", "dev-")
    with DeviceClient(served.url, other, tmp_path / "device") as device, pytest.raises(UnknownKey):
        device.sync("vision")


def test_a_text_that_is_no_key_is_refused_before_anything_is_asked(tmp_path: Path) -> None:
    with pytest.raises(UnknownKey):
        DeviceClient("http://127.0.0.1:9", "../../prod", tmp_path / "device")


def test_a_second_update_in_a_directory_waits_or_says_that_it_is_busy(
    versions: tuple[Version, Version], make_device: MakeDevice, tmp_path: Path
) -> None:
    device = make_device(lock_seconds=0.0)
    with locked(tmp_path / "device/.skafos/lock", 0.0), pytest.raises(DirectoryBusy):
        device.sync("vision")
    assert device.sync("vision").status == "updated"


def test_devices_in_many_threads_share_one_set_of_connections(
    repository: Repository, served: Served, versions: tuple[Version, Version], tmp_path: Path
) -> None:
    results = []
    with httpx.Client() as http:

        def run(number: int) -> None:
            device = DeviceClient(served.url, repository.key, tmp_path / f"device-{number % 4}", http=http)
            results.append(device.sync("vision"))

        threads = [threading.Thread(target=run, args=(number,)) for number in range(12)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert sorted(result.status for result in results) == ["current"] * 8 + ["updated"] * 4


def sync_in_a_process(url: str, key: str, directory: str, answers: multiprocessing.Queue[str]) -> None:
    answers.put(DeviceClient(url, key, Path(directory)).sync("vision").status)


def test_two_processes_in_one_directory_take_turns(
    repository: Repository, served: Served, versions: tuple[Version, Version], tmp_path: Path
) -> None:
    context = multiprocessing.get_context("spawn")
    answers: multiprocessing.Queue[str] = context.Queue()
    arguments = (served.url, repository.key, str(tmp_path / "device"), answers)
    processes = [context.Process(target=sync_in_a_process, args=arguments) for _ in range(2)]
    for process in processes:
        process.start()
    statuses = sorted(answers.get(timeout=60) for _ in processes)
    for process in processes:
        process.join()
    assert statuses == ["current", "updated"]


def test_an_update_that_the_disk_cannot_hold_is_not_begun(
    repository: Repository, versions: tuple[Version, Version], make_device: MakeDevice
) -> None:
    device = make_device()
    device.sync("vision")
    huge = 2**52
    release = versions[1].release
    full = tuple(replace(encoding, length=huge) for encoding in release.encodings if not encoding.base)
    repository.offer(replace(release, length=huge, encodings=full))
    with pytest.raises(NoSpace):
        device.sync("vision")
    assert device.load("vision").version == 1
    assert repository.events_of("error")[-1]["error"].startswith("no_space")


# --- disks that are full, or fail


def test_an_update_is_done_and_reported_also_when_the_disk_takes_no_event(
    repository: Repository, versions: tuple[Version, Version], make_device: MakeDevice
) -> None:
    with unwritable("/events", errno.ENOSPC):
        result = make_device().sync("vision")
    assert (result.status, files_in(result.path)) == ("updated", FILES_1)
    assert [event["type"] for event in repository.events] == ["check", "download", "verify", "activate"]


def test_a_full_disk_is_reported_although_it_takes_no_report(
    repository: Repository, versions: tuple[Version, Version], make_device: MakeDevice, tmp_path: Path
) -> None:
    device = make_device()
    device.sync("vision")
    repository.offer(versions[1].release)
    with unwritable(str(tmp_path / "device/vision"), errno.ENOSPC), unwritable("/events", errno.ENOSPC):
        with pytest.raises(NoSpace):
            device.sync("vision")
        assert files_in(device.load("vision").path) == FILES_1
    assert repository.events_of("error")[-1]["error"].startswith("no_space")
    assert device.sync("vision").version == 2


def test_events_that_cannot_be_read_now_wait_and_hold_nothing_up(
    repository: Repository, versions: tuple[Version, Version], make_device: MakeDevice
) -> None:
    with unreadable("pending.ndjson", errno.EIO):
        assert make_device().sync("vision").status == "updated"
    assert repository.events == []
    assert len(repository.registrations) == 1
    assert make_device().sync("vision").status == "current"
    assert len(repository.events) == 5


def test_a_registration_that_cannot_be_written_down_is_made_again(
    repository: Repository, versions: tuple[Version, Version], make_device: MakeDevice
) -> None:
    device = make_device(facts=Facts(os="ios"))
    with unwritable("registered", errno.ENOSPC):
        assert device.sync("vision").status == "updated"
        with pytest.raises(NoSpace):
            device.register("abc123", "apns")
    device.sync("vision")
    assert len(repository.asked("/devices/")) == 3


@pytest.mark.parametrize("part", ["/.skafos", "/lock", "device-id", "/environments", "/tuf", "/vision"])
@pytest.mark.parametrize(("number", "error"), [(errno.ENOSPC, NoSpace), (errno.EROFS, DiskFailed)])
def test_a_disk_that_takes_nothing_is_said_to_be_full_or_to_fail(
    versions: tuple[Version, Version], make_device: MakeDevice, part: str, number: int, error: type[DeviceError]
) -> None:
    device = make_device()
    with unwritable(part, number), pytest.raises(error):
        device.sync("vision")
    assert device.sync("vision").status == "updated"


def test_a_state_folder_that_cannot_be_listed_is_said_to_fail(
    versions: tuple[Version, Version], make_device: MakeDevice
) -> None:
    device = make_device()
    device.sync("vision")
    with unreadable("/.skafos", errno.EIO), pytest.raises(DiskFailed):
        device.sync("vision")


def test_a_device_id_that_cannot_be_written_down_is_said_so(make_device: MakeDevice) -> None:
    with unwritable("device-id", errno.ENOSPC), pytest.raises(NoSpace):
        _ = make_device().device_id


def test_a_bundle_that_cannot_be_looked_at_is_said_to_fail(make_device: MakeDevice, tmp_path: Path) -> None:
    device = make_device(bundle=tmp_path / ("x" * 300))
    with pytest.raises(DiskFailed):
        device.load("vision")
    with pytest.raises(DiskFailed):
        device.sync("vision")


def test_an_old_version_that_cannot_be_removed_takes_no_update_back(
    repository: Repository, make_device: MakeDevice, tmp_path: Path
) -> None:
    device = make_device()
    paths = []
    for number in (1, 2, 3, 4):
        repository.offer(repository.add_version(number, {"m.bin": b"x" * number}).release)
        with undeletable("/versions/1-", errno.EIO):
            result = device.sync("vision")
            assert result.status == "updated"
            assert device.sync("vision").status == "current"
        assert result.path is not None
        paths.append(result.path)
    assert [path.exists() for path in paths] == [True, False, True, True]
    assert repository.events_of("error")[-1]["error"].startswith("disk_failed")
    device.sync("vision")
    assert not paths[0].exists()


def test_a_result_is_json_as_the_command_prints_it(versions: tuple[Version, Version], make_device: MakeDevice) -> None:
    result = make_device().sync("vision")
    printed = json.loads(json.dumps(result.to_json()))
    assert printed["status"] == "updated"
    assert printed["path"] == str(result.path)
    assert set(printed) == {
        *("model", "version", "previous", "status", "encoding", "bytes", "full_bytes", "path", "detail")
    }


def test_retries_wait_longer_each_time_and_never_too_long() -> None:
    retry = Retry(first_seconds=1, longest_seconds=8, chance=lambda: 0.0)
    assert [retry.seconds(failures) for failures in (1, 2, 3, 4, 5)] == [0.5, 1.0, 2.0, 4.0, 4.0]
    assert retry.seconds(1, asked=3.0) == 3.0
    assert retry.seconds(1, asked=3600.0) == 8.0
