"""Why a device believes a manifest: `tuf.ngclient` over the one body that the edge gives.

The manifest's body holds the three online metadata files; roots come from the edge by number. A fetcher hands both to
an unmodified `tuf.ngclient.Updater`, which does every check of the TUF client workflow (specification 1.0.31, section
5.3) at one reference time and keeps what it has seen on the disk, so that nothing older is believed later. Trust starts
with the root that the environment's key certifies.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from tuf.api import exceptions as tuf
from tuf.api.metadata import TargetFile  # type: ignore[attr-defined]
from tuf.ngclient.config import UpdaterConfig
from tuf.ngclient.fetcher import FetcherInterface
from tuf.ngclient.updater import Updater

from artifacts.files import make_directory, whole_file
from manifests.keys import EnvironmentKey, UncertifiedRoot, certify
from manifests.model import InvalidManifest, Release
from manifests.trust import MAX_MANIFEST_BYTES, SignedManifest, parse_body, releases_of, tuf_files
from skafos.device.edge import MAX_ROOT_BYTES
from skafos.device.errors import ManifestRejected

# Roots that one check walks through. A device that slept through more goes on at its next check: what it verified is
# kept.
MAX_ROOT_ROTATIONS = 64
# Only the last part of these addresses is looked at.
BASE_URL = "manifest:///"

_ROOT_NAME = re.compile(r"([1-9][0-9]{0,9})\.root\.json", re.ASCII)

FetchRoot = Callable[[int], bytes | None]


@dataclass(frozen=True, slots=True)
class VerifiedManifest:
    """What an environment offers, as its keys signed it."""

    releases: tuple[Release, ...]
    updater: Updater

    def target(self, release: Release) -> TargetFile:
        """Return the signed length and hash of a release's artifact."""
        found = self.updater.get_targetinfo(release.path)
        if found is None:
            raise ManifestRejected(f"The manifest has no target {release.path}.")
        return found


class Trust:
    """What a device knows of one environment, kept in a directory.

    Args:
        directory: made when it is missing.
        key: the environment's key, the only thing that is believed without proof.
        fetch_root: returns root metadata by number from the edge, or None when there is none.
    """

    def __init__(self, directory: Path, key: EnvironmentKey, fetch_root: FetchRoot) -> None:
        self._directory = directory
        self._metadata = directory / "tuf"
        self._first_root = directory / "first-root.json"
        self._key = key
        self._fetch_root = fetch_root

    def verify(self, body: bytes) -> VerifiedManifest:
        """Return what a manifest's body offers, verified.

        Raises:
            ManifestRejected: it is not signed as it must be, is older than one seen before, or has expired.
            EdgeUnavailable: a root that is needed cannot be had now.
        """
        try:
            manifest, first = parse_body(body)
            updater = self._updater(manifest, self._bootstrap(first))
            updater.refresh()
            # The updater keeps the targets it verified; what the body held may be something else.
            releases = releases_of((self._metadata / "targets.json").read_bytes())
        except (tuf.RepositoryError, tuf.DownloadError, InvalidManifest, UncertifiedRoot) as error:
            raise ManifestRejected(f"The manifest cannot be trusted: {error}") from error
        return VerifiedManifest(releases, updater)

    def _updater(self, manifest: SignedManifest, bootstrap: bytes) -> Updater:
        make_directory(self._metadata)
        self._remove_leftovers()
        return Updater(
            str(self._metadata),
            BASE_URL,
            fetcher=BodyFetcher(tuf_files(manifest), manifest.root, self._fetch_root),
            config=UpdaterConfig(
                max_root_rotations=MAX_ROOT_ROTATIONS,
                root_max_length=MAX_ROOT_BYTES,
                timestamp_max_length=MAX_MANIFEST_BYTES,
                snapshot_max_length=MAX_MANIFEST_BYTES,
                targets_max_length=MAX_MANIFEST_BYTES,
            ),
            bootstrap=bootstrap,
        )

    def _remove_leftovers(self) -> None:
        """Remove files that the updater was writing when its process was killed (it names them ``tmp…``)."""
        for leftover in self._metadata.glob("tmp*"):
            leftover.unlink(missing_ok=True)

    def _bootstrap(self, first: int) -> bytes:
        """Return the root that the key certifies: the kept one, else the one that the manifest names as first."""
        kept = self._kept_root()
        if kept is not None:
            return kept
        fetched = self._fetch_root(first)
        if fetched is None:
            raise UncertifiedRoot(f"the edge has no root {first}")
        certify(self._key, fetched)
        make_directory(self._directory)
        with whole_file(self._first_root) as file:
            file.write(fetched)
        return fetched

    def _kept_root(self) -> bytes | None:
        try:
            kept = self._first_root.read_bytes()
            certify(self._key, kept)
        except (OSError, UncertifiedRoot):
            return None
        return kept


class BodyFetcher(FetcherInterface):
    """Gives `tuf.ngclient` the three files of one manifest body, and roots from the edge.

    Args:
        files: the three files by their names.
        newest_root: the number of the newest root by the manifest. Asking for the one after it would be a request
            with a known answer. An edge that lies here can hide a root no better than by answering 404.
        fetch_root: returns a root from the edge.
    """

    def __init__(self, files: Mapping[str, bytes], newest_root: int, fetch_root: FetchRoot) -> None:
        self._files = files
        self._newest_root = newest_root
        self._fetch_root = fetch_root

    def _fetch(self, url: str) -> Iterator[bytes]:
        name = url.rsplit("/", 1)[-1]
        data = self._root(int(match[1])) if (match := _ROOT_NAME.fullmatch(name)) else self._files.get(name)
        if data is None:
            raise tuf.DownloadHTTPError(f"the manifest has no {name}", 404)
        yield data

    def _root(self, number: int) -> bytes | None:
        return self._fetch_root(number) if number <= self._newest_root else None
