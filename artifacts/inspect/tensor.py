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

    def require_printable_names(self) -> None:
        """Refuse names that no exporter writes and that databases and terminals choke on.

        Raises:
            MalformedModel: a name holds a control character or half of a surrogate pair.
        """
        for tensor in (*self.inputs, *self.outputs):
            words = [tensor.name, tensor.type, *(part for part in tensor.shape if isinstance(part, str))]
            if any(unicodedata.category(character) in ("Cc", "Cs") for word in words for character in word):
                raise MalformedModel("a name holds a control character")

    def interface(self) -> str:
        """Return what an app must fit to use the model: 32 hex digits that depend on names, types and shapes only.

        Order does not matter, since apps address tensors by name. Neither does the name of a dimension: exporters
        number them anew at every export, and to an app all of them mean "any length".
        """
        described = {"inputs": _described(self.inputs), "outputs": _described(self.outputs)}
        canonical = json.dumps(described, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
        return hashlib.sha256(canonical.encode()).hexdigest()[:32]


def _described(tensors: Iterable[Tensor]) -> list[dict[str, object]]:
    return [
        {"name": tensor.name, "type": tensor.type, "shape": [_length(dimension) for dimension in tensor.shape]}
        for tensor in sorted(tensors, key=lambda tensor: tensor.name)
    ]


def _length(dimension: Dimension) -> int | str | None:
    return dimension if isinstance(dimension, int) or (dimension,) == UNKNOWN_SHAPE else None
