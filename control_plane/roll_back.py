"""What a roll-back makes of the versions that a model offers in an environment: the undoing of `control_plane.offers`.

A roll-back takes back the version that was deployed last, with every step of its rollout: all deploys since it came.
What it leaves is what the deploys before would have made of the offers. So afterwards the version is offered to nobody,
whatever its rollout looked like, and the roll-back in the middle of a rollout does the same as at its end:

    deploys                                    offered    after one roll-back    after another
    1 to 100 %, 2 to 10, 50 and 100 %          2          1                      nothing is left: refused
    1 to 100 %, 2 to 10 %, 3 to 100 %          3          2 to 10 %, 1           1

Versions with different interfaces are for different builds of the app, and come and go by themselves: taking back a
version for one of them leaves what the others are offered, even if that was deployed during the rollout.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from control_plane.errors import Conflict
from control_plane.offers import MAX_OFFERS, Offer


@dataclass(frozen=True, slots=True)
class Step:
    """A deployment as the roll-back arithmetic sees it.

    Args:
        number: 1, 2, 3… within a model and an environment.
        offer: what was deployed; None for a roll-back.
    """

    number: int
    offer: Offer | None


@dataclass(frozen=True, slots=True)
class Left:
    """What a roll-back leaves.

    Args:
        offers: in the order in which devices ask; at least one.
        newest: the number of the newest deploy that stands.
    """

    offers: tuple[Offer, ...]
    newest: int


def roll_back(history: Iterable[Step]) -> Left:
    """Return what is left once the version that was deployed last is taken back.

    Args:
        history: every deployment of the model in the environment, the first one first.

    Raises:
        Conflict: nothing was offered before that version.
    """
    standing = _Standing()
    for step in history:
        if step.offer is None:
            standing.take_back()
        else:
            standing.add(_Placed(step.number, step.offer))
    standing.take_back()
    placed = standing.offered()
    if not placed:
        raise Conflict(
            "There is nothing to roll back to: nothing was offered before the version that was deployed last.",
            "nothing_to_roll_back_to",
        )
    return Left(tuple(each.offer for each in placed[:MAX_OFFERS]), placed[0].number)


@dataclass(frozen=True, slots=True)
class _Placed:
    """An offer, and the number of the deploy that put it on top."""

    number: int
    offer: Offer


class _Standing:
    """The deploys that stand, by interface: for each one what it left on offer, itself first.

    It is made anew from the history for each roll-back, and every deploy is added and taken back at most once, so the
    work grows with the length of the history alone.
    """

    def __init__(self) -> None:
        self._states: dict[str | None, list[tuple[_Placed, ...]]] = {}

    def add(self, new: _Placed) -> None:
        """Put a deploy on top of the others with its interface, as `control_plane.offers.deploy` does."""
        states = self._states.setdefault(new.offer.interface, [])
        present = states[-1] if states and not new.offer.is_for_all else ()
        states.append((new, *(each for each in present if each.offer.version != new.offer.version)))

    def take_back(self) -> None:
        """Remove the deploys since the newest one's version came."""
        if not self._states:
            return
        interface = max(self._states, key=lambda each: self._states[each][-1][0].number)
        states = self._states[interface]
        version = states[-1][0].offer.version
        while states and any(each.offer.version == version for each in states[-1]):
            states.pop()
        if not states:
            del self._states[interface]

    def offered(self) -> list[_Placed]:
        """Return the offers that stand, the one that was deployed last first."""
        placed = [each for states in self._states.values() for each in states[-1]]
        return sorted(placed, key=lambda each: each.number, reverse=True)
