"""Small edits that lie close together: new bytes whose frame refers to the old bytes around them.

Many short copies and differences cost more in operations than zstd needs to find the same pieces in a prefix. So a run
of them is written as new bytes, where that is smaller.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from backports.zstd import CompressionParameter, ZstdCompressor, ZstdDict

from artifacts.patch.elements import Buffer
from artifacts.patch.format import MIN_PREFIX_BYTES
from artifacts.patch.opened import Opened
from artifacts.patch.operations import Add, Copy, Data
from artifacts.patch.planner import difference
from artifacts.patch.steps import Prefixed, Step

__all__ = ["with_prefixes"]

# Longer copies stay, and end a run.
_LONG_COPY = 2048
# What a run makes at most, so that it fits into one frame, and what a prefix has.
_MAX_RUN, _MAX_PREFIX = 1 << 15, 1 << 16
# Old bytes before and behind what a run refers to.
_MARGIN = 1024
# What an operation takes beside its bytes, and a frame with a prefix; what replacing a run must save. Many operations
# that are alike take less; so this is tried and compared.
_STEP_BYTES, _FRAME_BYTES, _MIN_SAVED = 3.0, 9, 4
# Runs that are tried: their compression takes a millisecond each.
_MAX_TRIED = 2000
_LEVEL: Final = 19
# Of a zstd frame with a content size.
_HEADER_BYTES = 6


def with_prefixes(old: Opened, new: Opened, steps: Sequence[Step]) -> list[Step]:
    """Return the same steps with those runs of small ones replaced that are smaller as new bytes with a prefix."""
    found: list[Step] = []
    tried = 0
    for run, before, after in _runs(steps):
        replacement = None
        if before is not None and tried < _MAX_TRIED and any(not isinstance(step, Copy) for step in run):
            tried += 1
            replacement = _replacement(old, new, run, before, after)
        found += run if replacement is None else [replacement]
    return found


def _runs(steps: Sequence[Step]) -> Iterator[tuple[list[Step], int | None, int | None]]:
    """Yield runs of small steps, with the addresses that the sources of the steps around them end and begin at."""
    run: list[Step] = []
    length = 0
    before: int | None = 0
    for step in steps:
        if _is_small(step) and length + step.length <= _MAX_RUN:
            run.append(step)
            length += step.length
            continue
        after = step.source if isinstance(step, (Copy, Add)) else None
        if run:
            yield run, before, after
        run, length = ([step], step.length) if _is_small(step) else ([], 0)
        if not run:
            yield [step], None, None
            before = step.source + step.length if isinstance(step, Copy) else None
    if run:
        yield run, before, None


def _is_small(step: Step) -> bool:
    limit = _LONG_COPY if isinstance(step, Copy) else _MAX_RUN
    return isinstance(step, (Add, Copy, Data)) and step.length <= limit


def _replacement(old: Opened, new: Opened, run: list[Step], before: int, after: int | None) -> Prefixed | None:
    """Return one step for a run, if that is smaller."""
    source, end = _place(old, run, before, after)
    if end - source < MIN_PREFIX_BYTES:
        return None
    content = b"".join(_made(old, new, step) for step in run)
    packed = _packed(content, old.content[source:end]) + _FRAME_BYTES + _STEP_BYTES
    return Prefixed(content, source, end - source) if packed + _MIN_SAVED < _apart_bytes(old, new, run) else None


def _place(old: Opened, run: Sequence[Step], before: int, after: int | None) -> tuple[int, int]:
    """Return the old bytes around what a run refers to: all in the file, or all in one of its members."""
    reads = [(step.source, step.source + step.length) for step in run if isinstance(step, (Add, Copy))]
    reads = [(start, end) for start, end in reads if end <= len(old.content)]
    known = [before, *(after for after in [after] if after is not None and after <= len(old.content))]
    first = min([start for start, _ in reads] + known) - _MARGIN
    last = max([end for _, end in reads] + known) + _MARGIN
    start, end = _around(old, before)
    first, last = max(first, start), min(last, end)
    if last - first > _MAX_PREFIX:
        # What comes before is the likeliest to be of use.
        first = max(first, before - _MAX_PREFIX // 4)
        last = min(last, first + _MAX_PREFIX)
    return first, last


def _around(old: Opened, address: int) -> tuple[int, int]:
    """Return the part of the old addresses that an address is in: the file, or one of its members."""
    for stream in old.unpacked.deflated:
        if stream.start <= address <= stream.start + stream.length:
            return stream.start, stream.start + stream.length
    return 0, len(old.unpacked.data)


def _made(old: Opened, new: Opened, step: Step) -> bytes:
    if isinstance(step, Copy):
        own = step.source - len(old.content)
        content, at = (old.content, step.source) if own < 0 else (new.content, own)
        return bytes(content[at : at + step.length])
    assert isinstance(step, (Add, Data))
    return bytes(new.content[step.start : step.start + step.length])


def _apart_bytes(old: Opened, new: Opened, run: Sequence[Step]) -> float:
    """Return about what a run takes as it is."""
    data = b"".join(_made(old, new, step) for step in run if isinstance(step, Data))
    differences = b"".join(difference(old, new, step) for step in run if isinstance(step, Add))
    return _STEP_BYTES * len(run) + _packed(data) + _packed(differences)


def _packed(content: Buffer, prefix: Buffer = b"") -> int:
    """Return what bytes take in a zstd frame, without its headers."""
    if not len(content):
        return 0
    options = {int(CompressionParameter.compression_level): _LEVEL}
    known = ZstdDict(bytes(prefix), is_raw=True).as_prefix if len(prefix) >= MIN_PREFIX_BYTES else None
    frame = ZstdCompressor(options=options, zstd_dict=known).compress(content, ZstdCompressor.FLUSH_FRAME)
    return min(len(frame) - _HEADER_BYTES, len(content))
