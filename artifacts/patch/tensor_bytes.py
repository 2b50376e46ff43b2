"""Tensors that zstd tells better than any difference: what is left of the base is left as it is, here and there.

Where weights were pruned, clipped or replaced by others one by one, a difference of an element is all of it or nothing,
and it depends on nothing that a class could tell. With the base as a prefix, zstd finds what was kept.
"""

from __future__ import annotations

from typing import Final

from backports.zstd import ZstdDict

from artifacts.patch.writer import with_prefix

__all__ = ["bits_with_base"]

# What is compressed of a tensor at a time: at a quick level, and, if that promises something, as it will be.
_PIECE_BYTES = 1 << 15
_QUICK_BYTES = 1 << 14
_QUICK_LEVEL: Final = 9
_LEVEL: Final = 19
# Pieces that are tried, of those in which something changed.
_TRIED = 2
# The thorough level may need so much less than the quick one: half, where every other weight was pruned.
_PROMISING = 2.5
# Magic, header and block header of a frame, of which a patch has fewer; and what a frame takes that is all equal.
_OVERHEAD: Final = 12
_EQUAL_BITS = 8 * 12


def bits_with_base(content: memoryview, base: memoryview, enough: float) -> float:
    """Return about what a tensor takes in frames that refer to its base; more than ``enough`` if it is that or more.

    Args:
        content: the tensor's bytes.
        base: as many bytes of its base.
        enough: bits that it takes otherwise.
    """
    starts = range(0, len(content), _PIECE_BYTES)
    changed = [at for at in starts if content[at : at + _PIECE_BYTES] != base[at : at + _PIECE_BYTES]]
    equal = _EQUAL_BITS * (len(starts) - len(changed))
    tried = min(_TRIED, len(changed))
    places = [changed[len(changed) * (2 * number + 1) // (2 * tried)] for number in range(tried)]
    for size, level, promising in ((_QUICK_BYTES, _QUICK_LEVEL, _PROMISING), (_PIECE_BYTES, _LEVEL, 1.0)):
        pieces = [slice(at, at + size) for at in places]
        seen = sum(len(content[piece]) for piece in pieces)
        prefixes = [ZstdDict(bytes(base[piece]), is_raw=True).as_prefix for piece in pieces]
        frames = [with_prefix(content[piece], prefix, level) for piece, prefix in zip(pieces, prefixes, strict=True)]
        packed = sum(len(frame) - _OVERHEAD for frame in frames)
        bits = equal + 8.0 * packed * _PIECE_BYTES * len(changed) / max(1, seen)
        if bits > promising * enough:
            break
    return bits
