"""Which tensor of the old file a tensor of the new one is best coded against.

Names say it mostly, though exporters number them anew, and a tensor can be renamed, moved or have more rows than
before. So what a name proposes is checked on a sample: elements that were changed a little need fewer bits than those
of two tensors that share nothing. Where no name leads to such a tensor, the content is looked for.
"""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from artifacts.patch.anchors import WINDOW, Anchors
from artifacts.patch.containers import SEPARATOR, Buffer, Unpacked
from artifacts.patch.similarity import Ordered, View, cost, is_float, sample, unrelated_cost
from artifacts.patch.tensors import Tensor

__all__ = ["align"]

# Bits that an element must gain from its base before two tensors are taken to be related; with few elements, this many
# by the root of their number: three times what the sample errs by, since it is asked of many pairs.
_GAIN = 0.5
_NOISE = 6.0
# Fewer elements say nothing by their sample; their name decides.
_FEW = 32
# Old tensors of the same size that are tried when no name is of help.
_MAX_TRIED = 64
# The shortest tensor whose content is looked for at any place, and the shortest part of one that is aligned on its own.
_MIN_MOVED_BYTES = 4096
_MIN_PART_BYTES = 256
# Rows that are aligned one by one, where a dimension inside has grown.
_MAX_ROWS = 4096
_MIN_ROW_BYTES = 256
# Pieces of one tensor that are measured, and samples of the old file that are kept, of some 8 KB each.
_MEASURED_PIECES = 16
_MAX_KEPT_SAMPLES = 4096

Pair = tuple[Tensor, Tensor | None]


def align(
    base: Sequence[Tensor], target: Sequence[Tensor], base_data: Buffer | Unpacked, target_data: Buffer | Unpacked
) -> list[Pair]:
    """Pair each target tensor with the base tensor that it comes from.

    Args:
        base: the old file's tensors.
        target: the new file's.
        base_data: the old file, as it was given to `find_tensors`.
        target_data: the new file likewise.

    Returns:
        Pairs of a target tensor, or a part of one, and its base, None where there is none; in the order of ``target``,
        of which they cover every element once. Both have the same number of elements, and of the same type, but that
        floats may have a base of other floats. A part of whole rows keeps the dimensions of a row.
    """
    aligner = _Aligner(base, target, _view_of(base_data), _view_of(target_data))
    return [pair for tensor in target for pair in aligner.pairs(tensor)]


def _view_of(data: Buffer | Unpacked) -> View:
    if isinstance(data, Unpacked):
        return data.view
    view = memoryview(data).cast("B")
    return lambda start, length: view[start : start + length]


@dataclass(frozen=True, slots=True)
class _Piece:
    """A run of elements of a new tensor, and the old one that it is coded against."""

    start: int
    base: Tensor
    base_start: int
    count: int


@dataclass(frozen=True, slots=True)
class _Fit:
    """A way to code a new tensor against old ones, and the bits that it saves over unrelated ones."""

    pieces: tuple[_Piece, ...]
    gain: float
    count: int

    @property
    def is_good(self) -> bool:
        """Whether the tensors are related, as far as a sample tells."""
        return self.gain > max(_GAIN, _NOISE / math.sqrt(self.count)) * self.count


class _Aligner:
    """The two sides, and what is known of them so far."""

    def __init__(self, base: Sequence[Tensor], target: Sequence[Tensor], base_view: View, target_view: View) -> None:
        self._base_view = base_view
        self._target_view = target_view
        self._old = _groups(base)
        # How many of the same key come before a new tensor: that many come before its base, if none was added.
        self._ranks = {
            (key, tensor.start): rank for key, tensors in _groups(target).items() for rank, tensor in enumerate(tensors)
        }
        self._samples = _Samples(base_view)
        self._anchors: dict[str, Anchors] = {}
        self._of_type: dict[str, list[Tensor]] = defaultdict(list)
        for tensor in base:
            self._of_type[tensor.dtype].append(tensor)

    def pairs(self, tensor: Tensor) -> Iterator[Pair]:
        """Yield the parts of a new tensor with their bases."""
        fit = self._best(tensor)
        return _cover(tensor, () if fit is None else fit.pieces)

    def _best(self, tensor: Tensor) -> _Fit | None:
        unrelated = unrelated_cost(sample(self._target_view, tensor))
        proposed: _Fit | None = None
        for base in self._proposals(tensor):
            fit = self._fit(tensor, base, unrelated)
            if fit.is_good and base.count == tensor.count:
                return fit
            # What nothing confirms is a base only if it needs no conversion.
            better = proposed is None or fit.gain > proposed.gain
            if better and (fit.is_good or (proposed is None and base.dtype == tensor.dtype)):
                proposed = fit
        if tensor.count < _FEW:
            return proposed
        same = (self._fit(tensor, base, unrelated) for base in self._of_size(tensor))
        best = max(same, key=lambda fit: fit.gain, default=None)
        if best is None or not best.is_good:
            best = self._moved(tensor, unrelated)
        return best if best.is_good and (proposed is None or best.gain > proposed.gain) else proposed

    def _proposals(self, tensor: Tensor) -> Iterator[Tensor]:
        """Yield old tensors that the name, or else the place among others of the same shape, proposes."""
        seen: set[int] = set()
        for key in _keys(tensor):
            group = self._old.get(key, [])
            rank = self._ranks[key, tensor.start]
            if rank < len(group) and group[rank].start not in seen:
                seen.add(group[rank].start)
                yield group[rank]

    def _of_size(self, tensor: Tensor) -> Iterable[Tensor]:
        """Yield old tensors of the same number of elements, those that are nearest in the order of their group."""
        for key in _size_keys(tensor):
            group = self._old.get(key, [])
            first = max(0, min(self._ranks[key, tensor.start] - _MAX_TRIED // 2, len(group) - _MAX_TRIED))
            yield from group[first : first + _MAX_TRIED]

    def _fit(self, tensor: Tensor, base: Tensor, unrelated: float) -> _Fit:
        fits = [self._measured(tensor, pieces, unrelated) for pieces in _layouts(tensor, base)]
        return max(fits, key=lambda fit: fit.gain)

    def _moved(self, tensor: Tensor, unrelated: float) -> _Fit:
        """Return how the parts of a tensor are found anywhere in the old file."""
        pieces: tuple[_Piece, ...] = ()
        if tensor.length >= _MIN_MOVED_BYTES:
            if tensor.dtype not in self._anchors:
                self._anchors[tensor.dtype] = Anchors(self._of_type[tensor.dtype], self._base_view)
            olds = self._of_type[tensor.dtype]
            parts = self._anchors[tensor.dtype].parts(tensor, self._target_view, unrelated)
            found = (_Piece(part.start, olds[part.base], part.base_start, part.count) for part in parts)
            pieces = tuple(_of_rows(tensor, found))
        return self._measured(tensor, pieces, unrelated)

    def _measured(self, tensor: Tensor, pieces: tuple[_Piece, ...], unrelated: float) -> _Fit:
        gain = 0.0
        # Of many rows some are measured, and stand for the others.
        looked_at = pieces[:: max(1, len(pieces) // _MEASURED_PIECES)]
        for piece in looked_at:
            new = sample(self._target_view, tensor, piece.start, piece.count)
            old = self._samples.get(piece.base, piece.base_start, piece.count, tensor.dtype)
            gain += (unrelated - cost(new, old)) * piece.count
        return _Fit(pieces, gain * len(pieces) / max(1, len(looked_at)), tensor.count)


class _Samples:
    """Samples of old tensors: many new ones are compared with the same."""

    def __init__(self, view: View) -> None:
        self._view = view
        self._kept: dict[tuple[int, int, str], Ordered] = {}

    def get(self, tensor: Tensor, first: int, count: int, dtype: str) -> Ordered:
        """Return the sample of a run of elements, as elements of this type."""
        key = (tensor.start + first * tensor.width, count, dtype)
        if key not in self._kept:
            if len(self._kept) >= _MAX_KEPT_SAMPLES:
                self._kept.clear()
            self._kept[key] = sample(self._view, tensor, first, count, dtype)
        return self._kept[key]


_Key = tuple[str | int | tuple[int, ...], ...]

_DIGITS = re.compile(r"\d+")
_SEPARATORS = re.compile(r"[./:]")


def _keys(tensor: Tensor) -> Iterator[_Key]:
    """Yield what a tensor and its base have in common, from what says most to what says least."""
    name, dtype = tensor.name, tensor.dtype
    if name:
        # Of several models in one archive each has its own file; the outermost name is that of the archive.
        yield ("file", tensor.member.partition(SEPARATOR)[2], name, dtype, tensor.shape)
        yield ("name and shape", name, dtype, tensor.shape)
        yield ("name", name, dtype)
        # Exporters number what has no name; and a prefix is added where a network becomes a part of another.
        yield ("numbered", _DIGITS.sub("#", name), dtype, tensor.shape)
        yield ("tail", ".".join(_SEPARATORS.split(name)[-2:]), dtype, tensor.shape)
        if is_float(dtype):
            # The same network with other floats: a re-export with half the bits.
            yield ("name of floats", name, tensor.count)
    yield ("shape", dtype, tensor.shape)
    yield from _size_keys(tensor)
    if not name:
        # What was found by a search begins and ends where it may.
        yield ("type", dtype)


def _size_keys(tensor: Tensor) -> Iterator[_Key]:
    yield ("size", tensor.dtype, tensor.count)
    if is_float(tensor.dtype):
        yield ("floats", tensor.count)


def _groups(tensors: Sequence[Tensor]) -> dict[_Key, list[Tensor]]:
    groups: dict[_Key, list[Tensor]] = defaultdict(list)
    for tensor in tensors:
        for key in _keys(tensor):
            groups[key].append(tensor)
    return groups


def _layouts(tensor: Tensor, base: Tensor) -> Iterator[tuple[_Piece, ...]]:
    """Yield how the elements of two tensors correspond: from the start on, or row by row where a row has grown."""
    yield (_Piece(0, base, 0, min(tensor.count, base.count)),)
    differing = [axis for axis, sizes in enumerate(zip(tensor.shape, base.shape, strict=False)) if sizes[0] != sizes[1]]
    if len(tensor.shape) != len(base.shape) or len(differing) != 1 or not differing[0]:
        return
    rows = math.prod(tensor.shape[: differing[0]])
    new, old = tensor.count // rows, base.count // rows
    if rows <= _MAX_ROWS and min(new, old) * tensor.width >= _MIN_ROW_BYTES:
        yield tuple(_Piece(row * new, base, row * old, min(new, old)) for row in range(rows))


def _of_rows(tensor: Tensor, pieces: Iterable[_Piece]) -> Iterator[_Piece]:
    """Yield the pieces that are long enough, with ends at those of rows where these are near.

    What has rows and columns is coded better, and where two parts meet is known to a few elements only.
    """
    row = math.prod(tensor.shape[1:])
    end = 0
    for piece in pieces:
        shift = piece.base_start - piece.start
        start = max(_near(piece.start, row), end, -shift)
        stop = min(_near(piece.start + piece.count, row), tensor.count, piece.base.count - shift)
        if (stop - start) * tensor.width >= _MIN_PART_BYTES:
            yield _Piece(start, piece.base, start + shift, stop - start)
            end = stop


def _near(place: int, row: int) -> int:
    """Return the nearest end of a row if it is not further than parts are exact, else ``place`` itself."""
    nearest = (place + row // 2) // row * row
    return nearest if abs(nearest - place) < WINDOW else place


def _cover(tensor: Tensor, pieces: Iterable[_Piece]) -> Iterator[Pair]:
    """Yield the parts of a tensor with the bases that the pieces give them, and what is between without."""
    end = 0
    for piece in pieces:
        if piece.start > end:
            yield _part(tensor, end, piece.start - end), None
        yield _part(tensor, piece.start, piece.count), _part(piece.base, piece.base_start, piece.count)
        end = piece.start + piece.count
    if end < tensor.count:
        yield _part(tensor, end, tensor.count - end), None


def _part(tensor: Tensor, first: int, count: int) -> Tensor:
    if count == tensor.count:
        return tensor
    row = math.prod(tensor.shape[1:])
    whole_rows = len(tensor.shape) > 1 and first % row == 0 and count % row == 0
    shape = (count // row, *tensor.shape[1:]) if whole_rows else (count,)
    return replace(tensor, start=tensor.start + first * tensor.width, length=count * tensor.width, shape=shape)
