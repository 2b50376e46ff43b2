"""A fine-tuned release of a real ONNX model: its last layer's weights moved a little, as retraining the head does."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper

# One part in a hundred is about what some epochs of training at a small learning rate do to a weight.
STEP = 0.01


def finetuned(model: Path, out: Path) -> Path:
    """Write ``model`` with its largest constant of the last tenth of the graph changed to ``out``, and return ``out``.

    The change is the same in every run.
    """
    proto = onnx.load(str(model))
    weights = head_weights(proto)
    values = numpy_helper.to_array(weights)
    noise = np.random.default_rng(seed=11).standard_normal(values.shape, dtype=np.float32)
    weights.raw_data = (values * (1 + STEP * noise)).astype(np.float32).tobytes()
    out.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(proto, str(out))
    return out


def head_weights(proto: onnx.ModelProto) -> onnx.TensorProto:
    """Return the float tensor that the last multiplication of the graph uses."""
    tensors: dict[str, onnx.TensorProto] = {tensor.name: tensor for tensor in proto.graph.initializer}
    tensors |= {
        node.output[0]: attribute.t
        for node in proto.graph.node
        if node.op_type == "Constant"
        for attribute in node.attribute
        if attribute.name == "value"
    }
    for node in reversed(proto.graph.node):
        for name in node.input:
            if node.op_type in ("MatMul", "Gemm", "Conv") and name in tensors:
                return tensors[name]
    raise ValueError("the model has no layer with constant weights")
