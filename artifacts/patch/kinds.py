"""Kinds of elements: what the tables of a type of numbers have in common."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

from artifacts.patch.elements import BaseKind, ClassCoding, Number, Table
from artifacts.patch.scales import STEPS

__all__ = ["FACTORS", "FLOATS", "Float", "Kind", "kind_of"]

# An exponent that is greater by one makes a difference half as many units of the last place: `STEPS` levels less.
_SLOPE: Final = -STEPS


_BASES: Final[dict[str, BaseKind]] = {"f16": "half", "bf16": "brain", "f32": "single", "f64": "double"}


@dataclass(frozen=True, slots=True)
class Kind:
    """What tables and their elements share, except for the classes. The attributes are those of `elements.Table`."""

    width: int
    number: Number
    difference: Literal["sub", "none"]
    shift: int = 0
    slope: Literal[1, 0, -1, -2] = 0
    offset: int = 0
    zeros: int = 0
    origin: int = 0
    base: BaseKind = "same"

    def table(self, escapes: int, lut: bytes, classes: tuple[ClassCoding, ...]) -> Table:
        """Return a table of this kind."""
        return Table(
            width=self.width,
            number=self.number,
            difference=self.difference,
            shift=self.shift,
            escapes=escapes,
            lut=lut,
            classes=classes,
            slope=self.slope,
            offset=self.offset,
            zeros=self.zeros,
            origin=self.origin,
            base=self.base,
        )


@dataclass(frozen=True, slots=True)
class Float:
    """A kind of float: where its exponent is, and the exponent of the last place of one whose context is 0."""

    number: Number
    width: int
    shift: int
    offset: int
    unit: int


FLOATS = {
    "f16": Float("float", 2, 10, 0, -15 - 10),
    "bf16": Float("brain", 2, 7, 0, -127 - 7),
    "f32": Float("float", 4, 23, 0, -127 - 23),
    # Exponents of doubles as far as those of floats of 4 bytes go.
    "f64": Float("float", 8, 52, 896, -127 - 52),
}


def kind_of(dtype: str, base: str | None) -> Kind:
    """Return how elements are coded.

    Args:
        dtype: the short name of their type (`tensors.WIDTHS`).
        base: that of the base's elements: the same, or floats where the elements are floats; None without a base.
    """
    kind = FLOATS.get(dtype)
    if kind is None:
        return Kind(int(dtype[1:]) // 8, "plain", "none" if base is None else "sub")
    if base is None:
        return Kind(kind.width, kind.number, "none", kind.shift)
    converted: BaseKind = "same" if base == dtype else _BASES[base]
    return Kind(kind.width, kind.number, "sub", kind.shift, _SLOPE, kind.offset, base=converted)


# Of the factors of matrices.
FACTORS: Final = Kind(4, "plain", "none")
