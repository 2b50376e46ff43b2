"""How a message becomes numbers: the same on the computer that trains and on the device."""

from __future__ import annotations

import re
import zlib

import numpy as np

# Words and pieces of words are counted in so many places, by a checksum. A word that no version has seen has its place
# as well, so the network keeps its shape from version to version, and apps take every one of them.
PLACES = 1024


def numbers(message: str) -> np.ndarray:
    """Return the counts of the message's words, and of their beginnings, each at its place, scaled to length 1."""
    counts = np.zeros(PLACES, np.float32)
    for word in re.findall(r"[a-z']+", message.lower()):
        for piece in {word, word[:4]}:
            counts[zlib.crc32(piece.encode()) % PLACES] += 1
    return counts / max(float(np.linalg.norm(counts)), 1.0)
