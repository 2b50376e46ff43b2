"""How the deflated members of a target will be made again: by zlib, or symbol by symbol.

Symbol by symbol any stream can be made, whatever wrote it, sooner than by zlib and without the one version of it that
makes the same bytes. But the patch has to say where matches are: of weights, which have few, some thousandths of their
bytes. So they are made that way, unless zlib makes them too and what is said would be much of the patch. Text, which
consists of matches, is made by zlib if that can.
"""

from __future__ import annotations

from collections.abc import Iterator
from hashlib import sha256

import numpy as np

from artifacts.patch.containers import Deflated, DeflationSearch
from artifacts.patch.deflation import Deflation
from artifacts.patch.opened import Opened
from artifacts.patch.parse_deflate import Block, Dense, ReadLimits, Unreadable, parsed
from artifacts.patch.segments import segments_of
from artifacts.patch.symbols import Beginning, Segment, Symbols

__all__ = ["MemberPlan"]

# Shorter members are made by zlib if it can: there is no time to be won.
_LEAST_BYTES = 1 << 16
# One match in so many bytes is more than weights have; the first ones may stand closer.
_SPARSE = ReadLimits(1024, 96)
# Of a stream that zlib does not make more is read. But of all together not many more matches than weights have.
_ANY = ReadLimits(1 << 15, 32)
_ALL_MATCHES = 1 << 18
# Members that are shorter and that zlib does not make stay opaque, unless they are more than this share of the file: a
# TorchScript has a hundred of them, the code beside its weights, and decoding them would take longer than the weights.
_SMALL_BYTES, _SMALL_SHARE = 1 << 14, 1 / 16
# What may be said of a member, as a share of all else that the patch says of it.
_SHARE = 0.1
# So many bytes that two streams begin with are worth a look at their blocks. Of streams that begin with the same few
# bytes, so many are compared.
_LEAST_KEPT_BYTES = 1 << 12
_START_BYTES, _MOST_ALIKE = 64, 8
_STEP_BYTES = 1 << 16


class MemberPlan:
    """Finds out how the members of a target can be made.

    Args:
        old: the base.
        new: the target.
    """

    def __init__(self, old: Opened, new: Opened) -> None:
        self._old, self._new = old, new
        self._search = DeflationSearch(new.unpacked)
        self._hashes = [_hash_of(old, one) for one in old.unpacked.deflated]
        self._known = frozenset(self._hashes)
        # Of members that the target has as they are.
        self._same: set[bytes] = set()
        self._matches_left = _ALL_MATCHES + sum(one.length for one in new.unpacked.deflated) // _SPARSE.bytes_per_match
        self._alike: dict[bytes, list[Deflated]] = {}
        for stream in old.unpacked.deflated:
            if stream.deflated_length >= _LEAST_KEPT_BYTES:
                start = bytes(old.unpacked.view(stream.offset, _START_BYTES))
                self._alike.setdefault(start, []).append(stream)
        small = sum(one.deflated_length for one in new.unpacked.deflated if one.length < _SMALL_BYTES)
        self._least_bytes = 0 if small > _SMALL_SHARE * len(new.unpacked.data) else _SMALL_BYTES
        self._by_offset = {one.offset: one for one in new.unpacked.deflated}

    def ways(self) -> list[Deflation | Symbols | None]:
        """Return how each member can be made; None for those that cannot, and those that the base has as they are."""
        return [self._way(stream) for stream in self._new.unpacked.deflated]

    def noise(self) -> Iterator[tuple[int, int]]:
        """Yield where members of the base are deflated that the target has not as they are, once `ways` has told."""
        for one, digest in zip(self._old.unpacked.deflated, self._hashes, strict=True):
            if digest not in self._same:
                yield one.offset, one.offset + one.deflated_length

    def cheaper(self, how: Deflation | Symbols, stream_offset: int, bits: float) -> Deflation | Symbols:
        """Return a cheaper way to make a member if there is one, and what is said of its symbols takes too much.

        Args:
            how: the way that was found.
            stream_offset: where the deflated member begins.
            bits: what the patch takes for the member's bytes.
        """
        if not isinstance(how, Symbols) or how.bits <= _SHARE * bits:
            return how
        return self._search.settings(self._by_offset[stream_offset]) or how

    def _way(self, stream: Deflated) -> Deflation | Symbols | None:
        digest = _hash_of(self._new, stream)
        if digest in self._known:
            self._same.add(digest)
            return None
        if stream.length >= _LEAST_BYTES:
            symbols = self._symbols(stream, _SPARSE)
            if symbols is not None:
                return symbols
        settings = self._search.settings(stream)
        if settings is None and stream.length >= self._least_bytes:
            return self._symbols(stream, _ANY)
        return settings

    def _symbols(self, stream: Deflated, limits: ReadLimits) -> Symbols | None:
        deflated = self._new.unpacked.view(stream.offset, stream.deflated_length)
        raw = self._new.unpacked.view(stream.start, stream.length)
        same, address = self._same_beginning(deflated)
        kept: Beginning | None = None
        segments: list[Segment] = []
        before: Block | None = None
        limits = limits._replace(free_matches=min(limits.free_matches, max(0, self._matches_left)))
        read = 0
        try:
            for block in parsed(deflated, raw, limits):
                read += len(block.places)
                if block.bit <= 8 * same and block.start:
                    # Empty blocks before it are kept too.
                    segments.clear()
                    kept = Beginning(block.start, block.bit, address)
                elif before is not None:
                    segments += segments_of(before, raw)
                before = block
        except Unreadable:
            return None
        except Dense as problem:
            read = problem.matches
            return None
        finally:
            self._matches_left -= read
        if before is not None:
            segments += segments_of(before, raw)
        return Symbols(tuple(segments), kept)

    def _same_beginning(self, deflated: memoryview) -> tuple[int, int]:
        """Return with how many bytes a member of the base begins as this one does, and that one's address."""
        found = 0, 0
        for other in self._alike.get(bytes(deflated[:_START_BYTES]), ())[:_MOST_ALIKE]:
            known = self._old.unpacked.view(other.offset, other.deflated_length)
            found = max(found, (_common(known, deflated), other.offset))
        return found if found[0] >= _LEAST_KEPT_BYTES else (0, 0)


def _common(one: memoryview, other: memoryview) -> int:
    """Return how many bytes two streams have in common at their start."""
    length = min(len(one), len(other))
    for start in range(0, length, _STEP_BYTES):
        end = min(start + _STEP_BYTES, length)
        if one[start:end] != other[start:end]:
            differ = np.frombuffer(one[start:end], np.uint8) != np.frombuffer(other[start:end], np.uint8)
            return start + int(differ.argmax())
    return length


def _hash_of(file: Opened, stream: Deflated) -> bytes:
    """Return the hash of a deflated stream: many are as long as their file, and copies of them would be too."""
    return sha256(file.unpacked.view(stream.offset, stream.deflated_length)).digest()
