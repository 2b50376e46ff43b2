"""The last bytes of a small patch: a few steps less may be smaller, which no estimate tells as exactly as trying it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from artifacts.patch.emit import Emitter
from artifacts.patch.operations import Add, Copy, Data
from artifacts.patch.planner import Plan
from artifacts.patch.steps import Step

__all__ = ["polished"]

# Patches of so many steps are polished, by at most so many attempts, which together compress no more bytes than these
# (new ones, differences, prefixes): some seconds.
_MAX_STEPS, _MAX_ATTEMPTS = 192, 300
_MAX_COMPRESSED_BYTES = 1 << 24
# What may become new bytes: differences, and copies that are short.
_MAX_ADD, _MAX_COPY = 64, 12


def polished(emitter: Emitter, plan: Plan) -> Plan:
    """Return the plan with steps made new bytes where that makes the patch smaller."""
    if not 1 < len(plan.steps) <= _MAX_STEPS:
        return plan
    best, form = emitter.smallest_form(plan)
    bytes_each = sum(step.length for step in plan.steps if isinstance(step, (Add, Data)))
    if form.has_prefix and plan.prefix is not None:
        bytes_each += plan.prefix[1] - plan.prefix[0]
    most = min(_MAX_ATTEMPTS, _MAX_COMPRESSED_BYTES // max(1, bytes_each))
    attempts, improved = 0, True
    while improved:
        improved = False
        for steps in _simpler(plan.steps):
            if (attempts := attempts + 1) > most:
                return plan
            another = replace(plan, steps=steps)
            if (size := emitter.bytes_without_elements(another, form)) < best:
                best, plan, improved = size, another, True
                break
    return plan


def _simpler(steps: list[Step]) -> Iterator[list[Step]]:
    """Yield steps of which one is new bytes, with those around it that are."""
    for place, step in enumerate(steps):
        short = isinstance(step, Copy) and step.length <= _MAX_COPY
        if not short and not (isinstance(step, Add) and step.length <= _MAX_ADD):
            continue
        first, last = place, place + 1
        while first > 0 and isinstance(steps[first - 1], Data):
            first -= 1
        while last < len(steps) and isinstance(steps[last], Data):
            last += 1
        run = steps[first:last]
        at = next((place for place, one in enumerate(run) if isinstance(one, (Add, Data))), None)
        if at is not None:
            known = run[at]
            assert isinstance(known, (Add, Data))
            start = known.start - sum(one.length for one in run[:at])
            yield [*steps[:first], Data(start, sum(one.length for one in run)), *steps[last:]]
