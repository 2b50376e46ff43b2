"""What an environment offers: releases with their rules, and their form inside a TUF target.

A release is one TUF target. Its path is `<model>/<version>`, the model's name percent-encoded (RFC 3986, section 2.1:
all but letters, digits and `-._~`, over the name's UTF-8) because a TUF target path is part of a URL. Its length and
hash are the artifact's. Everything else that a device needs is the target's `custom` object:

    {"skafos": 1, "model", "version", "position", "interface",
     "encodings": [{"name", "blob", "length", "base"?}],
     "rule": {"salt", "buckets", "conditions": {fact: {"min", "below", "any_of", "none_of"}}}}

Members that this code does not know are ignored in `custom` and in an encoding: they cannot widen who gets a release.
In a rule they can only have narrowed it, so a rule with an unknown member matches no device.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

from manifests.checks import (
    InvalidManifest,
    is_clean,
    read_integer,
    read_list,
    read_object,
    read_sha256,
    read_text,
)
from manifests.versions import compare_versions, is_version

__all__ = [
    "BUCKETS",
    "FACTS",
    "VERSION_FACTS",
    "Condition",
    "Encoding",
    "InvalidManifest",
    "Release",
    "Rule",
    "check_releases",
    "of_model",
    "parse_conditions",
    "release_from_target",
    "release_to_custom",
    "target_path",
]

FORMAT = 1

# A hundredth of a percent is the finest step of a rollout.
BUCKETS = 10_000
FACTS = ("os", "os_version", "app_version", "device_model", "locale")
# The facts that have an order, so that `min` and `below` mean something.
VERSION_FACTS = ("os_version", "app_version")

# Releases in one manifest: 128 models with the 8 offers that the control plane allows each.
MAX_RELEASES = 1024
# Twice what one release carries: the full forms and a patch from each of a dozen earlier versions.
MAX_ENCODINGS = 32
# Conditions of one rule: five facts are known, the rest is room for later ones.
MAX_CONDITIONS = 32
# Values in one list of a condition; device models are the longest such lists.
MAX_CONDITION_VALUES = 256
# Identifiers of device models and versions of systems are far shorter.
MAX_VALUE_LENGTH = 128
# Longer than any name that the control plane accepts.
MAX_MODEL_NAME_LENGTH = 256
MAX_ENCODING_NAME_LENGTH = 32
MAX_SALT_LENGTH = 64
MAX_INTERFACE_LENGTH = 64

_CONDITION_PARTS = ("min", "below", "any_of", "none_of")
_RULE_MEMBERS = frozenset({"salt", "buckets", "conditions"})


@dataclass(frozen=True, slots=True)
class Condition:
    """What a fact of the device must be. All given parts must hold; a device that lacks the fact does not match.

    Attributes:
        min: the lowest version that matches.
        below: the lowest version that matches no longer.
        any_of: the fact must be one of these; for the locale, start with one (BCP 47 prefix).
        none_of: the fact must be none of these, compared in the same way.
        never: holds for no device, because the manifest states a part that this code does not know.
    """

    min: str | None = None
    below: str | None = None
    any_of: tuple[str, ...] = ()
    none_of: tuple[str, ...] = ()
    never: bool = False


@dataclass(frozen=True, slots=True)
class Rule:
    """Which devices a release is for: the share in ``buckets`` of 10,000, and the conditions.

    The salt is hashed with the device's id. It belongs to the version, so that raising a share evicts nobody.
    """

    salt: str
    buckets: int = BUCKETS
    conditions: Mapping[str, Condition] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Encoding:
    """One form in which an artifact can be downloaded.

    Attributes:
        name: "identity", "zstd", "zstd-prefix", "skafos-delta" or one that this code does not know and skips.
        blob: SHA-256 of the bytes to download, in hex.
        length: their number.
        base: SHA-256 of the artifact that a patch starts from, in hex; None for a full form.
    """

    name: str
    blob: str
    length: int
    base: str | None = None


@dataclass(frozen=True, slots=True)
class Release:
    """A version of a model that an environment offers.

    Attributes:
        artifact, length: SHA-256 (hex) and length of the artifact in its canonical form.
        position: the order in which the releases of one model are asked; 0 comes first.
        interface: what the model's inputs and outputs are, as a hash; None when it is not known.
    """

    model: str
    version: int
    artifact: str
    length: int
    position: int
    rule: Rule
    encodings: tuple[Encoding, ...]
    interface: str | None = None

    @property
    def path(self) -> str:
        """The path of the TUF target."""
        return target_path(self.model, self.version)


def target_path(model: str, version: int) -> str:
    """Return the TUF target path of a version: `<model, percent-encoded>/<version>`."""
    return f"{quote(model, safe='')}/{version}"


def of_model(releases: Sequence[Release], model: str) -> tuple[Release, ...]:
    """Return the releases of one model, in the order in which they are asked."""
    return tuple(sorted((r for r in releases if r.model == model), key=lambda r: (r.position, -r.version)))


def check_releases(releases: Sequence[Release]) -> None:
    """Raise `InvalidManifest` unless a device could read these releases out of a manifest again."""
    if len(releases) > MAX_RELEASES:
        raise InvalidManifest(f"a manifest holds at most {MAX_RELEASES} releases")
    for release in releases:
        _read_model_name(release.model)
        hashes = {"sha256": release.artifact}
        if release_from_target(release.path, release.length, hashes, release_to_custom(release)) != release:
            raise InvalidManifest(f"the release {release.path} does not come back as it was written")
    if len({release.path for release in releases}) != len(releases):
        raise InvalidManifest("a manifest offers each version once")


# --- A release as the `custom` object of a TUF target, and back ---


def release_to_custom(release: Release) -> dict[str, Any]:
    """Return the `custom` object of the release's TUF target."""
    return {
        "skafos": FORMAT,
        "model": release.model,
        "version": release.version,
        "position": release.position,
        "interface": release.interface,
        "encodings": [_encoding_to_json(encoding) for encoding in release.encodings],
        "rule": {
            "salt": release.rule.salt,
            "buckets": release.rule.buckets,
            "conditions": {fact: _condition_to_json(c) for fact, c in release.rule.conditions.items()},
        },
    }


def release_from_target(path: str, length: int, hashes: Mapping[str, str], custom: object) -> Release:
    """Read a release out of a TUF target.

    Args:
        path: the target's path, which must be that of the model and version in ``custom``.
        length: the target's length in bytes.
        hashes: the target's hashes by algorithm; "sha256" must be there.
        custom: the target's `custom` object.

    Raises:
        InvalidManifest: the target is no release in this format.
    """
    members = read_object(custom, "custom")
    if members.get("skafos") is True or members.get("skafos") != FORMAT:
        raise InvalidManifest(f"custom.skafos must be {FORMAT}")
    release = Release(
        model=_read_model_name(members.get("model")),
        version=read_integer(members.get("version"), "version", 1),
        artifact=read_sha256(hashes.get("sha256"), "the target's hash"),
        length=read_integer(length, "the target's length", 0),
        position=read_integer(members.get("position"), "position", 0),
        rule=_read_rule(members.get("rule")),
        encodings=tuple(map(_read_encoding, read_list(members.get("encodings"), "encodings", MAX_ENCODINGS))),
        interface=_read_optional_text(members.get("interface"), "interface", MAX_INTERFACE_LENGTH),
    )
    if path != release.path:
        raise InvalidManifest(f"the target of {release.path} has another path")
    return release


def _encoding_to_json(encoding: Encoding) -> dict[str, Any]:
    members: dict[str, Any] = {"name": encoding.name, "blob": encoding.blob, "length": encoding.length}
    if encoding.base is not None:
        members["base"] = encoding.base
    return members


def _condition_to_json(condition: Condition) -> dict[str, Any]:
    parts = {part: getattr(condition, part) for part in _CONDITION_PARTS}
    return {part: list(value) if isinstance(value, tuple) else value for part, value in parts.items() if value}


def _read_model_name(value: object) -> str:
    name = read_text(value, "model", MAX_MODEL_NAME_LENGTH)
    if name in (".", ".."):
        raise InvalidManifest("a model named by dots only would change the path")
    return name


def _read_optional_text(value: object, what: str, longest: int) -> str | None:
    return None if value is None else read_text(value, what, longest)


def _read_encoding(value: object) -> Encoding:
    members = read_object(value, "encoding")
    base = members.get("base")
    return Encoding(
        name=read_text(members.get("name"), "encoding.name", MAX_ENCODING_NAME_LENGTH),
        blob=read_sha256(members.get("blob"), "encoding.blob"),
        length=read_integer(members.get("length"), "encoding.length", 0),
        base=None if base is None else read_sha256(base, "encoding.base"),
    )


def _read_rule(value: object) -> Rule:
    members = read_object(value, "rule")
    conditions = read_object(members.get("conditions", {}), "rule.conditions")
    buckets = read_integer(members.get("buckets"), "rule.buckets", 0, BUCKETS)
    if len(conditions) > MAX_CONDITIONS:
        raise InvalidManifest(f"a rule has at most {MAX_CONDITIONS} conditions")
    return Rule(
        salt=read_text(members.get("salt"), "rule.salt", MAX_SALT_LENGTH),
        buckets=buckets if members.keys() <= _RULE_MEMBERS else 0,
        conditions={_read_fact(fact): _read_condition(c) for fact, c in conditions.items()},
    )


def _read_fact(name: str) -> str:
    return read_text(name, "a condition's fact", MAX_VALUE_LENGTH)


def _read_condition(value: object) -> Condition:
    """Read a condition on the device, failing closed: what is not understood holds for nobody."""
    parts = read_object(value, "condition")
    condition = Condition(
        min=_read_optional_text(parts.get("min"), "min", MAX_VALUE_LENGTH),
        below=_read_optional_text(parts.get("below"), "below", MAX_VALUE_LENGTH),
        any_of=_read_values(parts.get("any_of"), "any_of"),
        none_of=_read_values(parts.get("none_of"), "none_of"),
    )
    # A part that is present but empty (`"any_of": []`, `"min": null`) asks for something nobody can be.
    understood = all(part in _CONDITION_PARTS and value for part, value in parts.items())
    return condition if understood else Condition(never=True)


def _read_values(value: object, what: str) -> tuple[str, ...]:
    if value is None:
        return ()
    return tuple(read_text(v, what, MAX_VALUE_LENGTH) for v in read_list(value, what, MAX_CONDITION_VALUES))


# --- Conditions that a person states, checked before they are signed ---


def parse_conditions(conditions: object) -> Mapping[str, Condition]:
    """Read the conditions of a deployment as a user wrote them, refusing what a device would not understand.

    Args:
        conditions: `{"os_version": {"min": "17.0", "below": "18"}, "locale": {"any_of": ["de", "fr-CH"]}}`.

    Raises:
        ValueError: with a sentence that names the fact and says what is wrong with it.
    """
    if not isinstance(conditions, dict):
        raise ValueError("Conditions must be an object with a condition for each fact")
    return {fact: _parse_condition(fact, stated) for fact, stated in conditions.items()}


def _parse_condition(fact: object, stated: object) -> Condition:
    if fact not in FACTS:
        raise ValueError(f"There is no fact {_shown(fact)}; conditions may name {_listed(FACTS)}")
    name = str(fact)
    if not isinstance(stated, dict) or not stated:
        raise ValueError(f"The condition on {name} must be an object with at least one of {_listed(_CONDITION_PARTS)}")
    for part in stated:
        if part not in _CONDITION_PARTS:
            raise ValueError(f"The condition on {name} has an unknown part {_shown(part)}")
    condition = Condition(
        min=_parse_version(name, "min", stated),
        below=_parse_version(name, "below", stated),
        any_of=_parse_values(name, "any_of", stated),
        none_of=_parse_values(name, "none_of", stated),
    )
    _check_range(name, condition)
    return condition


def _parse_version(fact: str, part: str, stated: Mapping[str, Any]) -> str | None:
    if part not in stated:
        return None
    value = stated[part]
    if fact not in VERSION_FACTS:
        raise ValueError(f"The condition on {fact} cannot have {part}: only {_listed(VERSION_FACTS)} have an order")
    if not isinstance(value, str) or not is_version(value):
        raise ValueError(f"{part} of {fact} must be a version text such as 17.4")
    return value


def _parse_values(fact: str, part: str, stated: Mapping[str, Any]) -> tuple[str, ...]:
    if part not in stated:
        return ()
    values = stated[part]
    if not isinstance(values, list) or not 0 < len(values) <= MAX_CONDITION_VALUES:
        raise ValueError(f"{part} of {fact} must be a list of 1 to {MAX_CONDITION_VALUES} texts")
    for value in values:
        if not isinstance(value, str) or not 0 < len(value) <= MAX_VALUE_LENGTH or not is_clean(value):
            raise ValueError(
                f"{part} of {fact} must hold texts of 1 to {MAX_VALUE_LENGTH} characters without control characters"
            )
    return tuple(values)


def _check_range(fact: str, condition: Condition) -> None:
    if condition.min is None or condition.below is None:
        return
    order = compare_versions(condition.min, condition.below)
    if order is None or order >= 0:
        raise ValueError(f"No {fact} is at least {condition.min} and below {condition.below}")


def _listed(words: Sequence[str]) -> str:
    return f"{', '.join(words[:-1])} and {words[-1]}"


def _shown(name: object) -> str:
    # At most this much of a stranger's word goes into a message.
    return repr(name)[:40]
