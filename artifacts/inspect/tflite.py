"""Inputs and outputs of a TensorFlow Lite model.

Source: the slots are those of TensorFlow Lite's schema.fbs.
"""

from __future__ import annotations

from artifacts.inspect.errors import MalformedModel
from artifacts.inspect.flatbuffer import Buffer, Table, Vector
from artifacts.inspect.tensor import MAX_DIMENSIONS, MAX_TENSORS, Dimension, Signature, Tensor
from artifacts.source import Source

FILE_IDENTIFIER = b"TFL3"

MODEL_SUBGRAPHS, MODEL_BUFFERS = 2, 4
SUBGRAPH_TENSORS, _SUBGRAPH_INPUTS, _SUBGRAPH_OUTPUTS = 0, 1, 2
TENSOR_SHAPE, TENSOR_TYPE, TENSOR_BUFFER, TENSOR_NAME, _TENSOR_SIGNATURE = 0, 1, 2, 3, 7

# enum TensorType, in its order.
ELEMENTS = (
    "float32",
    "float16",
    "int32",
    "uint8",
    "int64",
    "string",
    "bool",
    "int16",
    "complex64",
    "int8",
    "float64",
    "complex128",
    "uint64",
    "resource",
    "variant",
    "uint32",
    "uint16",
    "int4",
    "bfloat16",
)


def is_tflite(file: Source) -> bool:
    """Tell whether ``file`` has TensorFlow Lite's identifier."""
    file.seek(0)
    return file.read(8)[4:] == FILE_IDENTIFIER


def read_signature(file: Source) -> Signature:
    """Return the inputs and outputs of the first subgraph, which is the one that runs.

    Raises:
        MalformedModel: it is no TensorFlow Lite model.
    """
    if not is_tflite(file):
        raise MalformedModel("no TensorFlow Lite model: it lacks the identifier")
    buffer = Buffer(file)
    subgraphs = buffer.table(0).vector(MODEL_SUBGRAPHS)
    if subgraphs.count == 0:
        raise MalformedModel("the model has no subgraph")
    graph = subgraphs.table(0)
    tensors = graph.vector(SUBGRAPH_TENSORS)
    return Signature(_tensors(graph, _SUBGRAPH_INPUTS, tensors), _tensors(graph, _SUBGRAPH_OUTPUTS, tensors))


def _tensors(graph: Table, slot: int, tensors: Vector) -> tuple[Tensor, ...]:
    return tuple(_tensor(tensors.table(index)) for index in graph.vector(slot).numbers(MAX_TENSORS))


def _tensor(table: Table) -> Tensor:
    element = table.byte(TENSOR_TYPE)
    shape: tuple[Dimension, ...] = table.vector(TENSOR_SHAPE).numbers(MAX_DIMENSIONS)
    # A dimension that may vary is -1 in the signature and 1 in the shape.
    signature = table.vector(_TENSOR_SIGNATURE).numbers(MAX_DIMENSIONS)
    if len(signature) == len(shape):
        shape = tuple(None if stated < 0 else fixed for stated, fixed in zip(signature, shape, strict=True))
    return Tensor(table.text(TENSOR_NAME), ELEMENTS[element] if element < len(ELEMENTS) else "unknown", shape)
