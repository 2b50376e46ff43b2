"""The tensors in a file, whatever its format: the formats that are known are parsed.

Files are what strangers upload, so nothing that a file says is taken for true: what is found lies within the file and
does not overlap, and a file that is damaged has fewer tensors.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from artifacts.inspect.errors import MalformedModel
from artifacts.patch.view import ViewFile
from artifacts.patch.weights import onnx, tflite
from artifacts.patch.weights.tensor import WIDTHS, Tensor

__all__ = ["WIDTHS", "Buffer", "Tensor", "find_tensors"]

Buffer = bytes | bytearray | memoryview


def find_tensors(data: Buffer, name_hint: str = "") -> list[Tensor]:
    """Find the tensors in a file.

    Args:
        data: the file's bytes, best a view of a mapped file: nothing is copied.
        name_hint: the file's name, which only says what to look for first.

    Returns:
        Tensors in the order of their bytes, none of which overlap.
    """
    view = memoryview(data).cast("B")
    found: list[Tensor] = []
    for parser in (_tflite, _onnx):
        found = _disjoint(_kept(parser(view)), len(view))
        if found:
            break
    return [tensor.moved(0, name_hint) for tensor in found]


_Parser = Callable[[memoryview], Iterator[Tensor]]


def _tflite(view: memoryview) -> Iterator[Tensor]:
    return tflite.find_weights(ViewFile(view))


def _onnx(view: memoryview) -> Iterator[Tensor]:
    for weight in onnx.find_weights(ViewFile(view), len(view)):
        if isinstance(weight, Tensor):
            yield weight


def _kept(weights: Iterator[Tensor]) -> Iterator[Tensor]:
    """Yield what is found until the file turns out to be damaged."""
    try:
        yield from weights
    except MalformedModel:
        return


def _disjoint(tensors: Iterable[Tensor], length: int) -> list[Tensor]:
    """Return the tensors in order, without those that overlap an earlier one or go beyond the file."""
    kept: list[Tensor] = []
    end = 0
    for tensor in sorted(tensors, key=lambda tensor: (tensor.start, -tensor.length)):
        if tensor.start >= end and tensor.end <= length:
            kept.append(tensor)
            end = tensor.end
    return kept
