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
from manifests.model import InvalidManifest, Release, release_from_target, target_path

log = structlog.get_logger(__name__)

Targets = Mapping[str, Any]


class Offers:
    """The releases of every environment.

    Args:
        manifests: followed from now on. A manifest has at most 2 MiB; read, it takes a few times that.
    """

    def __init__(self, manifests: ManifestCache) -> None:
        self._manifests = manifests
        self._targets: dict[str, Targets] = {}
        manifests.on_change(self._forget)

    def _forget(self, key: str) -> None:
        self._targets.pop(key, None)

    def find(self, key: str, model: str, version: int) -> Release:
        """Return a version that the environment of ``key`` offers now.

        Raises:
            Missing: no environment has this key, or it does not offer that version.
            Unavailable: this worker has just started and does not know yet.
        """
        environment = self._manifests.require(key)
        targets = self._targets.get(key)
        if targets is None:
            targets = self._targets[key] = read_targets(environment.manifest.body)
        release = release_of(targets, model, version)
        if release is None:
            raise Missing("The environment does not offer this version of this model.")
        return release


def read_targets(body: bytes) -> Targets:
    """Return the targets of a manifest body by their paths; what is no manifest has none."""
    try:
        targets = orjson.loads(body)["targets"]["signed"]["targets"]
    except (orjson.JSONDecodeError, KeyError, TypeError) as error:
        log.warning("manifest_unreadable", reason=repr(error)[:200])
        return {}
    return targets if isinstance(targets, dict) else {}


def release_of(targets: Targets, model: str, version: int) -> Release | None:
    """Return a release, read out of its target alone: of a thousand, one is asked for."""
    try:
        path = target_path(model, version)
        target = targets.get(path)
        if target is None:
            return None
        return release_from_target(path, target["length"], target["hashes"], target["custom"])
    except (InvalidManifest, KeyError, TypeError, AttributeError) as error:
        log.warning("release_unreadable", model=model, version=version, reason=repr(error)[:200])
        return None
    except UnicodeEncodeError:  # a name that is no UTF-8
        return None
