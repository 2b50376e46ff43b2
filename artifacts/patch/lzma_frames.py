"""Frames by LZMA, both ways: what is smallest for a few kilobytes of operations, differences and new bytes.

LZMA looks at each bit in the context of bytes and places around it, where zstd's Huffman codes see bytes alone. It
takes ten times as long for each byte, so only small streams have it. A frame is one chunk of LZMA2 without its head,
which a decoder can make.
"""

from __future__ import annotations

import lzma
from collections.abc import Sequence
from typing import Final

from artifacts.errors import PatchInvalid

__all__ = ["MAX_PAYLOAD_BYTES", "packed", "unpacked"]

Buffer = bytes | bytearray | memoryview

# A chunk of LZMA2 has no more compressed bytes.
MAX_PAYLOAD_BYTES: Final = 1 << 16
# The head of a chunk: a byte that says that everything begins anew, with the upper bits of the content's length minus
# one; the other 16 bits of that; the compressed length minus one; and the properties. Then the range coder's first
# byte, which is always 0. A byte of 0 ends the chunks.
_BEGINS: Final = 0xE0
_HEAD_BYTES: Final = 6
# liblzma's dictionary has no fewer bytes.
_MIN_DICTIONARY: Final = 4096
# lc + lp: with more, the decoder's tables grow beyond 28 KiB. pb is at most 4.
_MAX_LITERAL_BITS, _MAX_POSITION_BITS = 4, 4
# What is tried: literals by themselves, by the byte before them, and by their place in a word.
_PROPERTIES = ((0, 0, 0), (1, 0, 0), (3, 0, 0), (0, 0, 2))
_NICE_BYTES, _DEPTH = 273, 256


def packed(content: Buffer, properties: Sequence[tuple[int, int, int]] = _PROPERTIES) -> bytes:
    """Return the smallest payload of a frame; longer than `MAX_PAYLOAD_BYTES` if there is none.

    Args:
        content: of the frame.
        properties: lc, lp and pb that are tried.
    """
    return min((_packed(content, *each) for each in properties), key=len)


def _packed(content: Buffer, literal_bits: int, literal_places: int, places: int) -> bytes:
    coder = lzma.compress(
        content,
        lzma.FORMAT_RAW,
        filters=[
            {
                "id": lzma.FILTER_LZMA2,
                "dict_size": max(len(content), _MIN_DICTIONARY),
                "lc": literal_bits,
                "lp": literal_places,
                "pb": places,
                "mode": lzma.MODE_NORMAL,
                "mf": lzma.MF_BT4,
                "nice_len": _NICE_BYTES,
                "depth": _DEPTH,
            }
        ],
    )
    length = 1 + int.from_bytes(coder[3:5], "big")
    if coder[0] >> 5 != _BEGINS >> 5 or len(coder) != _HEAD_BYTES + length + 1:
        return bytes(MAX_PAYLOAD_BYTES + 1)  # several chunks, or one that is not compressed
    return coder[_HEAD_BYTES - 1 : _HEAD_BYTES] + coder[_HEAD_BYTES + 1 : -1]


def unpacked(payload: bytes, length: int) -> bytes:
    """Return the content of a frame.

    Args:
        payload: at least one byte.
        length: of the content, in bytes: what is allocated, beside 28 KiB.

    Raises:
        PatchInvalid: it is not exactly that.
    """
    literal, positions = payload[0] % 45, payload[0] // 45
    if literal // 9 + literal % 9 > _MAX_LITERAL_BITS or positions > _MAX_POSITION_BITS:
        raise PatchInvalid("a frame by LZMA has properties that are not allowed")
    sizes = (length - 1 & 0xFFFF).to_bytes(2, "big") + (len(payload) - 1).to_bytes(2, "big")
    chunk = bytes([_BEGINS | length - 1 >> 16]) + sizes + payload[:1] + b"\0" + payload[1:] + b"\0"
    decoder = lzma.LZMADecompressor(
        lzma.FORMAT_RAW, filters=[{"id": lzma.FILTER_LZMA2, "dict_size": max(length, _MIN_DICTIONARY)}]
    )
    try:
        content = decoder.decompress(chunk, length + 1)
    except (lzma.LZMAError, EOFError) as problem:
        raise PatchInvalid("a frame is damaged") from problem
    if len(content) != length or not decoder.eof or decoder.unused_data:
        raise PatchInvalid("a frame holds another number of bytes than it says")
    return content
