"""Inputs and outputs of an ONNX model.

Source of the field numbers: onnx/onnx.proto (ModelProto, GraphProto, ValueInfoProto, TypeProto, TensorProto).
"""

from __future__ import annotations

from artifacts.inspect.errors import MalformedModel
from artifacts.inspect.protobuf import BYTES, VARINT, Budget, Message
from artifacts.inspect.tensor import MAX_DIMENSIONS, MAX_TENSORS, UNKNOWN_SHAPE, Dimension, Signature, Tensor
from artifacts.source import Source

_MODEL_IR_VERSION, _MODEL_GRAPH = 1, 7
_GRAPH_INITIALIZER, _GRAPH_INPUT, _GRAPH_OUTPUT = 5, 11, 12
_TENSOR_NAME = 8
_VALUE_NAME, _VALUE_TYPE = 1, 2
_TYPE_TENSOR, _TYPE_SEQUENCE, _TYPE_MAP, _TYPE_SPARSE, _TYPE_OPTIONAL = 1, 4, 5, 8, 9
_TENSOR_TYPE_ELEMENT, _TENSOR_TYPE_SHAPE = 1, 2
_SHAPE_DIMENSION = 1
_DIMENSION_VALUE, _DIMENSION_NAME = 1, 2

# TensorProto.DataType.
ELEMENTS = {
    1: "float32",
    2: "uint8",
    3: "int8",
    4: "uint16",
    5: "int16",
    6: "int32",
    7: "int64",
    8: "string",
    9: "bool",
    10: "float16",
    11: "float64",
    12: "uint32",
    13: "uint64",
    14: "complex64",
    15: "complex128",
    16: "bfloat16",
    17: "float8e4m3fn",
    18: "float8e4m3fnuz",
    19: "float8e5m2",
    20: "float8e5m2fnuz",
    21: "uint4",
    22: "int4",
    23: "float4e2m1",
}


def read_signature(file: Source, length: int) -> Signature:
    """Return the inputs and outputs of the ONNX model that ``file`` holds in its ``length`` bytes.

    Up to IR version 3 every weight is also listed as an input; those have a value, so they are left out.

    Raises:
        MalformedModel: it is no ONNX model.
    """
    model = Message(file, 0, length, Budget())
    graph = model.message(_MODEL_GRAPH)
    if graph is None or model.integer(_MODEL_IR_VERSION) <= 0:
        raise MalformedModel("no ONNX model: it has no graph or no version")
    inputs: list[Tensor] = []
    outputs: list[Tensor] = []
    weights: set[str] = set()
    for field in graph.fields():
        if field.kind != BYTES:
            continue
        if field.number == _GRAPH_INPUT:
            inputs.append(_tensor(graph.inside(field)))
        elif field.number == _GRAPH_OUTPUT:
            outputs.append(_tensor(graph.inside(field)))
        elif field.number == _GRAPH_INITIALIZER:
            weights.add(graph.inside(field).text(_TENSOR_NAME))
        if len(inputs) + len(outputs) > MAX_TENSORS + len(weights):
            raise MalformedModel("more inputs and outputs than any model has")
    return Signature(tuple(tensor for tensor in inputs if tensor.name not in weights), tuple(outputs))


def _tensor(value: Message) -> Tensor:
    kind = value.message(_VALUE_TYPE)
    name = value.text(_VALUE_NAME)
    if kind is None:
        return Tensor(name, "unknown", UNKNOWN_SHAPE)
    for number, prefix in ((_TYPE_TENSOR, ""), (_TYPE_SPARSE, "sparse:")):
        tensor = kind.message(number)
        if tensor is not None:
            element = ELEMENTS.get(tensor.integer(_TENSOR_TYPE_ELEMENT), "unknown")
            return Tensor(name, prefix + element, _shape(tensor.message(_TENSOR_TYPE_SHAPE)))
    for number, word in ((_TYPE_SEQUENCE, "sequence"), (_TYPE_MAP, "map"), (_TYPE_OPTIONAL, "optional")):
        if kind.message(number) is not None:
            return Tensor(name, word, UNKNOWN_SHAPE)
    return Tensor(name, "unknown", UNKNOWN_SHAPE)


def _shape(shape: Message | None) -> tuple[Dimension, ...]:
    if shape is None:
        return UNKNOWN_SHAPE
    dimensions = []
    for dimension in shape.messages(_SHAPE_DIMENSION):
        dimensions.append(_dimension(dimension))
        if len(dimensions) > MAX_DIMENSIONS:
            raise MalformedModel("more dimensions than any tensor has")
    return tuple(dimensions)


def _dimension(dimension: Message) -> Dimension:
    for field in dimension.fields():
        if field.number == _DIMENSION_VALUE and field.kind == VARINT:
            # Some exporters write -1 for "any length".
            return field.value if field.value >= 0 else None
        if field.number == _DIMENSION_NAME and field.kind == BYTES:
            return dimension.text(_DIMENSION_NAME) or None
    return None
