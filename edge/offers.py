"""What each environment offers, by model and version: read out of its manifest when that is first asked for.

Devices read their manifest themselves, so most environments are never read here. Nothing is verified: whoever gets an
artifact from us compares it with what was signed, or trusts the connection.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson
import structlog

from edge.errors import Missing
from edge.manifest_cache import ManifestCache
from manifests.model import InvalidManifest, Release, release_from_target

log = structlog.get_logger(__name__)

_Releases = Mapping[tuple[str, int], Release]


class Offers:
    """The releases of every environment.

    Args:
        manifests: followed from now on. A manifest has at most 2 MiB, and its releases, once read, a few times that.
    """

    def __init__(self, manifests: ManifestCache) -> None:
        self._manifests = manifests
        self._releases: dict[str, _Releases] = {}
        manifests.on_change(self._forget)

    def _forget(self, key: str) -> None:
        self._releases.pop(key, None)

    def find(self, key: str, model: str, version: int) -> Release:
        """Return a version that the environment of ``key`` offers now.

        Raises:
            Missing: no environment has this key, or it does not offer that version.
            Unavailable: this worker has just started and does not know yet.
        """
        environment = self._manifests.require(key)
        releases = self._releases.get(key)
        if releases is None:
            releases = self._releases[key] = read_releases(environment.manifest.body)
        release = releases.get((model, version))
        if release is None:
            raise Missing("The environment does not offer this version of this model.")
        return release


def read_releases(body: bytes) -> _Releases:
    """Return the releases of a manifest body; what is no release, or no manifest, offers nothing."""
    releases = {}
    for path, target in _targets(body).items():
        try:
            release = release_from_target(path, target["length"], target["hashes"], target["custom"])
        except (InvalidManifest, KeyError, TypeError, AttributeError) as error:
            log.warning("release_unreadable", path=path[:100], reason=str(error)[:200])
        else:
            releases[release.model, release.version] = release
    return releases


def _targets(body: bytes) -> dict[str, Any]:
    try:
        targets = orjson.loads(body)["targets"]["signed"]["targets"]
    except (orjson.JSONDecodeError, KeyError, TypeError) as error:
        log.warning("manifest_unreadable", reason=repr(error)[:200])
        return {}
    return targets if isinstance(targets, dict) else {}
