"""Which settings of zlib make a deflated stream: with them, a patch can be one of what was deflated.

Nothing in a stream names its settings, so the likely ones are tried on its start, and those that make the same bytes on
the rest. Most writers of zips use zlib (Python, Java, Info-ZIP and libarchive with few exceptions); for a stream of
another deflater nothing is found, and it is made symbol by symbol or not at all (`deflate_plan`).

Source: zlib.net, manual, ``deflateInit2``.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain, product

# What is deflated in one go: a comparison that fails stops soon after. Nothing comes out before the first block ends.
_FIRST_STEP_BYTES = 64 * 1024
_STEP_BYTES = 256 * 1024
# All attempts at a file's streams may deflate this many times their bytes, and as many as this in any case. The
# settings that fit are usually the first or the second that are tried, and others part within a block or two.
MAX_ROUNDS = 6
FREE_BYTES = 64 * 1024 * 1024

# Zips hold raw streams. Writers never choose a smaller window than deflate's 32 KiB.
_WINDOW_BITS = -15


@dataclass(frozen=True, slots=True)
class Deflation:
    """Settings of zlib's ``deflateInit2``: the level (1 to 9), and what else its output depends on."""

    level: int
    memory_level: int = 8
    strategy: int = zlib.Z_DEFAULT_STRATEGY
    window_bits: int = _WINDOW_BITS

    def pieces(self, raw: memoryview) -> Iterator[bytes]:
        """Yield the deflated stream of ``raw``, in pieces."""
        deflater = zlib.compressobj(self.level, zlib.DEFLATED, self.window_bits, self.memory_level, self.strategy)
        start, step = 0, _FIRST_STEP_BYTES
        while start < len(raw):
            yield deflater.compress(raw[start : start + step])
            start, step = start + step, _STEP_BYTES
        yield deflater.flush()


def _likely() -> tuple[Deflation, ...]:
    # The default level of nearly all; the best of "as small as possible"; the fastest; then all the others.
    levels = (6, 9, 1, 5, 8, 7, 4, 3, 2)
    usual = [Deflation(level, memory) for memory, level in product((8, 9), levels)]
    strategies = (zlib.Z_FILTERED, zlib.Z_RLE, zlib.Z_FIXED)
    rare = [Deflation(level, memory, kind) for kind, memory, level in product(strategies, (8, 9), (6, 9, 1))]
    # Of these two the level does not matter.
    rare += [Deflation(6, memory, zlib.Z_HUFFMAN_ONLY) for memory in (8, 9)]
    return tuple(usual + rare)


_LIKELY = _likely()


def find_deflation(
    deflated: memoryview, raw: memoryview, first: Iterable[Deflation] = (), budget: int = FREE_BYTES
) -> tuple[Deflation | None, int]:
    """Return the settings with which zlib makes ``deflated`` of ``raw``, and how many bytes were deflated to find them.

    Args:
        deflated: a raw deflate stream (RFC 1951), all of it.
        raw: what it inflates to.
        first: settings to try before all others: those of the stream's neighbours.
        budget: no further settings are tried when this many bytes were deflated.

    Returns:
        None for the settings if none of those that are tried make the stream.
    """
    used = 0
    for candidate in dict.fromkeys(chain(first, _LIKELY)):
        if used >= budget:
            break
        same, tried = _makes(candidate, deflated, raw)
        used += tried
        if same:
            return candidate, used
    return None, used


def _makes(candidate: Deflation, deflated: memoryview, raw: memoryview) -> tuple[bool, int]:
    """Tell whether the settings make the stream, and about how many bytes were deflated to know."""
    position = used = 0
    for piece in candidate.pieces(raw):
        used += _STEP_BYTES if used else _FIRST_STEP_BYTES
        end = position + len(piece)
        if end > len(deflated) or deflated[position:end] != piece:
            return False, min(used, len(raw))
        position = end
    return position == len(deflated), len(raw)
