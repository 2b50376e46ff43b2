"""The last bytes of small patches: what polishing saves, and that it comes to an end."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from artifacts.patch.emit import Emitter, Form
from artifacts.patch.opened import opened
from artifacts.patch.operations import Add, Copy, Data
from artifacts.patch.planner import Plan
from artifacts.patch.polish import polished
from artifacts.patch.steps import Step


class Counting(Emitter):
    """Counts how often it is asked what a patch takes."""

    asked = 0

    def bytes_without_elements(self, plan: Plan, form: Form | None = None) -> int:
        self.asked += 1
        return super().bytes_without_elements(plan, form)


def edited(folder: Path, appended: int) -> tuple[Path, Path, list[Step]]:
    """Return two files that differ in forty bytes and in what is appended, and steps that make the new one."""
    rng = np.random.default_rng(1)
    old = rng.integers(97, 123, 4096, np.uint8)
    new = old.copy()
    new[50::100] -= 60
    (folder / "old").write_bytes(old.tobytes())
    (folder / "new").write_bytes(new.tobytes() + rng.bytes(appended))
    steps: list[Step] = []
    at = 0
    for place in range(50, 4096, 100):
        steps += [Copy(at, place - at), Add(place, place, 1)]
        at = place + 1
    steps.append(Copy(at, 4096 - at))
    if appended:
        steps.append(Data(4096, appended))
    return folder / "old", folder / "new", steps


def test_a_difference_becomes_a_new_byte_where_that_is_smaller(tmp_path: Path) -> None:
    old, new, steps = edited(tmp_path, 0)
    with opened(old) as before, opened(new) as after:
        emitter = Counting(before, after)
        plan = polished(emitter, Plan(steps))
        assert emitter.asked > 10
        assert emitter.bytes_without_elements(plan) <= emitter.bytes_without_elements(Plan(steps))


def test_attempts_end_where_each_compresses_much(tmp_path: Path) -> None:
    old, new, steps = edited(tmp_path, 3 << 20)
    with opened(old) as before, opened(new) as after:
        emitter = Counting(before, after)
        polished(emitter, Plan(steps))
        assert emitter.asked <= 6
