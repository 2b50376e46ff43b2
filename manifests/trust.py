"""An environment as a TUF repository: its metadata made, signed, re-signed and put into one body.

Each environment has the four top-level roles of TUF (specification 1.0.31): `root`, signed by the root keys, and
`targets`, `snapshot` and `timestamp`, signed by the online key. Snapshots are consistent. Metadata files are canonical
JSON, so a file and the object in it determine each other; that lets one manifest body carry the three online files as
plain JSON objects and a client get back exactly the bytes that were signed and stored.

Everything here is pure: bytes, signers and the time come in as arguments.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cached_property
from typing import Any, Literal, TypeVar

from securesystemslib.signer import Signer  # type: ignore[attr-defined]
from tuf.api.metadata import (  # type: ignore[attr-defined]
    Metadata,
    MetaFile,
    Root,
    Snapshot,
    TargetFile,
    Targets,
    Timestamp,
)
from tuf.api.serialization import DeserializationError

from manifests.canonical_json import canonical, parse_json
from manifests.checks import InvalidManifest, read_integer, read_object
from manifests.model import MAX_RELEASES, Release, check_releases, release_from_target, release_to_custom

__all__ = [
    "MAX_MANIFEST_BYTES",
    "InvalidManifest",
    "Lifetimes",
    "SignedManifest",
    "etag",
    "first_root",
    "key_ids",
    "next_root",
    "parse_body",
    "releases_of",
    "render_body",
    "resign",
    "root_expires",
    "root_file_name",
    "root_version",
    "sign_content",
    "tuf_files",
]

# A thousand releases with their patches fit; a phone holds it in memory without thinking. Below the limits that
# tuf.ngclient sets for each of the files inside.
MAX_MANIFEST_BYTES = 2 * 1024 * 1024

BODY_FORMAT = 1
ONLINE_ROLES = ("targets", "snapshot", "timestamp")
RoleName = Literal["root", "targets", "snapshot", "timestamp"]

_T = TypeVar("_T", Root, Timestamp, Snapshot, Targets)


@dataclass(frozen=True, slots=True)
class Lifetimes:
    """How long each role's metadata is valid from when it is signed."""

    root: timedelta = timedelta(days=365)
    targets: timedelta = timedelta(days=90)
    snapshot: timedelta = timedelta(days=90)
    timestamp: timedelta = timedelta(days=7)


@dataclass(frozen=True)
class SignedManifest:
    """What an environment offers now, as signed: the newest root's number and the three online files."""

    root: int
    timestamp: bytes
    snapshot: bytes
    targets: bytes

    @cached_property
    def revision(self) -> int:
        """The timestamp's version: it grows by one with every signing."""
        return _load(self.timestamp, Timestamp).signed.version

    @cached_property
    def snapshot_version(self) -> int:
        return _load(self.snapshot, Snapshot).signed.version

    @cached_property
    def targets_version(self) -> int:
        """The version of the targets: unchanged while only the timestamp is signed anew."""
        return _load(self.targets, Targets).signed.version

    @cached_property
    def expires(self) -> datetime:
        """When the first of the three files expires (UTC). The root has a time of its own."""
        return min(
            _load(self.timestamp, Timestamp).signed.expires,
            _load(self.snapshot, Snapshot).signed.expires,
            _load(self.targets, Targets).signed.expires,
        )


# --- Roots ---


def first_root(
    root_keys: Sequence[Signer], online: Signer, now: datetime, lifetimes: Lifetimes, threshold: int = 1
) -> bytes:
    """Make and sign root 1 of an environment.

    Args:
        root_keys: all of them sign.
        online: the key of the other three roles; only its public part is used.
        threshold: how many root keys must sign the roots that follow.

    Raises:
        ValueError: there are fewer root keys than the threshold asks for.
    """
    root = Root(version=1, expires=_utc(now) + lifetimes.root, consistent_snapshot=True)
    _name_keys(root, root_keys, online, threshold)
    return _sign_root(root, None, root_keys)


def next_root(
    previous: bytes,
    signers_old: Sequence[Signer],
    root_signers_new: Sequence[Signer],
    online_new: Signer,
    now: datetime,
    lifetimes: Lifetimes,
    threshold: int | None = None,
) -> bytes:
    """Make the root that follows, signed by the old keys and by the new ones (TUF 5.3.4 asks for both thresholds).

    Args:
        previous: the newest root's bytes.
        signers_old: keys of the previous root, enough for its threshold.
        root_signers_new: the root keys from now on; the same as before when only the online key or the time changes.
        online_new: the online key from now on.
        threshold: of the new root keys; None keeps the previous one.

    Raises:
        ValueError: the signatures do not reach one of the two thresholds.
    """
    old = _load(previous, Root).signed
    root = Root(version=old.version + 1, expires=_utc(now) + lifetimes.root, consistent_snapshot=True)
    _name_keys(root, root_signers_new, online_new, old.roles["root"].threshold if threshold is None else threshold)
    return _sign_root(root, old, [*signers_old, *root_signers_new])


def root_version(root_bytes: bytes) -> int:
    """Return the number of a root."""
    return _load(root_bytes, Root).signed.version


def root_expires(root_bytes: bytes) -> datetime:
    """Return when a root expires (UTC)."""
    return _load(root_bytes, Root).signed.expires


def key_ids(root_bytes: bytes, role: RoleName) -> tuple[str, ...]:
    """Return the ids of the keys that a root names for a role. With them a key store finds the signers in force."""
    return tuple(_load(root_bytes, Root).signed.roles[role].keyids)


def _name_keys(root: Root, root_keys: Sequence[Signer], online: Signer, threshold: int) -> None:
    if not 1 <= threshold <= len({signer.public_key.keyid for signer in root_keys}):
        raise ValueError(f"{len(root_keys)} root keys cannot reach a threshold of {threshold}")
    for signer in root_keys:
        root.add_key(signer.public_key, "root")
    for role in ONLINE_ROLES:
        root.add_key(online.public_key, role)
    root.roles["root"].threshold = threshold


def _sign_root(root: Root, previous: Root | None, signers: Iterable[Signer]) -> bytes:
    metadata = Metadata(root)
    for signer in {signer.public_key.keyid: signer for signer in signers}.values():
        metadata.sign(signer, append=True)
    if not root.get_root_verification_result(previous, metadata.signed_bytes, metadata.signatures):
        raise ValueError(f"Root {root.version} is not signed by enough old and new root keys")
    return canonical(metadata.to_dict())


# --- Content ---


def sign_content(
    releases: Sequence[Release],
    previous: SignedManifest | None,
    online: Signer,
    root: int,
    now: datetime,
    lifetimes: Lifetimes,
) -> SignedManifest:
    """Sign what the environment offers from now on: targets, snapshot and timestamp, each one version further.

    Args:
        releases: all releases of all models; they replace what was offered before.
        previous: the manifest in force, or None for an environment's first.
        online: the online key that the root names.
        root: the newest root's number.

    Raises:
        InvalidManifest: a release breaks the format's rules, or the manifest would grow too large.
    """
    check_releases(releases)
    files = {release.path: _target(release) for release in releases}
    version = 1 if previous is None else previous.targets_version + 1
    targets = Targets(version=version, expires=_utc(now) + lifetimes.targets, targets=files)
    manifest = _sign_around(_sign(targets, online), version, previous, online, root, now, lifetimes)
    _check_size(manifest)
    return manifest


def resign(previous: SignedManifest, online: Signer, root: int, now: datetime, lifetimes: Lifetimes) -> SignedManifest:
    """Sign the same content anew, so that it does not expire.

    The timestamp goes one version further. The snapshot and the targets keep their bytes until half of their life is
    over or the online key has changed.
    """
    targets = _load(previous.targets, Targets)
    if _is_due(targets, online, now, lifetimes.targets):
        targets.signed.version += 1
        targets.signed.expires = _utc(now) + lifetimes.targets
        signed = _sign(targets.signed, online)
        return _sign_around(signed, targets.signed.version, previous, online, root, now, lifetimes)
    if _is_due(_load(previous.snapshot, Snapshot), online, now, lifetimes.snapshot):
        return _sign_around(previous.targets, targets.signed.version, previous, online, root, now, lifetimes)
    timestamp = _sign_timestamp(previous.snapshot_version, previous, online, now, lifetimes)
    return SignedManifest(root, timestamp, previous.snapshot, previous.targets)


def releases_of(targets_bytes: bytes) -> tuple[Release, ...]:
    """Read the releases out of targets metadata, by model and then in the order in which they are asked.

    The signature is not checked here: that is the TUF client's work, and comes first.

    Raises:
        InvalidManifest: the bytes are no targets metadata, or a target is no release.
    """
    targets = _load(targets_bytes, Targets).signed.targets
    if len(targets) > MAX_RELEASES:
        raise InvalidManifest(f"a manifest holds at most {MAX_RELEASES} releases")
    releases = [release_from_target(path, t.length, t.hashes, t.custom) for path, t in targets.items()]
    return tuple(sorted(releases, key=lambda r: (r.model, r.position, -r.version)))


def _target(release: Release) -> TargetFile:
    custom = {"custom": release_to_custom(release)}
    return TargetFile(release.length, {"sha256": release.artifact}, release.path, custom)


def _is_due(metadata: Metadata[Any], online: Signer, now: datetime, lifetime: timedelta) -> bool:
    by_this_key = online.public_key.keyid in metadata.signatures
    return not by_this_key or metadata.signed.expires - _utc(now) < lifetime / 2


def _sign_around(
    targets: bytes,
    targets_version: int,
    previous: SignedManifest | None,
    online: Signer,
    root: int,
    now: datetime,
    lifetimes: Lifetimes,
) -> SignedManifest:
    """Sign a snapshot of these targets and a timestamp of that snapshot."""
    version = 1 if previous is None else previous.snapshot_version + 1
    # Versions without hashes: the files are bound by their signatures, and the body stays small (TUF 4.4 allows it).
    meta = {"targets.json": MetaFile(version=targets_version)}
    snapshot = _sign(Snapshot(version=version, expires=_utc(now) + lifetimes.snapshot, meta=meta), online)
    return SignedManifest(root, _sign_timestamp(version, previous, online, now, lifetimes), snapshot, targets)


def _sign_timestamp(
    snapshot_version: int, previous: SignedManifest | None, online: Signer, now: datetime, lifetimes: Lifetimes
) -> bytes:
    version = 1 if previous is None else previous.revision + 1
    expires = _utc(now) + lifetimes.timestamp
    return _sign(Timestamp(version=version, expires=expires, snapshot_meta=MetaFile(snapshot_version)), online)


def _sign(signed: Timestamp | Snapshot | Targets, online: Signer) -> bytes:
    metadata: Metadata[Any] = Metadata(signed)
    metadata.sign(online)
    return canonical(metadata.to_dict())


def _utc(now: datetime) -> datetime:
    return now.astimezone(UTC)


# --- The manifest body and TUF's own file layout ---


def render_body(manifest: SignedManifest, first_root: int) -> bytes:
    """Return the one JSON body that a device fetches.

    Args:
        first_root: the number of the root that the environment key asked for certifies.

    Raises:
        InvalidManifest: the body would be larger than MAX_MANIFEST_BYTES.
    """
    body = b'{"skafos":%d,"root":%d,"first_root":%d,"timestamp":%s,"snapshot":%s,"targets":%s}' % (
        BODY_FORMAT,
        manifest.root,
        first_root,
        manifest.timestamp,
        manifest.snapshot,
        manifest.targets,
    )
    if len(body) > MAX_MANIFEST_BYTES:
        raise InvalidManifest(f"a manifest has at most {MAX_MANIFEST_BYTES} bytes")
    return body


def parse_body(body: bytes) -> tuple[SignedManifest, int]:
    """Take a manifest body apart into the three files and the number of the first root.

    Nothing is verified: the files still have to pass through a TUF client. Members that are not known are ignored.

    Raises:
        InvalidManifest: anything is off.
    """
    if len(body) > MAX_MANIFEST_BYTES:
        raise InvalidManifest(f"a manifest has at most {MAX_MANIFEST_BYTES} bytes")
    members = read_object(parse_json(body), "the manifest")
    if members.get("skafos") is True or members.get("skafos") != BODY_FORMAT:
        raise InvalidManifest(f"the manifest's format must be {BODY_FORMAT}")
    newest = read_integer(members.get("root"), "root", 1)
    first = read_integer(members.get("first_root"), "first_root", 1, newest)
    manifest = SignedManifest(
        root=newest,
        timestamp=_file_of(members.get("timestamp"), Timestamp),
        snapshot=_file_of(members.get("snapshot"), Snapshot),
        targets=_file_of(members.get("targets"), Targets),
    )
    return manifest, first


def etag(body: bytes) -> str:
    """Return the body's strong entity tag, with its quotes (RFC 9110, section 8.8.3)."""
    return f'"{hashlib.sha256(body).hexdigest()[:32]}"'


def tuf_files(manifest: SignedManifest) -> dict[str, bytes]:
    """Return the three online files by their names in TUF's layout. Roots are named by `root_file_name`."""
    return {
        "timestamp.json": manifest.timestamp,
        f"{manifest.snapshot_version}.snapshot.json": manifest.snapshot,
        f"{manifest.targets_version}.targets.json": manifest.targets,
    }


def root_file_name(version: int) -> str:
    """Return the name of a root in TUF's layout."""
    return f"{version}.root.json"


def _check_size(manifest: SignedManifest) -> None:
    # The root numbers are the only part that can grow later; the largest ones stand in for them.
    render_body(SignedManifest(2**53, manifest.timestamp, manifest.snapshot, manifest.targets), 2**53)


def _load(data: bytes, kind: type[_T]) -> Metadata[_T]:
    try:
        metadata: Metadata[_T] = Metadata.from_bytes(data)
    except DeserializationError as error:
        raise InvalidManifest(f"the {kind.type} metadata cannot be read") from error
    if not isinstance(metadata.signed, kind):
        raise InvalidManifest(f"there is other metadata in the place of {kind.type}")
    return metadata


def _file_of(value: object, kind: type[_T]) -> bytes:
    read_object(value, kind.type)
    data = canonical(value)
    # Read now what is used later, where nobody expects it to be broken.
    read_integer(_load(data, kind).signed.version, f"{kind.type}.version", 1)
    return data
