"""The tensors in a file, whatever its format: those that are known are parsed, in all else arrays are searched for.

Files are what strangers upload, so nothing that a file says is taken for true: what is found lies within the file and
does not overlap, and a file that is damaged has fewer tensors.
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterable, Iterator
from itertools import chain
from typing import TypeVar

from artifacts.inspect.errors import MalformedModel
from artifacts.inspect.protobuf import Budget
from artifacts.inspect.tflite import FILE_IDENTIFIER as TFLITE_IDENTIFIER
from artifacts.patch.containers import SEPARATOR, Buffer, Member, Unpacked, unpack
from artifacts.patch.view import ViewFile
from artifacts.patch.weights import coreml, mil, npy, onnx, safetensors, search, tensorflow, tflite, torch
from artifacts.patch.weights.tensor import WIDTHS, Elsewhere, Tensor, make_tensor

__all__ = ["WIDTHS", "Buffer", "Tensor", "find_tensors"]

# Enough of a file to tell its format.
_START_BYTES = 128
# A protobuf whose first field is number 1, a number: of ONNX and of Core ML the version.
_PROTOBUF_VERSION = b"\x08"
# Bytes between tensors that are searched: fewer hold no array that is worth it.
_MIN_SEARCHED_BYTES = 2 * search.BLOCK_BYTES

# Fields of messages and what costs as much, in all files together. The largest graphs have some 100,000 nodes; this
# takes a few seconds.
MAX_FIELDS = 2_000_000
# Tensors of one file: networks have a few thousand. Of more, the longest are kept.
MAX_TENSORS = 50_000

_Weight = Tensor | Elsewhere


def find_tensors(data: Buffer | Unpacked, name_hint: str = "") -> list[Tensor]:
    """Find the tensors in a file and in the files that are in it.

    Args:
        data: the file's bytes, best a view of a mapped file, or what `unpack` made of them: nothing is copied.
        name_hint: the file's name, where ``data`` are bytes.

    Returns:
        Tensors in the order of their addresses (`Unpacked`), none of which overlap.

    Raises:
        OSError: the temporary file for what is deflated cannot be written.
    """
    if isinstance(data, Unpacked):
        return _find(data)
    with unpack(data, name_hint) as unpacked:
        return _find(unpacked)


def _find(unpacked: Unpacked) -> list[Tensor]:
    # One for all files: else many small files could take what time they like.
    budget = Budget(MAX_FIELDS)
    files = _Files(unpacked, budget)
    for member in unpacked.members:
        for weight in _kept(_weights(unpacked.view(member.start, member.length), member, budget)):
            files.claim(member, weight)
    found: list[Tensor] = []
    for member in unpacked.members:
        parsed = _disjoint(files.claims(member), member.length)
        view = unpacked.view(member.start, member.length)
        found.extend(tensor.moved(member.start, member.name) for tensor in _with_searched(view, parsed))
    if len(found) > MAX_TENSORS:
        longest = sorted(found, key=lambda tensor: -tensor.length)[:MAX_TENSORS]
        found = sorted(longest, key=lambda tensor: tensor.start)
    return found


class _Files:
    """The files of a model, each of which may name tensors in itself and in others."""

    def __init__(self, unpacked: Unpacked, budget: Budget) -> None:
        self._unpacked = unpacked
        self._budget = budget
        self._members = {member.name: member for member in reversed(unpacked.members)}
        self._claims: dict[int, list[Tensor]] = {member.start: [] for member in unpacked.members}
        self._blobs: dict[int, dict[int, Tensor]] = {}

    def claims(self, member: Member) -> list[Tensor]:
        """Return what is said to be in a file, at offsets from its start, named tensors before others."""
        return self._claims[member.start] + list(self._blobs_of(member).values())

    def claim(self, member: Member, weight: _Weight) -> None:
        """Take note of a tensor that a file names, if the file exists that it is in."""
        if isinstance(weight, Tensor):
            self._claims[member.start].append(weight)
            return
        owner = self._members.get(_beside(member.name, weight.location))
        if owner is None:
            return
        blob = self._blobs_of(owner).get(weight.offset)
        if blob is not None:
            tensor = make_tensor(weight.name, blob.start, blob.length, blob.dtype, weight.shape)
        else:
            length = owner.length - weight.offset if weight.length is None else weight.length
            tensor = make_tensor(weight.name, weight.offset, length, weight.dtype, weight.shape)
        if tensor is not None:
            self._claims[owner.start].append(tensor)

    def _blobs_of(self, member: Member) -> dict[int, Tensor]:
        """Return the blobs of a file, by the offsets of their entries; none if it is no file of blobs."""
        if member.start not in self._blobs:
            view = self._unpacked.view(member.start, member.length)
            blobs: dict[int, Tensor] = {}
            if mil.is_blob_file(bytes(view[:_START_BYTES])):
                blobs.update(
                    (blob.entry, blob.tensor) for blob in _kept(mil.find_blobs(ViewFile(view), len(view), self._budget))
                )
            self._blobs[member.start] = blobs
        return self._blobs[member.start]


def _beside(name: str, location: str) -> str:
    """Return what a file is called that lies at ``location`` as seen from the folder of the file ``name``."""
    container, separator, path = name.rpartition(SEPARATOR)
    return container + separator + posixpath.normpath(posixpath.join(posixpath.dirname(path), location))


def _weights(view: memoryview, member: Member, budget: Budget) -> Iterator[_Weight]:
    """Return what a file says of tensors, in itself or in other files."""
    file, length = ViewFile(view), len(view)
    start, name = bytes(view[:_START_BYTES]), posixpath.basename(member.name.rpartition(SEPARATOR)[2])
    if start[4:8] == TFLITE_IDENTIFIER:
        return tflite.find_weights(file, budget)
    if start.startswith(npy.MAGIC):
        return npy.find_weights(file, length, name)
    if name in torch.STORAGES:
        return torch.find_weights(view, torch.STORAGES[name], budget)
    if name.endswith(".mil"):
        return mil.find_text_weights(view, budget)
    if safetensors.is_safetensors(start, length):
        return safetensors.find_weights(file)
    if tensorflow.is_index(bytes(view[-_START_BYTES:])):
        return tensorflow.find_weights(view, name, budget)
    if start[:1] == _PROTOBUF_VERSION:
        # The two cannot be confused: neither has a field of the other's weights.
        return chain(_kept(onnx.find_weights(file, length, budget)), coreml.find_weights(file, length, budget))
    return iter(())


_Found = TypeVar("_Found")


def _kept(weights: Iterator[_Found]) -> Iterator[_Found]:
    """Yield what is found until the file turns out to be damaged."""
    try:
        yield from weights
    except MalformedModel:
        return


def _disjoint(tensors: Iterable[Tensor], length: int) -> list[Tensor]:
    """Return the tensors in order, without those that overlap an earlier one or go beyond the file."""
    kept: list[Tensor] = []
    end = 0
    # Of several that begin in one place the longest counts: others are parts of it.
    for tensor in sorted(tensors, key=lambda tensor: (tensor.start, -tensor.length)):
        if tensor.start >= end and tensor.end <= length:
            kept.append(tensor)
            end = tensor.end
    return kept


def _with_searched(view: memoryview, parsed: list[Tensor]) -> Iterator[Tensor]:
    """Yield the tensors of a file in order, with arrays between them that no parser knows."""
    position = 0
    for tensor in [*parsed, None]:
        end = len(view) if tensor is None else tensor.start
        if end - position >= _MIN_SEARCHED_BYTES:
            for array in search.find_arrays(view[position:end]):
                yield array.moved(position, "")
        if tensor is not None:
            yield tensor
            position = tensor.end
