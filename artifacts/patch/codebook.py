"""The tables of a patch: which tensors share one, and which classes share the streams of their symbols.

A table of its own costs a tensor the definition of that table; a stream of its own costs a class a table of Huffman
codes for each of its frames. So both are shared by what is alike.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from artifacts.patch.classes import ClassChoice, Classes, Histogram, Histograms, choose_classes, mask_place, symbol_bits
from artifacts.patch.elements import MASKS, ClassCoding, Table
from artifacts.patch.kinds import Kind
from artifacts.patch.tally import Tally, coarse_table, entropies, united

__all__ = ["Codebook", "StreamPlan", "make_codebook"]

# The tables of one kind of elements; more of them were never chosen for a real model.
_MAX_SHARES = 6
# Items that may found a share of their own: the largest ones. What is in all others together is little.
_MAX_FOUNDERS = 48
# What a table costs: its classes, its map of levels, and Huffman codes in streams that it does not share.
_TABLE_BITS = 8 * 400
# What a stream costs for each of its frames, in bits: a table of Huffman codes and the frame's head.
_FRAME_BITS, _MASK_FRAME_BITS = 8 * 70, 8 * 50
# A number that was never counted at a level is as likely as a twentieth of one that was counted once.
_UNSEEN = np.float32(0.05)

Singles = npt.NDArray[np.float32]
Prices = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class StreamPlan:
    """Which streams there are for elements.

    Attributes:
        escapes: of what is too large for a symbol.
        bits: of bits that are noise.
        first: the number of the first stream of masks and symbols.
        most: how many of these there may be, masks and symbols together; at least 2.
        frame_bytes: the most bytes of a frame.
    """

    escapes: int
    bits: int
    first: int
    most: int
    frame_bytes: int


@dataclass(frozen=True, slots=True)
class Codebook:
    """The tables, and the number of the one that each item has."""

    tables: tuple[Table, ...]
    numbers: tuple[int, ...]


def make_codebook(items: Sequence[tuple[Kind, Tally]], streams: StreamPlan) -> Codebook:
    """Make the tables for tensors, and for the factors of matrices.

    Args:
        items: of each of them, the kind and the counts of its numbers.
        streams: that the tables may use.
    """
    numbers = [0] * len(items)
    kinds: list[Kind] = []
    classes: list[Classes] = []
    for kind in dict.fromkeys(kind for kind, _ in items):
        places = [place for place, item in enumerate(items) if item[0] == kind]
        for share in _shares([items[place][1] for place in places]):
            for place in share:
                numbers[places[place]] = len(kinds)
            kinds.append(kind)
            classes.append(choose_classes(united([items[places[place]][1] for place in share])))
    return Codebook(_tables(kinds, classes, streams), tuple(numbers))


# ---- which items share a table


def _shares(items: Sequence[Tally]) -> list[list[int]]:
    """Return the items that share a table: those whose levels mean the same.

    Starting with one share, the item that loses most by it founds another, to which all move that it suits better.
    """
    order = sorted(range(len(items)), key=lambda place: -items[place].total)
    groups = [group for group in [*([place] for place in order[:_MAX_FOUNDERS]), order[_MAX_FOUNDERS:]] if group]
    levels = np.unique(np.concatenate([one.levels for one in items]))
    counts = np.stack([_coarse(united([items[place] for place in group]), levels) for group in groups])
    own = np.concatenate([_model_bits(one[None], one) for one in counts])
    costs = _model_bits(counts, counts.sum(axis=0))[None]
    while len(costs) < min(_MAX_SHARES, len(groups)):
        tried = _with_founder(counts, costs.argmin(axis=0), int((costs.min(axis=0) - own).argmax()))
        if tried.min(axis=0).sum() + _TABLE_BITS >= costs.min(axis=0).sum():
            break
        costs = tried
    best = costs.argmin(axis=0)
    return [[place for at in np.flatnonzero(best == share) for place in groups[at]] for share in np.unique(best)]


def _with_founder(counts: Singles, shares: npt.NDArray[np.intp], founder: int) -> npt.NDArray[np.float64]:
    """Return what each item takes by the model of each share, one of which is new."""
    shares = shares.copy()
    shares[founder] = count = int(shares.max()) + 1
    for _ in range(2):
        models = [counts[shares == share].sum(axis=0) for share in range(count + 1)]
        costs = np.stack([_model_bits(counts, model) for model in models])
        shares = costs.argmin(axis=0)
    return costs


def _coarse(one: Tally, levels: npt.NDArray[np.intp]) -> Singles:
    """Return the counts of coarse buckets at some levels, those of the tally among them."""
    table = coarse_table(one)
    merged = np.zeros((len(levels), table.shape[1]), np.float32)
    merged[np.searchsorted(levels, one.levels)] = table
    return merged


def _model_bits(counts: Singles, model: Singles) -> npt.NDArray[np.float64]:
    """Return what each item takes if it is coded by how often numbers occur in a model."""
    likely = model + _UNSEEN
    lengths = np.log2(likely.sum(axis=1, keepdims=True)) - np.log2(likely)
    return np.asarray(np.einsum("ilb,lb->i", counts, lengths, dtype=np.float64))


# ---- which classes share a stream


def _tables(kinds: Sequence[Kind], classes: Sequence[Classes], streams: StreamPlan) -> tuple[Table, ...]:
    choices = [choice for one in classes for choice in one.choices]
    masks = _Sharing([choice.mask for choice in choices], lambda found: _mask_bits(found, streams.frame_bytes))
    symbols = _Sharing([choice.symbols for choice in choices], lambda found: _stream_bits(found, streams.frame_bytes))
    of_masks = masks.run(max(1, streams.most // 4))
    of_symbols = symbols.run(streams.most - masks.count)
    first = streams.first + masks.count
    codings = iter(
        _coding(choice, streams, streams.first + mask, first + symbol)
        for choice, mask, symbol in zip(choices, of_masks, of_symbols, strict=True)
    )
    return tuple(
        kind.table(streams.escapes, one.lut, tuple(next(codings) for _ in one.choices))
        for kind, one in zip(kinds, classes, strict=True)
    )


def _coding(choice: ClassChoice, streams: StreamPlan, mask: int, symbols: int) -> ClassCoding:
    planes, rest = divmod(choice.low_bits, 8)
    return ClassCoding(
        symbols=symbols,
        low_bits=choice.low_bits,
        low_planes=(streams.bits,) * planes,
        bits=streams.bits if rest else None,
        mask=mask if choice.mask_bits else None,
        mask_bits=next((bits for bits in MASKS if bits == choice.mask_bits), 1),
    )


def _mask_bits(histograms: Histograms, frame_bytes: int) -> Prices:
    total = np.sum([bits * histograms[:, mask_place(bits)].sum(axis=1) for bits in MASKS], axis=0)
    frames = np.where(total > 0, np.maximum(1.0, total / 8 / frame_bytes), 0.0)
    return np.asarray(entropies(histograms) + _MASK_FRAME_BITS * frames)


def _stream_bits(histograms: Histograms, frame_bytes: int) -> Prices:
    total = histograms.sum(axis=1)
    frames = np.where(total > 0, np.maximum(1.0, total / frame_bytes), 0.0)
    return np.asarray(symbol_bits(histograms) + _FRAME_BITS * frames)


class _Sharing:
    """Streams are merged, the two first that lose least by it."""

    def __init__(self, histograms: Sequence[Histogram], price: Callable[[Histograms], Prices]) -> None:
        self._price = price
        self._members = [[place] for place in range(len(histograms))]
        self._histograms = np.stack(histograms)
        self._costs = price(self._histograms)

    @property
    def count(self) -> int:
        """How many streams there are now."""
        return len(self._members)

    def run(self, most: int) -> list[int]:
        """Merge while that saves anything, or streams are more than ``most``; return the stream of each histogram."""
        losses = np.full((self.count, self.count), np.inf)
        for one in range(self.count):
            self._update(losses, one)
        while self.count > 1:
            one, other = divmod(int(losses.argmin()), self.count)
            if losses[one, other] > 0 and self.count <= most:
                break
            losses = self._merge(losses, min(one, other), max(one, other))
        streams = [0] * sum(map(len, self._members))
        for number, places in enumerate(self._members):
            for place in places:
                streams[place] = number
        return streams

    def _merge(self, losses: npt.NDArray[np.float64], one: int, other: int) -> npt.NDArray[np.float64]:
        self._members[one] += self._members.pop(other)
        self._histograms[one] += self._histograms[other]
        self._costs[one] = self._price(self._histograms[one, None])[0]
        self._histograms = np.delete(self._histograms, other, 0)
        self._costs = np.delete(self._costs, other)
        losses = np.delete(np.delete(losses, other, 0), other, 1)
        self._update(losses, one)
        return losses

    def _update(self, losses: npt.NDArray[np.float64], one: int) -> None:
        both = self._price(self._histograms + self._histograms[one])
        losses[one] = losses[:, one] = both - self._costs - self._costs[one]
        losses[one, one] = np.inf
