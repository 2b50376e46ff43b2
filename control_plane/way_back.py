"""Which one call restores what a model offered in an environment before the last deployment.

A roll-back takes a version with every step of its rollout (`control_plane.roll_back`), and a deploy puts one version
over what is there or beside it (`control_plane.offers`). Either may be what leads back, or neither:

    deploys                                    leads back
    1 to 100 %, 2 to 100 %                     a roll-back
    1 to 100 %, 2 to 10 %, 2 to 50 %           2 to 10 %
    1 to 100 %, 2 to 100 %, a roll-back        2 to 100 %
    1 to 100 %, 2 to 10 %, 2 to 100 %          nothing: both versions would have to come back at once
    1 to 100 %                                 nothing: a model that was deployed offers something
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from control_plane.errors import Conflict
from control_plane.offers import Offer, deploy
from control_plane.roll_back import Step, roll_back


@dataclass(frozen=True, slots=True)
class Stand:
    """A deployment, and what it left on offer."""

    step: Step
    offers: tuple[Offer, ...]


@dataclass(frozen=True, slots=True)
class RollBack:
    """The way back that takes a version with it."""


def way_back(history: Sequence[Stand]) -> Offer | RollBack | None:
    """Return the one call that restores what was offered before the last deployment: a deploy of this, or a roll-back.

    It has to restore the offers in their order, and what a roll-back would make of them.

    Args:
        history: every deployment of a model in an environment, the first one first.

    Returns:
        None if no call does: nothing was offered before, or several versions were, and a full deploy ended them.
    """
    *before, last = history
    if not before:
        return None
    wanted, steps = before[-1].offers, [each.step for each in history]
    after_that = _rolled_back(steps[:-1])
    number = last.step.number + 1
    again = Step(number, wanted[0])
    ways: list[tuple[Offer | RollBack, Step, tuple[Offer, ...] | None]] = [
        (RollBack(), Step(number, None), _rolled_back(steps)),
        (wanted[0], again, _deployed(last.offers, wanted[0])),
    ]
    for way, step, offers in ways:
        if offers == wanted and _rolled_back([*steps, step]) == after_that:
            return way
    return None


def _rolled_back(steps: Sequence[Step]) -> tuple[Offer, ...] | None:
    try:
        return roll_back(steps).offers
    except Conflict:
        return None


def _deployed(present: Sequence[Offer], new: Offer) -> tuple[Offer, ...] | None:
    try:
        return deploy(present, new)
    except Conflict:
        return None
