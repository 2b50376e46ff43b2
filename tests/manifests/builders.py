"""Signers from fixed seeds, releases with everything filled in, and a TUF repository in memory."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from securesystemslib.signer import CryptoSigner, Signer  # type: ignore[attr-defined]
from tuf.api.exceptions import DownloadHTTPError
from tuf.ngclient import FetcherInterface, Updater  # type: ignore[attr-defined]

from manifests.model import Condition, Encoding, Release, Rule
from manifests.trust import (
    Lifetimes,
    SignedManifest,
    first_root,
    next_root,
    resign,
    root_file_name,
    sign_content,
    tuf_files,
)

LIFETIMES = Lifetimes()
BASE_URL = "http://edge.test"


def signer(seed: int | bytes) -> Signer:
    """Return an Ed25519 signer whose private key is the seed, so that every signature is known beforehand."""
    raw = seed if isinstance(seed, bytes) else bytes([seed]) * 32
    return CryptoSigner(Ed25519PrivateKey.from_private_bytes(raw))


def artifact_of(model: str, version: int) -> bytes:
    """Return some bytes that stand for an artifact."""
    return f"artifact {version} of {model}".encode()


def release(
    model: str = "digits",
    version: int = 1,
    *,
    position: int = 0,
    rule: Rule | None = None,
    interface: str | None = "0123456789abcdef0123456789abcdef",
) -> Release:
    """Return a release of the bytes of `artifact_of`, with a full form and a patch."""
    artifact = artifact_of(model, version)
    digest = hashlib.sha256(artifact).hexdigest()
    base = hashlib.sha256(artifact_of(model, version - 1)).hexdigest()
    return Release(
        model=model,
        version=version,
        artifact=digest,
        length=len(artifact),
        position=position,
        rule=rule or Rule("5a17", 2_500, {"os_version": Condition(min="17.0")}),
        encodings=(
            Encoding("identity", digest, len(artifact)),
            Encoding("zstd-prefix", hashlib.sha256(artifact + base.encode()).hexdigest(), 11, base),
        ),
        interface=interface,
    )


class Repository(FetcherInterface):
    """A TUF repository that a client fetches from in the same process. Tests change its attributes and refresh."""

    def __init__(self, releases: Sequence[Release] = (), now: datetime | None = None, seed: int = 1) -> None:
        self.now = now or datetime.now(UTC)
        self.root_signer = signer(seed)
        self.online = signer(seed + 100)
        first = first_root([self.root_signer], self.online, self.now, LIFETIMES)
        self.roots = {1: first}
        self.manifest = sign_content(releases, None, self.online, 1, self.now, LIFETIMES)
        self.targets: dict[str, bytes] = {}
        self.replaced: dict[str, bytes] = {}
        self.fetched: list[str] = []
        self._keep_artifacts(releases)

    @property
    def root(self) -> int:
        """The newest root's number."""
        return max(self.roots)

    def publish(self, *releases: Release) -> SignedManifest:
        """Offer these releases from now on."""
        self.manifest = sign_content(releases, self.manifest, self.online, self.root, self.now, LIFETIMES)
        self._keep_artifacts(releases)
        return self.manifest

    def resign(self) -> SignedManifest:
        """Sign the same content anew."""
        self.manifest = resign(self.manifest, self.online, self.root, self.now, LIFETIMES)
        return self.manifest

    def rotate_root(self, new: Signer) -> None:
        """Make a root with another root key."""
        self._add_root([self.root_signer], new, self.online)
        self.root_signer = new
        self.resign()

    def rotate_online(self, new: Signer) -> None:
        """Make a root with another online key, and sign everything with it."""
        self._add_root([self.root_signer], self.root_signer, new)
        self.online = new
        self.resign()

    def files(self) -> dict[str, bytes]:
        """All metadata files by name."""
        roots = {root_file_name(number): data for number, data in self.roots.items()}
        return tuf_files(self.manifest) | roots | self.replaced

    def updater(self, folder: Path) -> Updater:
        """Return an unmodified client that trusts root 1 and keeps its state in the folder."""
        (folder / "metadata").mkdir(parents=True, exist_ok=True)
        (folder / "targets").mkdir(exist_ok=True)
        return Updater(
            str(folder / "metadata"),
            f"{BASE_URL}/metadata",
            str(folder / "targets"),
            f"{BASE_URL}/targets",
            self,
            bootstrap=self.roots[1],
        )

    def _fetch(self, url: str) -> Iterator[bytes]:
        kind, _, name = url.removeprefix(f"{BASE_URL}/").partition("/")
        self.fetched.append(name)
        held = self.files() if kind == "metadata" else self.targets
        if name not in held:
            raise DownloadHTTPError(f"no {name}", 404)
        return iter([held[name]])

    def _add_root(self, old: Sequence[Signer], new: Signer, online: Signer) -> None:
        self.roots[self.root + 1] = next_root(self.roots[self.root], old, [new], online, self.now, LIFETIMES)

    def _keep_artifacts(self, releases: Sequence[Release]) -> None:
        for r in releases:
            folder, _, name = r.path.rpartition("/")
            self.targets[f"{folder}/{r.artifact}.{name}"] = artifact_of(r.model, r.version)


def days_ago(days: float) -> datetime:
    """Return the time some days before now."""
    return datetime.now(UTC) - timedelta(days=days)
