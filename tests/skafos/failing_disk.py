"""A disk that fails on purpose: real calls of the file system raise what a full or broken disk makes them raise.

Python announces each call by an audit event before it is made, and a hook that raises takes the call's place. So
nothing has to be known of how a file is opened. Hooks stay for as long as the process, so there is one for all tests.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass

WRITES = frozenset({"os.mkdir", "os.rename", "os.link", "os.symlink"})
READS = frozenset({"os.listdir", "os.scandir"})
REMOVALS = frozenset({"os.remove", "os.rmdir"})
_WRITE_FLAGS = os.O_WRONLY | os.O_RDWR | os.O_CREAT


@dataclass(frozen=True)
class _Rule:
    """Which calls fail with which error."""

    number: int
    part: str
    steps: frozenset[str]
    opening: tuple[bool, ...]

    def apply(self, event: str, arguments: tuple[object, ...]) -> None:
        if event == "open":
            flags = arguments[2]
            if not isinstance(flags, int) or bool(flags & _WRITE_FLAGS) not in self.opening:
                return
        elif event not in self.steps:
            return
        for path in arguments[:2]:
            if isinstance(path, str) and self.part in path:
                raise OSError(self.number, os.strerror(self.number), path)


_rules: list[_Rule] = []
_hooked: list[bool] = []


def _hook(event: str, arguments: tuple[object, ...]) -> None:
    for rule in tuple(_rules):
        rule.apply(event, arguments)


@contextmanager
def _failing(rule: _Rule) -> Iterator[None]:
    if not _hooked:
        sys.addaudithook(_hook)
        _hooked.append(True)
    _rules.append(rule)
    try:
        yield
    finally:
        _rules.remove(rule)


def unwritable(part: str, number: int) -> AbstractContextManager[None]:
    """Let nothing be written whose path holds ``part``, while the block runs."""
    return _failing(_Rule(number, part, WRITES, (True,)))


def unreadable(part: str, number: int) -> AbstractContextManager[None]:
    """Let nothing be read whose path holds ``part``, while the block runs."""
    return _failing(_Rule(number, part, READS, (False,)))


def undeletable(part: str, number: int) -> AbstractContextManager[None]:
    """Let nothing be removed whose path holds ``part``, while the block runs."""
    return _failing(_Rule(number, part, REMOVALS, ()))
