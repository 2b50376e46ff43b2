"""The array of an ``.npy`` file, which is also what a ``.npz`` holds.

Source: NumPy Enhancement Proposal 1, and ``numpy.lib.format``. The header is a Python literal; it is not evaluated, as
three of its fields are all that is needed.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from artifacts.inspect.errors import MalformedModel
from artifacts.patch.weights.tensor import WIDTHS, Tensor, make_tensor
from artifacts.source import Source

MAGIC = b"\x93NUMPY"
# Version 1 of the format has two bytes for the header's length.
MAX_HEADER_BYTES = 64 * 1024

_DESCRIPTION = re.compile(rb"'descr':\s*'[<|]([a-z])(\d{1,2})'")
_SHAPE = re.compile(rb"'shape':\s*\(([\d\s,]*)\)")
_LETTERS = {"f": "f", "i": "i", "u": "u", "b": "u", "c": "f"}


def find_weights(file: Source, length: int, name: str) -> Iterator[Tensor]:
    """Yield the array in a file, if it has a type that is known and is little-endian.

    Args:
        file: the file.
        length: of it, in bytes.
        name: of it, which is the array's with ``.npy`` behind.

    Raises:
        MalformedModel: it has another type, or is no such file.
    """
    file.seek(0)
    start = file.read(12)
    if start[:6] != MAGIC or len(start) < 12:
        raise MalformedModel("no .npy file: it lacks the identifier")
    size = 2 if start[6] == 1 else 4
    header = int.from_bytes(start[8 : 8 + size], "little")
    data = 8 + size + header
    file.seek(8 + size)
    text = file.read(min(header, MAX_HEADER_BYTES))
    description, shape = _DESCRIPTION.search(text), _SHAPE.search(text)
    if description is None or shape is None:
        raise MalformedModel("the header names no type or no shape that is known")
    letter, width = description[1].decode(), int(description[2])
    # A complex number is two floats.
    dtype = f"{_LETTERS.get(letter, '')}{8 * width // (2 if letter == 'c' else 1)}"
    if dtype not in WIDTHS:
        raise MalformedModel("the type of the elements is not known")
    dimensions = [int(number) for number in shape[1].split(b",") if number.strip() and len(number) < 20]
    tensor = make_tensor(name.removesuffix(".npy"), data, length - data, dtype, dimensions)
    if tensor is not None:
        yield tensor
