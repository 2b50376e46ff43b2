"""The weights of a Core ML specification: those of neural networks; for ML Programs see `artifacts.patch.weights.mil`.

Source: coremltools' mlmodel/format, Model.proto and NeuralNetwork.proto.
"""

from __future__ import annotations

from collections.abc import Iterator

from artifacts.inspect.protobuf import BYTES, VARINT, Budget, Message
from artifacts.patch.weights import mil
from artifacts.patch.weights.mil import Weight, array_in, require_depth
from artifacts.source import Source

_MODEL_VERSION, _MODEL_PROGRAM = 1, 502
# Classifier, regressor and bare network begin alike; so do pipelines, of which two wrap a bare one.
_MODEL_NETWORKS, _MODEL_PIPELINE, _MODEL_WRAPPED_PIPELINES = (303, 403, 500), 202, (200, 201)
_PIPELINE_MODELS, _WRAPPED_PIPELINE = 1, 1
_NETWORK_LAYERS, _LAYER_NAME = 1, 1

_WEIGHT_FLOATS, _WEIGHT_HALVES, _WEIGHT_RAW, _WEIGHT_INT8, _WEIGHT_QUANTIZATION = 1, 2, 30, 31, 40
# Of quantized weights: the scales and biases, and the values that a table gives to the quantized ones.
_LINEAR, _TABLE = 101, 102

_Fields = dict[int, "str | _Fields"]

_ACTIVATION: _Fields = {25: {1: "alpha"}, 71: {1: "alpha", 2: "beta"}}
_LSTM: _Fields = {
    1: "input gate",
    2: "forget gate",
    3: "block input",
    4: "output gate",
    20: "input gate recursion",
    21: "forget gate recursion",
    22: "block input recursion",
    23: "output gate recursion",
    40: "input gate bias",
    41: "forget gate bias",
    42: "block input bias",
    43: "output gate bias",
    60: "input gate peephole",
    61: "forget gate peephole",
    62: "output gate peephole",
}
# Where a NeuralNetworkLayer has messages of the type WeightParams.
_LAYERS: _Fields = {
    100: {90: "weights", 91: "bias"},
    130: _ACTIVATION,
    140: {20: "weights", 21: "bias"},
    150: {20: "weights", 21: "bias"},
    160: {15: "gamma", 16: "beta", 17: "mean", 18: "variance"},
    245: {2: "scale", 5: "bias"},
    250: {2: "bias"},
    290: {2: "data"},
    400: {10: _ACTIVATION, 30: "weights", 31: "recursion", 32: "bias"},
    410: {
        10: _ACTIVATION,
        30: "update gate",
        31: "reset gate",
        32: "output gate",
        50: "update gate recursion",
        51: "reset gate recursion",
        52: "output gate recursion",
        70: "update gate bias",
        71: "reset gate bias",
        72: "output gate bias",
    },
    420: {10: _ACTIVATION, 20: _LSTM},
    430: {10: _ACTIVATION, 11: _ACTIVATION, 20: _LSTM},
    500: {20: "weights"},
    1040: {20: "weights", 21: "bias"},
    1045: {8: "weights", 9: "bias"},
    1070: {2: "data"},
    1350: {3: "gamma", 4: "beta"},
    1471: {60: "weights", 61: "bias"},
}
# Of layers whose weights are matrices: the field with the number of outputs, each of which is a row.
_ROWS = {100: 1, 140: 2, 150: 2, 400: 2, 410: 2, 420: 2, 430: 2, 1040: 2, 1471: 1}
# The networks in a branch and in a loop.
_INNER_NETWORKS = {605: (1, 2), 615: (3, 4)}


def find_weights(file: Source, length: int, budget: Budget) -> Iterator[Weight]:
    """Yield the weights of the Core ML specification that ``file`` holds in its ``length`` bytes.

    Those of an ML Program are `Elsewhere`, where the offset is that of the blob's entry (`find_blobs`).

    Raises:
        MalformedModel: it is no Core ML specification, or damaged; what was yielded before is sound.
    """
    yield from _model(Message(file, 0, length, budget), 0)


def _model(model: Message, depth: int) -> Iterator[Weight]:
    require_depth(depth)
    version = 0
    for part in model.fields():
        if part.number == _MODEL_VERSION and part.kind == VARINT:
            version = part.value
        elif part.kind != BYTES or version <= 0:
            continue
        elif part.number in _MODEL_NETWORKS:
            yield from _network(model.inside(part), depth)
        elif part.number == _MODEL_PROGRAM:
            yield from mil.find_in_program(model.inside(part))
        elif part.number == _MODEL_PIPELINE:
            yield from _pipeline(model.inside(part), depth)
        elif part.number in _MODEL_WRAPPED_PIPELINES:
            for pipeline in model.inside(part).messages(_WRAPPED_PIPELINE):
                yield from _pipeline(pipeline, depth)


def _pipeline(pipeline: Message, depth: int) -> Iterator[Weight]:
    for model in pipeline.messages(_PIPELINE_MODELS):
        yield from _model(model, depth + 1)


def _network(network: Message, depth: int) -> Iterator[Weight]:
    require_depth(depth)
    for layer in network.messages(_NETWORK_LAYERS):
        name = ""
        for part in layer.fields():
            if part.kind != BYTES:
                continue
            if part.number == _LAYER_NAME:
                name = layer.text_of(part)
            elif part.number in _LAYERS:
                yield from _layer(layer.inside(part), part.number, name)
            elif part.number in _INNER_NETWORKS:
                parameters = layer.inside(part)
                for inner in parameters.fields():
                    if inner.kind == BYTES and inner.number in _INNER_NETWORKS[part.number]:
                        yield from _network(parameters.inside(inner), depth + 1)


def _layer(layer: Message, number: int, name: str) -> Iterator[Weight]:
    rows = layer.integer(_ROWS[number]) if number in _ROWS else 0
    yield from _weights(layer, _LAYERS[number], name, (rows,) if rows > 0 else ())


def _weights(message: Message, known: str | _Fields, name: str, shape: tuple[int, ...]) -> Iterator[Weight]:
    """Yield the arrays of the WeightParams that lie in the known fields of a message, or that it is itself."""
    if isinstance(known, str):
        yield from _parameters(message, f"{name}.{known}", shape)
        return
    for part in message.fields():
        if part.kind == BYTES and part.number in known:
            yield from _weights(message.inside(part), known[part.number], name, shape)


_ARRAY_TYPES = {_WEIGHT_FLOATS: "f32", _WEIGHT_HALVES: "f16", _WEIGHT_RAW: "u8", _WEIGHT_INT8: "i8"}


def _parameters(weight: Message, name: str, shape: tuple[int, ...]) -> Iterator[Weight]:
    for part in weight.fields():
        if part.kind != BYTES:
            continue
        if part.number in _ARRAY_TYPES:
            yield from array_in(part, name, _ARRAY_TYPES[part.number], shape)
        elif part.number == _WEIGHT_QUANTIZATION:
            quantization = weight.inside(part)
            for kind in quantization.fields():
                if kind.kind == BYTES and kind.number in (_LINEAR, _TABLE):
                    for numbers in quantization.inside(kind).fields():
                        # Both the scales and the table are field 1, the biases are field 2.
                        word = "table" if kind.number == _TABLE else "scale" if numbers.number == 1 else "offset"
                        yield from array_in(numbers, f"{name}.{word}", "f32")
