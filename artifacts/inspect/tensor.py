"""What every model format comes down to: named inputs and outputs, each with a type and a shape."""

from __future__ import annotations

import hashlib
import json
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass

from artifacts.inspect.errors import MalformedModel

# A dimension: fixed, named by the model's author, or anything.
Dimension = int | str | None

# Inputs and outputs of one model, dimensions of one tensor: far above any model's.
MAX_TENSORS = 4096
MAX_DIMENSIONS = 64
# Formats write dimensions as 64-bit integers; JSON and Core ML's text would take any number.
MAX_DIMENSION = 2**63 - 1
# All inputs and outputs, as JSON: they are shown with every version of a list. A language model with a cache of a
# hundred layers has some 40 KiB.
MAX_SIGNATURE_BYTES = 256 * 1024

# The shape of a tensor of which not even the number of dimensions is known.
UNKNOWN_SHAPE: tuple[Dimension, ...] = ("*",)


@dataclass(frozen=True, slots=True)
class Tensor:
    """An input or output of a model.

    Attributes:
        name: as the app refers to it.
        type: of its elements (``float32``, ``int64``, ``string``, …), or a Core ML type of its own
            (``image:rgb``, ``dictionary:string``, ``sequence:int64``).
        shape: dimensions from the outside in; of an image, height and width.
    """

    name: str
    type: str
    shape: tuple[Dimension, ...]


@dataclass(frozen=True, slots=True)
class Signature:
    """The inputs and outputs of a model, in the model's order."""

    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]

    def require_sound(self) -> None:
        """Refuse what no exporter writes and what a database, a terminal or an answer's schema chokes on.

        Every format's reader is followed by this, since what they read is written by strangers.

        Raises:
            MalformedModel: a name holds a control character or half of a surrogate pair, a dimension is no whole
                number, or there is more than any model has.
        """
        tensors = (*self.inputs, *self.outputs)
        if len(tensors) > 2 * MAX_TENSORS:
            raise MalformedModel("more inputs and outputs than any model has")
        for tensor in tensors:
            _require_sound_shape(tensor.shape)
            words = [tensor.name, tensor.type, *(part for part in tensor.shape if isinstance(part, str))]
            if any(unicodedata.category(character) in ("Cc", "Cs") for word in words for character in word):
                raise MalformedModel("a name holds a control character")
        if len(json.dumps([(tensor.name, tensor.type, tensor.shape) for tensor in tensors])) > MAX_SIGNATURE_BYTES:
            raise MalformedModel("inputs and outputs are described at more length than any model's")

    def interface(self) -> str:
        """Return what an app must fit to use the model: 32 hex digits that depend on names, types and shapes only.

        Order does not matter, since apps address tensors by name. Neither does the name of a dimension: exporters
        number them anew at every export, and to an app all of them mean "any length".
        """
        described = {"inputs": _described(self.inputs), "outputs": _described(self.outputs)}
        canonical = json.dumps(described, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
        return hashlib.sha256(canonical.encode()).hexdigest()[:32]


def is_dimension(value: object) -> bool:
    """Tell whether ``value`` may stand in a shape as a number: a whole one, which `True` is not."""
    return type(value) is int and -MAX_DIMENSION <= value <= MAX_DIMENSION


def _require_sound_shape(shape: tuple[Dimension, ...]) -> None:
    if len(shape) > MAX_DIMENSIONS:
        raise MalformedModel("more dimensions than any tensor has")
    if not all(part is None or isinstance(part, str) or is_dimension(part) for part in shape):
        raise MalformedModel("a dimension is no whole number")


def _described(tensors: Iterable[Tensor]) -> list[dict[str, object]]:
    return [
        {"name": tensor.name, "type": tensor.type, "shape": [_length(dimension) for dimension in tensor.shape]}
        for tensor in sorted(tensors, key=lambda tensor: tensor.name)
    ]


def _length(dimension: Dimension) -> int | str | None:
    return dimension if isinstance(dimension, int) or (dimension,) == UNKNOWN_SHAPE else None
