"""How the elements of tensors are coded: a table of classes, and blocks of elements in both directions.

An element is an unsigned integer of 1, 2, 4 or 8 bytes, little-endian. It becomes a number that is small when a
tensor changed little: the difference from the element of the base, with the sign folded into the lowest bit. How large
it is depends on what the base says of it, above all on the exponent of a float. So elements are sorted into classes by
the base's bits (and by the group of elements that they are in), and each class has its own coding: how many of the low
bits are stored as they are, and which stream has the rest, one byte an element, whose statistics are then those of one
class alone (Golomb-Rice coding, whose quotient an entropy coder takes).

Nothing here reads or writes files, and nothing knows of models: blocks in, bytes of numbered streams out, and back.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

__all__ = ["ClassCoding", "Table"]


@dataclass(frozen=True, slots=True)
class ClassCoding:
    """How the elements of one class are written.

    Attributes:
        symbols: the stream of the high parts, one byte an element.
        low_bits: how many low bits are written apart from the symbol.
        low_planes: the streams of the whole bytes among the low bits, lowest first.
        bits: the stream of the other low bits, packed; None if there are none.
        mask: the stream of one bit an element that tells zero from the rest, of a class most of which is zero.
    """

    symbols: int
    low_bits: int = 0
    low_planes: tuple[int, ...] = ()
    bits: int | None = None
    mask: int | None = None


@dataclass(frozen=True, slots=True)
class Table:
    """How the elements of a tensor are coded.

    Attributes:
        width: of an element in bytes: 1, 2, 4 or 8.
        number: ``float`` if the bits are sign and magnitude, ``plain`` if they count.
        difference: what is written of an element and its base: ``sub``, ``xor``, or ``none`` without a base.
        shift: how far the base's bits are shifted down to make the context, whose low 8 bits count.
        escapes: the stream of what does not fit into a symbol.
        lut: the class of each context, 256 for each group.
        classes: the codings, 16 at most.
        group_log: the logarithm of the number of elements in a group; 0 if there are no groups.
        groups: the stream of the group bytes; None if there are no groups.
    """

    width: int
    number: Literal["plain", "float"]
    difference: Literal["sub", "xor", "none"]
    shift: int
    escapes: int
    lut: bytes
    classes: tuple[ClassCoding, ...]
    group_log: int = 0
    groups: int | None = None
