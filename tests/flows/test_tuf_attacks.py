"""Each attack of the TUF specification (1.0.31, section 1.5.2), on the real device client, over real HTTP.

The attacker stands between the device and the edge, or is the edge: it may answer anything. Where a test gives it a
key, that is the key that was exposed. After every attack the device has in use what it had before.
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from securesystemslib.signer import CryptoSigner, Signer  # type: ignore[attr-defined]
from tuf.api.metadata import Metadata

from manifests import trust
from manifests.canonical_json import canonical
from manifests.trust import Lifetimes, SignedManifest
from skafos.device import ArtifactRejected, DeviceClient, EdgeUnavailable, ManifestRejected, Retry, edge
from tests.skafos.repository import Reply, Repository, Request, Served, Version, expired, refusal

MODEL = "vision"
# A clock with whole seconds is all that TUF has; this is long enough to be valid once and short enough to wait for.
SHORT = Lifetimes(timestamp=timedelta(seconds=2))
PATIENCE_SECONDS = 30.0


@dataclass
class Scene:
    """An honest repository, a device that has version 1 from it, and two more versions to offer."""

    repository: Repository
    served: Served
    device: DeviceClient
    folder: Path
    first: Version
    second: Version

    def offer_second(self) -> None:
        self.repository.offer(self.second.release)

    def assert_unharmed(self) -> None:
        """The device has version 1 in use, byte for byte."""
        held = self.device.load(MODEL)
        assert held.version == 1
        assert {name: (held.path / name).read_bytes() for name in self.first.files} == self.first.files

    def assert_rejected(self, reason: str = "cannot be trusted") -> None:
        """The device rejects what is served, reports that, and has what it had."""
        with pytest.raises(ManifestRejected, match=reason):
            self.device.sync(MODEL)
        self.assert_unharmed()
        assert self.repository.events_of("error")[-1]["error"].startswith("manifest_rejected")

    def new_device(self, name: str = "new") -> DeviceClient:
        return device_of(self.served, self.repository.key, self.folder / name)


def device_of(served: Served, key: str, directory: Path) -> DeviceClient:
    return DeviceClient(served.url, key, directory, retry=Retry(attempts=2, sleep=lambda seconds: None))


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    yield from make_scene(tmp_path)


@pytest.fixture
def short_lived(tmp_path: Path) -> Iterator[Scene]:
    yield from make_scene(tmp_path, SHORT)


def make_scene(tmp_path: Path, lifetimes: Lifetimes | None = None) -> Iterator[Scene]:
    repository = Repository(tmp_path / "repository", lifetimes=lifetimes)
    first = repository.add_version(1, {"model.bin": b"one" * 1000, "labels/en.txt": b"cat\n"})
    second = repository.add_version(2, {"model.bin": b"two" * 1000, "labels/en.txt": b"cat\ndog\n"}, bases=[first])
    with Served(repository) as served, device_of(served, repository.key, tmp_path / "device") as device:
        repository.offer(first.release)
        assert device.sync(MODEL).status == "updated"
        yield Scene(repository, served, device, tmp_path, first, second)


def believes(device: DeviceClient) -> bool:
    """Whether the device still takes the manifest that it has for the present one."""
    try:
        return device.sync(MODEL).status == "current"
    except ManifestRejected:
        return False


def forged(data: bytes, signer: Signer, **changes: Any) -> bytes:
    """Return metadata with attributes of its signed part changed, signed by ``signer`` alone."""
    metadata: Metadata[Any] = Metadata.from_bytes(data)
    for name, value in changes.items():
        setattr(metadata.signed, name, value)
    metadata.sign(signer)
    return canonical(metadata.to_dict())


def signed_by(scene: Scene, signer: Signer, root: int | None = None) -> SignedManifest:
    """Return a manifest that offers version 2 as a holder of ``signer`` would make it."""
    repository = scene.repository
    return trust.sign_content(
        [scene.second.release],
        repository.manifest,
        signer,
        root or repository.newest_root,
        repository.now,
        repository.lifetimes,
    )


# --- arbitrary software, wrong software


def test_bytes_other_than_the_signed_ones_are_never_installed(scene: Scene) -> None:
    scene.offer_second()
    for blob, content in scene.repository.blobs.items():
        scene.repository.blobs[blob] = b"\xff" * len(content)
    with pytest.raises(ArtifactRejected):
        scene.device.sync(MODEL)
    scene.assert_unharmed()
    assert scene.repository.events_of("error")[-1]["error"].startswith("artifact_rejected")


def test_the_bytes_of_another_genuine_version_are_not_installed_in_its_place(scene: Scene) -> None:
    new = scene.new_device()
    scene.offer_second()
    for theirs, ours in zip(scene.second.release.encodings, scene.first.release.encodings, strict=False):
        scene.repository.blobs[theirs.blob] = scene.repository.blobs[ours.blob]
    scene.repository.blobs.pop(scene.second.release.encodings[-1].blob)
    with pytest.raises(ArtifactRejected):
        new.sync(MODEL)


def test_an_edited_target_is_rejected(scene: Scene) -> None:
    scene.offer_second()
    honest = scene.repository.manifest
    digest = scene.second.info.sha256.encode()
    scene.repository.manifest = replace(honest, targets=honest.targets.replace(digest, b"0" * 64))
    scene.assert_rejected()


def test_metadata_of_another_environment_is_rejected(scene: Scene, tmp_path: Path) -> None:
    other = Repository(tmp_path / "other")
    other.manifest = scene.repository.manifest
    other.offer(scene.second.release)
    scene.repository.manifest = other.manifest
    scene.assert_rejected("was signed by 0/1")


def test_metadata_signed_by_a_key_of_the_attacker_is_rejected(scene: Scene) -> None:
    scene.repository.manifest = signed_by(scene, CryptoSigner.generate_ed25519())
    scene.assert_rejected("was signed by 0/1")


def test_metadata_without_a_signature_is_rejected(scene: Scene) -> None:
    scene.offer_second()
    honest = scene.repository.manifest
    metadata: Metadata[Any] = Metadata.from_bytes(honest.timestamp)
    metadata.signatures.clear()
    scene.repository.manifest = replace(honest, timestamp=canonical(metadata.to_dict()))
    scene.assert_rejected()


# --- rollback, fast-forward


def test_an_older_manifest_is_rejected_once_a_newer_one_was_seen(scene: Scene) -> None:
    older = scene.repository.manifest
    scene.repository.resign()
    assert scene.device.sync(MODEL).status == "current"
    scene.repository.manifest = older
    scene.assert_rejected("timestamp version")


def test_a_newer_timestamp_cannot_bring_back_an_older_snapshot(scene: Scene) -> None:
    older = scene.repository.manifest
    scene.repository.offer(scene.first.release)
    assert scene.device.sync(MODEL).status == "current"
    newest = scene.repository.manifest
    timestamp: Metadata[Any] = Metadata.from_bytes(newest.timestamp)
    timestamp.signed.snapshot_meta.version = older.snapshot_version
    timestamp.signed.version += 1
    timestamp.sign(scene.repository.online)
    scene.repository.manifest = replace(older, timestamp=canonical(timestamp.to_dict()))
    scene.assert_rejected("snapshot version")


def test_after_a_fast_forward_a_rotated_online_key_brings_devices_back(scene: Scene) -> None:
    exposed, far = scene.repository.online, 2**31
    honest = scene.repository.manifest
    targets = forged(honest.targets, exposed, version=far)
    snapshot: Metadata[Any] = Metadata.from_bytes(honest.snapshot)
    snapshot.signed.meta["targets.json"].version = far
    snapshot_bytes = forged(canonical(snapshot.to_dict()), exposed, version=far)
    timestamp: Metadata[Any] = Metadata.from_bytes(honest.timestamp)
    timestamp.signed.snapshot_meta.version = far
    timestamp_bytes = forged(canonical(timestamp.to_dict()), exposed, version=far)
    scene.repository.manifest = SignedManifest(1, timestamp_bytes, snapshot_bytes, targets)
    assert scene.device.sync(MODEL).status == "current"

    scene.repository.manifest = honest
    scene.repository.offer(scene.second.release)
    scene.assert_rejected("timestamp version")

    scene.repository.rotate(online=CryptoSigner.generate_ed25519())
    assert scene.device.sync(MODEL).version == 2


# --- freeze


def test_an_expired_manifest_is_rejected(scene: Scene) -> None:
    expired(scene.repository)
    scene.assert_rejected("timestamp.json is expired")


def test_an_edge_that_never_has_news_is_found_out_when_the_kept_manifest_expires(short_lived: Scene) -> None:
    def not_modified(request: Request) -> Reply | None:
        return Reply(304) if request.path.endswith("/manifest") else None

    short_lived.repository.intercept = not_modified
    deadline = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < deadline:
        time.sleep(0.2)
        if not believes(short_lived.device):
            break
    short_lived.assert_rejected("timestamp.json is expired")


def test_not_modified_for_a_manifest_that_was_never_had_is_no_manifest(scene: Scene) -> None:
    scene.repository.intercept = lambda request: Reply(304) if request.path.endswith("/manifest") else None
    with pytest.raises(EdgeUnavailable):
        scene.new_device().sync(MODEL)


def test_an_expired_root_is_rejected(tmp_path: Path) -> None:
    repository = Repository(tmp_path / "repository", lifetimes=Lifetimes(root=timedelta(seconds=-1)))
    with (
        Served(repository) as served,
        device_of(served, repository.key, tmp_path / "device") as device,
        pytest.raises(ManifestRejected, match=r"root.json is expired"),
    ):
        device.sync(MODEL)


# --- endless data, slow retrieval


@pytest.mark.parametrize("part", ["/manifest", "/root/1.json"])
def test_metadata_that_never_ends_is_given_up(scene: Scene, part: str) -> None:
    scene.repository.intercept = lambda request: Reply(endless=True) if part in request.path else None
    with pytest.raises(EdgeUnavailable, match="does not end"):
        scene.new_device().sync(MODEL)


def test_a_manifest_that_never_ends_leaves_the_device_offline(scene: Scene) -> None:
    scene.repository.intercept = lambda request: Reply(endless=True) if "/manifest" in request.path else None
    result = scene.device.sync(MODEL)
    assert (result.status, result.version) == ("offline", 1)
    scene.assert_unharmed()


def test_a_blob_that_never_ends_is_cut_at_its_signed_length(scene: Scene) -> None:
    scene.offer_second()
    scene.repository.intercept = lambda request: Reply(endless=True) if "/artifacts/" in request.path else None
    with pytest.raises(ArtifactRejected):
        scene.device.sync(MODEL)
    scene.assert_unharmed()
    error = scene.repository.events_of("error")[-1]
    assert error["version"] == 2


def test_a_manifest_larger_than_any_is_refused_before_it_is_read(scene: Scene) -> None:
    huge = Reply(200, b" " * (trust.MAX_MANIFEST_BYTES + 1), {"ETag": '"x"'})
    scene.repository.intercept = lambda request: huge if "/manifest" in request.path else None
    assert scene.device.sync(MODEL).status == "offline"


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a device judge the pace each half second instead of each minute."""
    monkeypatch.setattr(edge, "SLOW_WINDOW_SECONDS", 0.5)


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("part", ["/manifest", "/root/1.json"])
def test_metadata_that_drips_is_given_up(scene: Scene, part: str) -> None:
    # Whole, it would take a quarter of an hour.
    dripping = Reply(200, b" " * 40_000, {"ETag": '"x"'}, drip=0.02)
    scene.repository.intercept = lambda request: dripping if part in request.path else None
    with pytest.raises(EdgeUnavailable, match="too slowly"):
        scene.new_device().sync(MODEL)


@pytest.mark.usefixtures("impatient")
def test_a_blob_that_drips_is_given_up(scene: Scene) -> None:
    large = scene.repository.add_version(3, {"model.bin": random.Random(3).randbytes(40_000)})
    scene.repository.offer(large.release)

    def drip(request: Request) -> Reply | None:
        if "/artifacts/" not in request.path:
            return None
        length = next(each.length for each in large.release.encodings if each.blob in request.path)
        return Reply(200, b" " * length, {"ETag": '"x"'}, drip=0.02)

    scene.repository.intercept = drip
    result = scene.device.sync(MODEL)
    assert (result.status, result.version) == ("offline", 1)
    assert result.detail is not None
    assert "too slowly" in result.detail
    scene.assert_unharmed()


# --- mix and match


@pytest.mark.parametrize("stale", ["timestamp", "snapshot", "targets"])
def test_metadata_of_different_moments_does_not_mix(scene: Scene, stale: str) -> None:
    scene.device = scene.new_device()
    earlier = scene.repository.manifest
    scene.repository.offer(scene.second.release)
    latest = scene.repository.manifest
    scene.repository.manifest = replace(latest, **{stale: getattr(earlier, stale)})
    with pytest.raises(ManifestRejected):
        scene.device.sync(MODEL)


# --- keys that were exposed, roots


def test_an_exposed_online_key_is_worth_nothing_after_its_rotation(scene: Scene) -> None:
    exposed = scene.repository.online
    scene.repository.rotate(online=CryptoSigner.generate_ed25519())
    assert scene.device.sync(MODEL).status == "current"
    scene.repository.manifest = signed_by(scene, exposed)
    scene.assert_rejected("was signed by 0/1")
    # Nor does it help to hide the new root: the device has it.
    scene.repository.manifest = signed_by(scene, exposed, root=1)
    scene.assert_rejected("was signed by 0/1")


def test_exposed_root_keys_are_worth_nothing_after_their_rotation(scene: Scene) -> None:
    exposed = scene.repository.root_signers
    scene.repository.rotate(root_signers=[CryptoSigner.generate_ed25519()])
    assert scene.device.sync(MODEL).status == "current"
    attacker = CryptoSigner.generate_ed25519()
    root: Metadata[Any] = Metadata.from_bytes(scene.repository.roots[2])
    root.signed.version = 3
    root.signed.add_key(attacker.public_key, "timestamp")
    root.sign(exposed[0])
    scene.repository.roots[3] = canonical(root.to_dict())
    scene.repository.manifest = signed_by(scene, attacker, root=3)
    scene.assert_rejected("root was signed by 0/1")


def test_a_root_that_its_predecessor_did_not_sign_is_rejected(scene: Scene) -> None:
    attacker = CryptoSigner.generate_ed25519()
    scene.repository.roots[2] = forged(scene.repository.roots[1], attacker, version=2)
    scene.repository.manifest = replace(scene.repository.manifest, root=2)
    scene.assert_rejected("root was signed by 0/1")


def test_hiding_a_new_root_keeps_the_device_from_what_its_keys_sign(scene: Scene) -> None:
    scene.repository.rotate(online=CryptoSigner.generate_ed25519())
    scene.offer_second()
    hidden = refusal(404, "not_found")
    scene.repository.intercept = lambda request: hidden if request.path.endswith("/root/2.json") else None
    scene.assert_rejected("was signed by 0/1")


def test_a_device_walks_through_all_roots_that_it_missed(scene: Scene) -> None:
    for _ in range(5):
        scene.repository.rotate(online=CryptoSigner.generate_ed25519(), root_signers=[CryptoSigner.generate_ed25519()])
    scene.offer_second()
    assert scene.device.sync(MODEL).version == 2
    assert len(scene.repository.asked("/root/")) == 1 + 5


# --- the first root


def test_a_first_root_of_other_keys_is_rejected(scene: Scene, tmp_path: Path) -> None:
    other = Repository(tmp_path / "other")
    other.offer(scene.second.release)
    scene.repository.roots, scene.repository.manifest = other.roots, other.manifest
    with pytest.raises(ManifestRejected, match="other keys than the environment key names"):
        scene.new_device().sync(MODEL)


def test_a_first_root_with_the_right_keys_but_not_signed_by_them_is_rejected(scene: Scene) -> None:
    attacker = CryptoSigner.generate_ed25519()
    root: Metadata[Any] = Metadata.from_bytes(scene.repository.roots[1])
    root.signed.add_key(attacker.public_key, "timestamp")
    root.sign(attacker)
    scene.repository.roots[1] = canonical(root.to_dict())
    with pytest.raises(ManifestRejected, match="not signed by enough of its own keys"):
        scene.new_device().sync(MODEL)


def test_a_first_root_is_not_asked_for_twice(scene: Scene) -> None:
    scene.offer_second()
    assert scene.device.sync(MODEL).version == 2
    assert len(scene.repository.asked("/root/1.json")) == 1


def test_a_first_root_that_was_changed_on_the_disk_is_not_believed(scene: Scene, tmp_path: Path) -> None:
    other = Repository(tmp_path / "other")
    kept = next((scene.folder / "device").glob(".skafos/environments/*/first-root.json"))
    kept.write_bytes(other.roots[1])
    scene.offer_second()
    assert scene.device.sync(MODEL).version == 2
