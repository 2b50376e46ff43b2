"""The weights of a TensorFlow Lite model: its buffers, with the names and types of the tensors that use them.

Source: TensorFlow Lite's schema.fbs. A buffer's bytes lie in the FlatBuffer, or, in models of more than 2 GiB, behind
it, at an offset from the start of the file.
"""

from __future__ import annotations

from collections.abc import Iterator

from artifacts.inspect.errors import MalformedModel
from artifacts.inspect.flatbuffer import Buffer, Table
from artifacts.inspect.protobuf import Budget
from artifacts.inspect.tensor import MAX_DIMENSIONS
from artifacts.inspect.tflite import (
    ELEMENTS,
    MODEL_BUFFERS,
    MODEL_SUBGRAPHS,
    SUBGRAPH_TENSORS,
    TENSOR_BUFFER,
    TENSOR_NAME,
    TENSOR_SHAPE,
    TENSOR_TYPE,
    is_tflite,
)
from artifacts.patch.weights.tensor import Tensor, make_tensor, short_type
from artifacts.source import Source

_BUFFER_DATA, _BUFFER_OFFSET, _BUFFER_SIZE = 0, 1, 2

# What a look at a tensor costs, in fields of a message.
_TENSOR_FIELDS = 16


def find_weights(file: Source, budget: Budget) -> Iterator[Tensor]:
    """Yield the weights of a TensorFlow Lite model, in the order of its subgraphs' tensors.

    Raises:
        MalformedModel: it is no such model, or damaged; what was yielded before is sound.
    """
    if not is_tflite(file):
        raise MalformedModel("no TensorFlow Lite model: it lacks the identifier")
    buffer = Buffer(file)
    model = buffer.table(0)
    buffers = model.vector(MODEL_BUFFERS)
    seen: set[int] = set()
    for table in _tensor_tables(model, budget):
        index = table.number(TENSOR_BUFFER, "I")
        if index in seen or index >= buffers.count:
            continue
        seen.add(index)
        start, length = _content(buffers.table(index), buffer.length)
        element = table.byte(TENSOR_TYPE)
        dtype = short_type(ELEMENTS[element] if element < len(ELEMENTS) else "unknown")
        shape = table.vector(TENSOR_SHAPE).numbers(MAX_DIMENSIONS)
        tensor = make_tensor(table.text(TENSOR_NAME), start, length, dtype, shape)
        if tensor is not None:
            yield tensor


def _tensor_tables(model: Table, budget: Budget) -> Iterator[Table]:
    subgraphs = model.vector(MODEL_SUBGRAPHS)
    for number in range(subgraphs.count):
        tensors = subgraphs.table(number).vector(SUBGRAPH_TENSORS)
        budget.spend()
        for index in range(tensors.count):
            budget.spend(_TENSOR_FIELDS)
            yield tensors.table(index)


def _content(table: Table, file_length: int) -> tuple[int, int]:
    """Return where a buffer's bytes lie and how many there are; none if they would go beyond the file."""
    data = table.vector(_BUFFER_DATA)
    start, length = data.position, data.count
    if length == 0:
        # The schema: an offset of 0 or 1 stands for none.
        start, length = table.number(_BUFFER_OFFSET, "Q"), table.number(_BUFFER_SIZE, "Q")
        if start <= 1:
            return 0, 0
    return (start, length) if start + length <= file_length else (0, 0)
