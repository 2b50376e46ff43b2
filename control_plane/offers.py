"""What a deploy makes of the versions that a model offers in an environment; `control_plane.roll_back` is its undoing.

Pure arithmetic on ordered lists: the first offer is asked first. A device takes the first offer that was made for its
interface and whose rule it matches (`manifests.rollout`).

A full deploy (every device, no conditions) replaces the offers with the same interface and leaves the others below
it, so that builds of the app that cannot use the new version keep what fits them. A partial deploy goes on top of
what is there.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from control_plane.errors import Conflict, Invalid
from manifests.model import BUCKETS, parse_conditions

# Every device reads every offer on every check, so the list stays short. Eight leave room for three interfaces, each
# with a version that everybody has and one that is rolling out, and two more.
MAX_OFFERS = 8

# 64 bits tell the versions of one environment apart; more would only make the manifest longer.
SALT_HEX_DIGITS = 16


@dataclass(frozen=True, slots=True)
class Offer:
    """A version that a model offers, with its rule.

    Args:
        version: the model version's number.
        interface: the model's interface, or None where it is unknown.
        buckets: how many of the 10,000 buckets of devices it is for.
        conditions: what a device must be, as the API takes them; empty for every device.
    """

    version: int
    interface: str | None
    buckets: int = BUCKETS
    conditions: Mapping[str, Any] = field(default_factory=dict)

    @property
    def is_for_all(self) -> bool:
        """Whether it is for every device."""
        return self.buckets == BUCKETS and not self.conditions


def deploy(present: Sequence[Offer], new: Offer) -> tuple[Offer, ...]:
    """Return the offers after ``new`` is deployed over ``present``.

    A full deploy that would leave too many offers drops the last ones, which the oldest builds use; devices keep the
    version that they hold.

    Raises:
        Conflict: a partial deploy would leave more than `MAX_OFFERS`.
    """
    others = [offer for offer in present if offer.version != new.version]
    if new.is_for_all:
        kept = [offer for offer in others if offer.interface != new.interface]
        return (new, *kept)[:MAX_OFFERS]
    if len(others) >= MAX_OFFERS:
        raise Conflict(
            f"{len(others)} versions are offered already, and more than {MAX_OFFERS} cannot be; "
            "deploy one of them to all devices first.",
            "too_many_offers",
        )
    return (new, *others)


def buckets_of(percent: object) -> int:
    """Return how many of the 10,000 buckets ``percent`` is.

    Raises:
        Invalid: it is not a number from 0.01 to 100.
    """
    if isinstance(percent, bool) or not isinstance(percent, int | float) or not math.isfinite(percent):
        raise Invalid("percent must be a number from 0.01 to 100.", "invalid_percent")
    buckets = round(percent * BUCKETS / 100)
    if not 1 <= buckets <= BUCKETS or percent > 100:
        raise Invalid(f"percent must be from 0.01 to 100, and {percent:g} is not.", "invalid_percent")
    return buckets


def checked_conditions(conditions: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return ``conditions`` as a plain dict once the rollout rule has understood them.

    Raises:
        Invalid: a fact or a part is unknown or malformed; the sentence says which.
    """
    plain = dict(conditions or {})
    try:
        parse_conditions(plain)
    except ValueError as error:
        raise Invalid(f"{error}.", "invalid_conditions") from error
    return plain


def salt_of(environment_id: str, model_version_id: str) -> str:
    """Return the salt of a version's buckets in an environment.

    It depends on nothing else, so raising the percentage adds devices and never takes one away.
    """
    digest = hashlib.sha256(f"{environment_id}:{model_version_id}".encode())
    return digest.hexdigest()[:SALT_HEX_DIGITS]
