"""Small neural networks in numpy: enough to train the examples anywhere in seconds, and to write them as ONNX files.

A network is a list of layers; each knows how to compute, how to pass a gradient back, and how it is said in ONNX. Your
own training will use a framework and its exporter: all that Skafos sees of either is the file.
"""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import numpy as np
import onnx
from numpy.lib.stride_tricks import sliding_window_view
from onnx import TensorProto, helper, numpy_helper

# What onnxruntime, and converters for phones, have long understood.
OPSET, IR_VERSION = 17, 8


class Graph:
    """An ONNX graph while it is written. Weights have the same names every time, so that patches find them again."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []

    def weight(self, name: str, values: np.ndarray) -> str:
        self.weights.append(numpy_helper.from_array(values, name))
        return name

    def node(self, operator: str, inputs: list[str], output: str, **attributes: object) -> str:
        self.nodes.append(helper.make_node(operator, inputs, [output], **attributes))
        return output


class Layer(Protocol):
    """One step of a network."""

    weights: list[np.ndarray]
    gradients: list[np.ndarray]

    def forward(self, x: np.ndarray) -> np.ndarray: ...

    def backward(self, gradient: np.ndarray) -> np.ndarray: ...

    def write(self, graph: Graph, x: str, name: str) -> str: ...


class Dense:
    """Every input to every output."""

    def __init__(self, inputs: int, outputs: int, random: np.random.Generator) -> None:
        scale = np.sqrt(2 / inputs)
        self.weights = [random.normal(0, scale, (inputs, outputs)).astype(np.float32), np.zeros(outputs, np.float32)]
        self.gradients: list[np.ndarray] = []

    def forward(self, x: np.ndarray) -> np.ndarray:
        self._x = x
        return x @ self.weights[0] + self.weights[1]

    def backward(self, gradient: np.ndarray) -> np.ndarray:
        self.gradients = [self._x.T @ gradient, gradient.sum(0)]
        return gradient @ self.weights[0].T

    def write(self, graph: Graph, x: str, name: str) -> str:
        weights, bias = graph.weight(f"{name}.weights", self.weights[0]), graph.weight(f"{name}.bias", self.weights[1])
        return graph.node("Gemm", [x, weights, bias], f"{name}.out")


class Convolution:
    """A window of odd size that moves over a picture; with a stride of 2, what comes out is half as large."""

    def __init__(
        self, inputs: int, outputs: int, random: np.random.Generator, *, size: int = 3, stride: int = 2
    ) -> None:
        self._size, self._stride, self._pad = size, stride, size // 2
        scale = np.sqrt(2 / (inputs * size * size))
        self.weights = [
            random.normal(0, scale, (outputs, inputs, size, size)).astype(np.float32),
            np.zeros(outputs, np.float32),
        ]
        self.gradients: list[np.ndarray] = []

    def forward(self, x: np.ndarray) -> np.ndarray:
        pad, step = self._pad, self._stride
        padded = np.pad(x, ((0, 0), (0, 0), (pad, pad), (pad, pad)))
        windows = sliding_window_view(padded, (self._size, self._size), axis=(2, 3))[:, :, ::step, ::step]
        count, _, height, width = windows.shape[:4]
        self._padded = padded.shape
        self._grid = (count, height, width)
        self._columns = windows.transpose(0, 2, 3, 1, 4, 5).reshape(count * height * width, -1)
        out = self._columns @ self.weights[0].reshape(len(self.weights[0]), -1).T + self.weights[1]
        return out.reshape(count, height, width, -1).transpose(0, 3, 1, 2)

    def backward(self, gradient: np.ndarray) -> np.ndarray:
        pad, step, size = self._pad, self._stride, self._size
        count, height, width = self._grid
        rows = gradient.transpose(0, 2, 3, 1).reshape(count * height * width, -1)
        self.gradients = [(rows.T @ self._columns).reshape(self.weights[0].shape), rows.sum(0)]
        columns = rows @ self.weights[0].reshape(len(self.weights[0]), -1)
        columns = columns.reshape(count, height, width, -1, size, size).transpose(0, 3, 1, 2, 4, 5)
        back = np.zeros(self._padded, np.float32)
        for row in range(size):
            for column in range(size):
                back[:, :, row : row + step * height : step, column : column + step * width : step] += columns[
                    ..., row, column
                ]
        return back[:, :, pad : back.shape[2] - pad, pad : back.shape[3] - pad]

    def write(self, graph: Graph, x: str, name: str) -> str:
        weights, bias = graph.weight(f"{name}.weights", self.weights[0]), graph.weight(f"{name}.bias", self.weights[1])
        pads, strides = [self._pad] * 4, [self._stride] * 2
        return graph.node("Conv", [x, weights, bias], f"{name}.out", pads=pads, strides=strides)


class Relu:
    """What is below zero becomes zero."""

    def __init__(self) -> None:
        self.weights: list[np.ndarray] = []
        self.gradients: list[np.ndarray] = []

    def forward(self, x: np.ndarray) -> np.ndarray:
        self._on = x > 0
        return x * self._on

    def backward(self, gradient: np.ndarray) -> np.ndarray:
        return gradient * self._on

    def write(self, graph: Graph, x: str, name: str) -> str:
        return graph.node("Relu", [x], f"{name}.out")


class Flatten:
    """A picture becomes a row of numbers."""

    def __init__(self) -> None:
        self.weights: list[np.ndarray] = []
        self.gradients: list[np.ndarray] = []

    def forward(self, x: np.ndarray) -> np.ndarray:
        self._shape = x.shape
        return x.reshape(len(x), -1)

    def backward(self, gradient: np.ndarray) -> np.ndarray:
        return gradient.reshape(self._shape)

    def write(self, graph: Graph, x: str, name: str) -> str:
        return graph.node("Flatten", [x], f"{name}.out")


class Network:
    """Layers one after the other, trained by Adam (Kingma and Ba, 2014)."""

    def __init__(self, *layers: Layer) -> None:
        self.layers = layers
        self._steps = 0
        self._moments: list[list[np.ndarray]] = []

    def __call__(self, x: np.ndarray) -> np.ndarray:
        for layer in self.layers:
            x = layer.forward(x)
        return x

    def learn(self, gradient: np.ndarray, rate: float) -> None:
        """Take one step against the gradient of the loss with respect to the last output."""
        for layer in reversed(self.layers):
            gradient = layer.backward(gradient)
        weights = [each for layer in self.layers for each in layer.weights]
        gradients = [each for layer in self.layers for each in layer.gradients]
        self._moments = self._moments or [[np.zeros_like(each), np.zeros_like(each)] for each in weights]
        self._steps += 1
        for weight, slope, (first, second) in zip(weights, gradients, self._moments, strict=True):
            first += 0.1 * (slope - first)
            second += 0.001 * (slope * slope - second)
            step = first / (1 - 0.9**self._steps) / (np.sqrt(second / (1 - 0.999**self._steps)) + 1e-8)
            weight -= rate * step

    def save(self, path: Path) -> None:
        """Write the weights, so that training can go on from them."""
        np.savez(path, *[each for layer in self.layers for each in layer.weights])

    def load(self, path: Path) -> None:
        """Take the weights that `save` wrote."""
        with np.load(path) as saved:
            for weight, values in zip(
                (each for layer in self.layers for each in layer.weights), saved.values(), strict=True
            ):
                weight[...] = values

    def write_onnx(
        self, path: Path, x: tuple[str, list[int | str]], y: tuple[str, list[int | str]], last: str = ""
    ) -> None:
        """Write the network as an ONNX model.

        Args:
            path: the file.
            x, y: name and shape of input and output.
            last: an operator to end with, such as "Softmax".
        """
        graph, value = Graph(), x[0]
        for number, layer in enumerate(self.layers):
            value = layer.write(graph, value, f"{number}")
        graph.node(last or "Identity", [value], y[0])
        inputs, outputs = (helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in (x, y))
        model = helper.make_model(
            helper.make_graph(graph.nodes, path.stem, [inputs], [outputs], graph.weights),
            ir_version=IR_VERSION,
            opset_imports=[helper.make_opsetid("", OPSET)],
        )
        onnx.checker.check_model(model)
        onnx.save(model, path)


def classification_gradient(scores: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return the gradient of the mean cross entropy of the softmax of ``scores``."""
    shares = np.exp(scores - scores.max(1, keepdims=True))
    shares /= shares.sum(1, keepdims=True)
    shares[np.arange(len(labels)), labels] -= 1
    return shares / np.float32(len(labels))


def train_classifier(
    network: Network,
    x: np.ndarray,
    labels: np.ndarray,
    *,
    rounds: int,
    rate: float,
    random: np.random.Generator,
    batch: int = 32,
) -> None:
    """Show every example ``rounds`` times, in another order each time."""
    for _ in range(rounds):
        order = random.permutation(len(x))
        for start in range(0, len(x), batch):
            chosen = order[start : start + batch]
            network.learn(classification_gradient(network(x[chosen]), labels[chosen]), rate)


def accuracy(network: Network, x: np.ndarray, labels: np.ndarray) -> float:
    """Return the share of examples that the network gets right."""
    return float((network(x).argmax(1) == labels).mean())
