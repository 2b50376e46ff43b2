"""What one visit of a device is: drawn by chance from the shares of a population, and read off the manifest.

Nothing here knows locust, so that it can be tested without.
"""

from __future__ import annotations

import json
import random
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum, auto
from typing import Any


class Visit(Enum):
    """Why a device calls: it has the newest manifest, an older one, or it was just installed."""

    CURRENT = auto()
    BEHIND = auto()
    NEW = auto()


class NoOffer(Exception):
    """The manifest offers no release of the model."""


@dataclass(frozen=True)
class Shares:
    """Shares of visits, from 0 to 1.

    Args:
        behind: by devices with an older manifest, which then update.
        new: by devices that were just installed, which register and take the full model.
        reporting: after which a device also posts events that it had collected.
        interrupted: of downloads that break off in the middle and go on in a second request.
    """

    behind: float = 0.01
    new: float = 0.002
    reporting: float = 0.1
    interrupted: float = 0.05

    def __post_init__(self) -> None:
        """Refuse what is no share."""
        for name in ("behind", "new", "reporting", "interrupted"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is a share between 0 and 1")


@dataclass(frozen=True)
class Download:
    """A blob to download: its hash, its length, the encoding's name, and whether it is a patch."""

    blob: str
    length: int
    encoding: str
    patch: bool


@dataclass(frozen=True)
class Offer:
    """The release of a model that a device takes, in full or by patch; and the root that a new device begins with."""

    model: str
    version: int
    length: int
    full: Download
    patch: Download | None
    first_root: int

    def download(self, *, holds_a_model: bool) -> Download:
        """Return what a device downloads that holds the version before, or nothing."""
        return self.patch if holds_a_model and self.patch is not None else self.full


def draw_visit(chance: random.Random, behind: float, new: float) -> Visit:
    """Return why the next device calls.

    Args:
        chance: the source of randomness.
        behind, new: see `Shares`. Devices that are new come first, so a whole population that is behind still has them.
    """
    drawn = chance.random()
    if drawn < new:
        return Visit.NEW
    return Visit.BEHIND if drawn < new + behind * (1 - new) else Visit.CURRENT


def offer_of(manifest: bytes, model: str | None = None) -> Offer:
    """Return the newest release of a model, of the first model by name when none is given.

    A load test believes what it is told: signatures are checked by `skafos.device`, and cost the server nothing.

    Raises:
        NoOffer: there is none.
    """
    body: Mapping[str, Any] = json.loads(manifest)
    targets = body["targets"]["signed"]["targets"]
    releases = [target["custom"] | {"length": target["length"]} for target in targets.values()]
    wanted = model or min((release["model"] for release in releases), default=None)
    ours = [release for release in releases if release["model"] == wanted]
    if not ours:
        raise NoOffer(f"no release of {model or 'any model'} is offered")
    newest = max(ours, key=lambda release: release["version"])
    downloads = [
        Download(one["blob"], one["length"], one["name"], "base" in one)
        for one in newest["encodings"]
        if one["name"] in ("identity", "zstd", "zstd-prefix", "skafos-delta")
    ]
    full = _smallest([one for one in downloads if not one.patch])
    if full is None:
        raise NoOffer(f"{newest['model']} has no encoding that is known here")
    patch = _smallest([one for one in downloads if one.patch])
    return Offer(newest["model"], newest["version"], newest["length"], full, patch, body["first_root"])


def _smallest(downloads: list[Download]) -> Download | None:
    return min(downloads, key=lambda one: one.length, default=None)


FACTS = {"os": "ios", "os_version": "17.4", "app_version": "2.1", "device_model": "iPhone16,1", "locale": "de-AT"}


def update_events(device: str, offer: Offer, taken: Download) -> list[dict[str, object]]:
    """Return what a device reports after an update."""
    about = {"device_id": device, "model": offer.model, "version": offer.version, **FACTS}
    if taken.patch:
        about["from_version"] = max(offer.version - 1, 1)
    told = {"bytes": taken.length, "full_bytes": offer.length, "encoding": taken.encoding, "duration_ms": 100}
    activated = {"from_version": about["from_version"]} if taken.patch else {}
    return [_event("download", about | told), _event("verify", about), _event("activate", about | activated)]


def check_events(device: str, model: str, version: int, number: int) -> list[dict[str, object]]:
    """Return the checks that a device has collected since it reported last."""
    about = {"device_id": device, "model": model, "version": version, **FACTS}
    return [_event("check", about) for _ in range(number)]


def _event(kind: str, fields: Mapping[str, object]) -> dict[str, object]:
    return {"event_id": str(uuid.uuid4()), "type": kind, "occurred_at": datetime.now(UTC).isoformat(), **fields}
