"""Why events are refused, as words for a metric: a reason in words may be anything, and a metric's labels must be few.

A reason is what the decoder says of one event. It names the field that is wrong, or missing; the rest of it, which may
repeat what the device sent, is for the device alone.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from typing import Final

import msgspec

from telemetry.events import Event, Refused

_FIELDS: Final = frozenset(field.encode_name for field in msgspec.structs.fields(Event))
_AT: Final = re.compile(r"- at `\$\.(\w+)`\Z")
_MISSING: Final = re.compile(r"\AObject missing required field `(\w+)`\Z")
OTHER: Final = "other"


def refusal_word(reason: str) -> str:
    """Return the word for one reason: a field's name, ``missing_`` and a field's name, or ``other``."""
    missing = _MISSING.match(reason)
    if missing is not None:
        return f"missing_{missing.group(1)}" if missing.group(1) in _FIELDS else OTHER
    wrong = _AT.search(reason)
    return wrong.group(1) if wrong is not None and wrong.group(1) in _FIELDS else OTHER


def count_refusals(refused: Sequence[Refused], count: int) -> Counter[str]:
    """Return how many events of a batch were refused for each word; reasons that were not kept are ``other``.

    Args:
        refused: the refusals that are named.
        count: all of them.
    """
    words = Counter(refusal_word(one.reason) for one in refused)
    if count > len(refused):
        words[OTHER] += count - len(refused)
    return words
