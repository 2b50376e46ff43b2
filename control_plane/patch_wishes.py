"""Which patches the devices of an environment have a use for, and why not the others. Pure.

A patch leads from a version that devices hold to one that they are offered. Which versions they hold is asked of
telemetry (`control_plane.holdings`); the most widely held come first. Some patches are wanted whatever it says, because
it tells what was, and a deployment is about what comes:

- for some days after a deploy or a roll-back, from the version that left by it;
- among all versions that are offered to the same builds of the app, in both directions: a rollout may go on or be
  taken back, and a device may begin or cease to meet a condition.

Without an answer of telemetry, the versions that were deployed lately stand for what devices hold.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum

from control_plane.patch_policy import PatchPolicy

# Patches that are not wanted are shown with their reason; of those beyond, nobody would read the list.
MAX_SHOWN_UNWANTED = 16
# A patch that is wanted already counts twice as many devices as it has. So none comes and goes, with a new manifest for
# every device each time, because a share wavers around a bound.
STANDING_WEIGHT = 2
# A pair of which no patch is worth it gives its place to the next one. So many times the number of places are tried at
# most: where nothing is alike, each try costs minutes for nothing.
TRIES_FOR_EACH_PLACE = 2

Pair = tuple[str, str]
"""The artifacts that a patch leads from and to."""


class Unwanted(StrEnum):
    """Why an environment does not want a patch."""

    TOO_FEW_DEVICES = "too_few_devices"
    OVER_NUMBER = "over_number"
    OVER_SIZE = "over_size"
    NO_LONGER_WANTED = "no_longer_wanted"


@dataclass(frozen=True, slots=True)
class Known:
    """A version of the model whose artifact is there."""

    version: int
    artifact: str
    interface: str | None


@dataclass(frozen=True, slots=True)
class Held:
    """What active devices hold.

    Args:
        active: their number, those that hold none or an unknown version included; above zero.
        versions: what they hold, with the number of devices.
    """

    active: int
    versions: tuple[tuple[Known, int], ...]


@dataclass(frozen=True, slots=True)
class Wish:
    """A patch that was thought of for an environment.

    Args:
        rank: its place among those to the same target, the most wanted first.
        devices: active ones that hold the base; None when that is not known.
        share: of the active devices, from 0 to 1.
        unwanted: why it is not wanted; None when it is.
    """

    base: str
    target: str
    rank: int
    devices: int | None
    share: float | None
    unwanted: Unwanted | None = None

    @property
    def pair(self) -> Pair:
        """What it leads from and to."""
        return self.base, self.target


def wishes(
    offered: Sequence[Known],
    recent: Sequence[Known],
    held: Held | None,
    standing: Collection[Pair],
    policy: PatchPolicy,
    deployed_lately: bool = False,
    hopeless: Collection[Pair] = (),
) -> list[Wish]:
    """Return the patches that come into question, by target, the most wanted first.

    Args:
        offered: versions of the model that the environment offers, in the order in which devices ask.
        recent: versions that were offered lately, the last one first, those offered now among them.
        held: what devices hold; None when telemetry cannot be asked or knows nothing.
        standing: patches that are wanted already.
        policy: the bounds.
        deployed_lately: whether the last deployment is so young that telemetry cannot tell yet what it left.
        hopeless: pairs of which every patch that was tried was not worth it, or too costly.
    """
    found = []
    left = _left(offered, recent) if deployed_lately else []
    for target in dict.fromkeys(each.artifact for each in offered):
        interfaces = {each.interface for each in offered if each.artifact == target}
        near = [each for each in (*offered, *left) if each.interface in interfaces]
        pinned = _other_artifacts(near, target)
        if held is None:
            likely = _other_artifacts(recent, target)
            bases, devices, active = _unique([*pinned, *likely]), Counter[str](), None
        else:
            bases = _unique([*pinned, *_other_artifacts([each for each, _ in held.versions], target)])
            devices, active = _devices(held), held.active
        weights = {base: devices[base] * (STANDING_WEIGHT if (base, target) in standing else 1) for base in bases}
        order = sorted(bases, key=lambda base: -weights[base])  # stable: of equals, the first stays first
        fewest = policy.min_device_share * (active or 0)
        enough = [base for base in order if base in pinned or weights[base] >= fewest]
        without_hope = {base for base, led_to in hopeless if led_to == target}
        wanted = _placed(sorted(enough, key=lambda base: base not in pinned), without_hope, policy.max_per_target)
        found += _told(target, order, wanted, enough, devices, active)
    return found


def _devices(held: Held) -> Counter[str]:
    """Return how many devices hold each artifact."""
    devices = Counter[str]()
    for each, number in held.versions:
        devices[each.artifact] += number
    return devices


def _placed(bases: Sequence[str], without_hope: Collection[str], places: int) -> set[str]:
    """Return the bases that get a place, the first ones first; a hopeless one takes none, and a try."""
    placed: set[str] = set()
    for base in bases[: places * TRIES_FOR_EACH_PLACE]:
        if len(placed - set(without_hope)) >= places:
            break
        placed.add(base)
    return placed


def _told(
    target: str,
    order: Sequence[str],
    wanted: Collection[str],
    enough: Collection[str],
    devices: Counter[str],
    active: int | None,
) -> list[Wish]:
    """Return the wishes for one target, in order, and some of those that are not wanted with them."""
    found, shown_unwanted = [], 0
    for rank, base in enumerate(order):
        unwanted = None
        if base not in wanted:
            unwanted = Unwanted.OVER_NUMBER if base in enough else Unwanted.TOO_FEW_DEVICES
            shown_unwanted += 1
        if unwanted is None or shown_unwanted <= MAX_SHOWN_UNWANTED:
            number = None if active is None else devices[base]
            share = None if active is None else devices[base] / active
            found.append(Wish(base, target, rank, number, share, unwanted))
    return found


@dataclass(frozen=True, slots=True)
class Stored:
    """A wanted patch that is stored, or is about to be.

    Args:
        length: of its blobs, in bytes.
        devices: that have a use for it, over all environments; twice as many when it is stored already.
        rank: the best that an environment gives it.
    """

    base: str
    length: int
    devices: int
    rank: int


def beyond_budget(patches: Iterable[Stored], budget: int) -> set[str]:
    """Return the bases whose patches to one artifact have no room: those with the most devices get it first.

    Args:
        patches: all wanted ones to the artifact whose length is known.
        budget: bytes for them together.
    """
    beyond, used = set(), 0
    for patch in sorted(patches, key=lambda each: (-each.devices, each.rank, each.base)):
        if used + patch.length > budget:
            beyond.add(patch.base)
        else:
            used += patch.length
    return beyond


def _left(offered: Sequence[Known], recent: Sequence[Known]) -> list[Known]:
    """Return, for each interface, the version that was offered last of those that are offered no more."""
    now = {each.artifact for each in offered}
    last: dict[str | None, Known] = {}
    for each in recent:
        if each.artifact not in now:
            last.setdefault(each.interface, each)
    return list(last.values())


def _other_artifacts(versions: Iterable[Known], target: str) -> list[str]:
    return _unique(each.artifact for each in versions if each.artifact != target)


def _unique(artifacts: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(artifacts))
