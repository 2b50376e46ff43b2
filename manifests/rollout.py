"""Which release a device takes: one pure function of the manifest's releases and the device's facts.

Every client language has this function, and `tests/vectors/rollout.json` pins it. It fails closed: a condition on a
fact that is not known here, or with a part that is not known here, matches no device.
"""

from __future__ import annotations

import hashlib
import string
from collections.abc import Iterable
from dataclasses import dataclass

from manifests.model import BUCKETS, FACTS, VERSION_FACTS, Condition, Release, Rule
from manifests.versions import compare_versions

# Language tags are ASCII (RFC 5646, section 2.1), so their case does not depend on any locale.
_TO_LANGUAGE_TAG = str.maketrans(string.ascii_uppercase + "_", string.ascii_lowercase + "-")

__all__ = ["DeviceFacts", "bucket", "choose", "compare_versions", "fits", "matches"]


@dataclass(frozen=True, slots=True)
class DeviceFacts:
    """What a device knows about itself. Nothing of it is sent in order to choose.

    Attributes:
        device_id: random, made at installation.
        interface: the interface that the app was built for; None when it takes any.
        os, os_version, app_version, device_model, locale: as in events; None when not known.
    """

    device_id: str
    interface: str | None = None
    os: str | None = None
    os_version: str | None = None
    app_version: str | None = None
    device_model: str | None = None
    locale: str | None = None


def choose(releases: Iterable[Release], facts: DeviceFacts) -> Release | None:
    """Return the release that the device takes, or None.

    Args:
        releases: what the environment offers of one model, in any order.
        facts: the device's.

    The releases are asked by position, lowest first (of two at the same position, the higher version first); the
    first whose interface fits and whose rule matches wins.
    """
    for release in sorted(releases, key=lambda r: (r.position, -r.version)):
        if fits(release, facts) and matches(release.rule, facts):
            return release
    return None


def fits(release: Release, facts: DeviceFacts) -> bool:
    """Say whether the app can use the release.

    An app that states no interface takes every release. One that states an interface takes only releases of exactly
    that interface: a release whose interface is not known (None) may not fit, so it is not offered to such an app.
    """
    return facts.interface is None or facts.interface == release.interface


def matches(rule: Rule, facts: DeviceFacts) -> bool:
    """Say whether the rule includes the device: its bucket is below the rule's, and all conditions hold."""
    return bucket(rule.salt, facts.device_id) < rule.buckets and all(
        _holds(fact, condition, facts) for fact, condition in rule.conditions.items()
    )


def bucket(salt: str, device_id: str) -> int:
    """Return the device's bucket, 0 to 9,999.

    It is the first eight bytes, big-endian, of SHA-256(salt ":" device_id) in UTF-8, modulo 10,000. A device keeps
    its bucket for a salt, so raising the share of a release only adds devices.
    """
    digest = hashlib.sha256(f"{salt}:{device_id}".encode()).digest()
    return int.from_bytes(digest[:8], "big") % BUCKETS


def _holds(fact: str, condition: Condition, facts: DeviceFacts) -> bool:
    if condition.never or fact not in FACTS:
        return False
    value: str | None = getattr(facts, fact)
    return value is not None and _in_range(fact, condition, value) and _in_lists(fact, condition, value)


def _in_range(fact: str, condition: Condition, value: str) -> bool:
    if condition.min is None and condition.below is None:
        return True
    if fact not in VERSION_FACTS:
        return False
    return _reaches(value, condition.min) and _stays_below(value, condition.below)


def _reaches(value: str, lowest: str | None) -> bool:
    return lowest is None or compare_versions(value, lowest) in (0, 1)


def _stays_below(value: str, limit: str | None) -> bool:
    return limit is None or compare_versions(value, limit) == -1


def _in_lists(fact: str, condition: Condition, value: str) -> bool:
    if condition.any_of and not any(_is(fact, value, wanted) for wanted in condition.any_of):
        return False
    return not any(_is(fact, value, unwanted) for unwanted in condition.none_of)


def _is(fact: str, value: str, stated: str) -> bool:
    return _has_language_range(value, stated) if fact == "locale" else value == stated


def _has_language_range(locale: str, language_range: str) -> bool:
    """Basic filtering of RFC 4647, section 3.3.1: `de` matches `de` and `de-AT`, not `den`. `_` counts as `-`."""
    tag, prefix = _language_tag(locale), _language_tag(language_range)
    return tag == prefix or tag.startswith(prefix + "-")


def _language_tag(text: str) -> str:
    return text.translate(_TO_LANGUAGE_TAG)
