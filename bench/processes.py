"""Memory of a family of processes: at rest, and how far each grows while something is done."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Self

import psutil  # type: ignore[import-untyped]

MB = 1_000_000
# Memory that is held for less than this long may be missed.
SAMPLE_SECONDS = 0.05


@dataclass(frozen=True)
class AtRest:
    """Memory of all processes together, in bytes: proportional (shared pages counted once) and resident."""

    processes: int
    proportional: int
    resident: int

    @classmethod
    def of(cls, processes: list[psutil.Process]) -> Self:
        """Measure ``processes`` now."""
        measured = [process.memory_full_info() for process in processes]
        return cls(len(measured), sum(info.pss for info in measured), sum(info.rss for info in measured))


@dataclass
class Growth:
    """By process name: resident memory before, and at its highest; a process born meanwhile has nothing before."""

    before: dict[str, int] = field(default_factory=dict)
    highest: dict[str, int] = field(default_factory=dict)

    def of(self, name: str) -> int:
        """Return by how many bytes the process ``name`` grew."""
        return self.highest[name] - self.before.get(name, 0)

    def worst(self) -> tuple[str, int]:
        """Return the process that grew most, and by how many bytes."""
        return max(((name, self.of(name)) for name in self.highest), key=lambda pair: pair[1])


@contextmanager
def watched_growth(root: psutil.Process) -> Iterator[Growth]:
    """Watch the resident memory of ``root`` and everything it has started, for as long as the block lasts."""
    growth = Growth(before=resident_by_name(root))
    finished = threading.Event()

    def watch() -> None:
        while not finished.wait(SAMPLE_SECONDS):
            for name, size in resident_by_name(root).items():
                growth.highest[name] = max(size, growth.highest.get(name, 0))

    watcher = threading.Thread(target=watch, name="memory", daemon=True)
    watcher.start()
    try:
        yield growth
    finally:
        finished.set()
        watcher.join()


def resident_by_name(root: psutil.Process) -> dict[str, int]:
    """Return the resident memory in bytes of ``root`` and of its descendants, by name and process id."""
    sizes = {}
    for process in [root, *root.children(recursive=True)]:
        try:
            sizes[name_of(process)] = process.memory_info().rss
        except psutil.NoSuchProcess:
            continue
    return sizes


# Words of the command line that tell our processes apart, the most telling first.
NAMES = (
    ("multiprocessing", "patch worker"),
    ("control_plane", "control plane"),
    ("skafos.demo", "demonstration"),
    ("device", "device client"),
    ("edge", "edge"),
    ("up", "skafos up"),
    ("bench.sizes", "SDK client"),
    ("sizes", "SDK client"),
)


def name_of(process: psutil.Process) -> str:
    """Return a readable name of one of Skafos's processes, with its process id."""
    words = [word.removesuffix(".py").rpartition("/")[2] for word in process.cmdline()]
    text = " ".join(process.cmdline())
    known = (name for word, name in NAMES if word in words or (word == "multiprocessing" and word in text))
    return f"{next(known, process.name())} ({process.pid})"
