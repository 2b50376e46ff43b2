"""The steps that make a target, in its order: what the encoder decides before anything is written."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from artifacts.patch.axes import Axes
from artifacts.patch.containers import Unpacked
from artifacts.patch.deflation import Deflation
from artifacts.patch.operations import Copy, Data, Operation
from artifacts.patch.symbols import Symbols
from artifacts.patch.tensor_plan import TensorPlan
from artifacts.patch.tensors import Tensor

__all__ = [
    "AnyTensor",
    "Deflate",
    "DeflateEnd",
    "Prefixed",
    "Segment",
    "Step",
    "TensorBytes",
    "TensorStep",
    "Words",
    "joined",
    "segments",
]


@dataclass(frozen=True, slots=True)
class TensorStep:
    """A tensor of the target, by its elements.

    Attributes:
        tensor: of the target.
        source: the address of its base; None without one.
        base_width: the bytes of an element of the base.
        plan: how it is coded.
        matched_bits: about what it would take as bytes that are matched.
        axes: the order in which the base has its elements; None if it is that of the tensor.
    """

    tensor: Tensor
    source: int | None
    base_width: int
    plan: TensorPlan
    matched_bits: float
    axes: Axes | None = None

    @property
    def length(self) -> int:
        """Bytes of the target."""
        return self.tensor.length

    @property
    def bits(self) -> float:
        """About what it takes."""
        return self.plan.bits

    @property
    def same_source(self) -> int | None:
        """The address of the same bytes of the base; None if elements are others there, or in another order."""
        return self.source if self.base_width == self.tensor.width and self.axes is None else None


@dataclass(frozen=True, slots=True)
class TensorBytes:
    """A tensor of the target, as new bytes whose frames refer to the bytes in the same place of its base.

    Attributes:
        tensor: of the target.
        source: the address of its base, which is as long.
        bits: about what it takes.
    """

    tensor: Tensor
    source: int
    bits: float

    @property
    def length(self) -> int:
        """Bytes of the target."""
        return self.tensor.length

    @property
    def same_source(self) -> int:
        """The address of its base."""
        return self.source


# However a tensor is made.
AnyTensor = TensorStep | TensorBytes


@dataclass(frozen=True, slots=True)
class Deflate:
    """A deflated member of the target: the steps that follow make its raw bytes.

    Attributes:
        how: with which settings zlib makes the member, or symbol by symbol.
        raw_length: how many raw bytes follow.
        length: the deflated bytes.
    """

    how: Deflation | Symbols
    raw_length: int
    length: int

    @property
    def symbols(self) -> Symbols | None:
        """What is said of its symbols; None if zlib makes it."""
        return self.how if isinstance(self.how, Symbols) else None


@dataclass(frozen=True, slots=True)
class DeflateEnd:
    """The raw bytes of a deflated member end here: no step goes across."""

    length: int = 0


@dataclass(frozen=True, slots=True)
class Prefixed:
    """New bytes that are written with a part of the base as a prefix.

    Attributes:
        content: the bytes.
        source: the address of the prefix.
        source_length: its bytes.
    """

    content: bytes
    source: int
    source_length: int

    @property
    def length(self) -> int:
        """Bytes of the target."""
        return len(self.content)


@dataclass(frozen=True, slots=True)
class Words:
    """Whole numbers of 4 bytes, as differences to those of a source.

    Attributes:
        source: an address as that of a copy.
        start: the first byte in the target.
        length: a multiple of 4.
        bits: about what they take.
    """

    source: int
    start: int
    length: int
    bits: float


Step = Operation | AnyTensor | Deflate | DeflateEnd | Prefixed | Words


@dataclass(frozen=True, slots=True)
class Segment:
    """A range of the target's addresses that steps make one after the other.

    Attributes:
        start: its first address.
        end: the address behind its last one.
        deflate: the member whose raw bytes these are, if they are.
        written: how many bytes of the target are there when a member begins.
    """

    start: int
    end: int
    deflate: Deflate | None = None
    written: int = 0


def segments(unpacked: Unpacked, deflations: Sequence[Deflation | Symbols | None]) -> Iterator[Segment]:
    """Yield the segments of a target, in its order.

    Args:
        unpacked: the target.
        deflations: of each of its deflated streams, how it will be made; None if it is opaque.
    """
    at, length = 0, len(unpacked.data)
    for stream, how in zip(unpacked.deflated, deflations, strict=True):
        if how is None:
            continue
        if at < stream.offset:
            yield Segment(at, stream.offset)
        deflate = Deflate(how, stream.length, stream.deflated_length)
        yield Segment(stream.start, stream.start + stream.length, deflate, stream.offset)
        at = stream.offset + stream.deflated_length
    if at < length:
        yield Segment(at, length)


def joined(steps: Sequence[Step], own: int) -> list[Step]:
    """Return the same steps with those made one that go on where the one before them ends.

    Args:
        steps: in the order of the target.
        own: the address that the target's own bytes begin at. Copies of these stay apart: a copy reads no byte that it
            makes itself.
    """
    found: list[Step] = []
    for step in steps:
        last = found[-1] if found else None
        if isinstance(step, Copy) and isinstance(last, Copy) and last.source + last.length == step.source < own:
            found[-1] = Copy(last.source, last.length + step.length)
        elif isinstance(step, Data) and isinstance(last, Data) and last.start + last.length == step.start:
            found[-1] = Data(last.start, last.length + step.length)
        else:
            found.append(step)
    return found
