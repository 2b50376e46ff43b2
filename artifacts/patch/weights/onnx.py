"""The weights of an ONNX model: initializers and the tensors in attributes of nodes, those of subgraphs too.

Source of the field numbers: onnx/onnx.proto. A weight is addressable where its elements lie one after the other:
``raw_data``, the packed ``float_data`` and ``double_data``, and external data. ``int32_data`` and ``int64_data`` are
varints, which is an array only where each of them has one byte.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from artifacts.inspect.errors import MalformedModel
from artifacts.inspect.onnx import ELEMENTS
from artifacts.inspect.protobuf import BYTES, VARINT, Budget, Field, Message
from artifacts.inspect.tensor import MAX_DIMENSIONS
from artifacts.patch.weights.tensor import Elsewhere, Tensor, make_tensor, short_type
from artifacts.source import Source

_MODEL_IR_VERSION, _MODEL_GRAPH, _MODEL_FUNCTION = 1, 7, 25
_GRAPH_NODE, _GRAPH_INITIALIZER, _GRAPH_SPARSE = 1, 5, 15
_FUNCTION_NODE = 7
_NODE_OUTPUT, _NODE_NAME, _NODE_ATTRIBUTE = 2, 3, 5
_ATTRIBUTE_NAME, _ATTRIBUTE_TENSOR, _ATTRIBUTE_GRAPH, _ATTRIBUTE_FLOATS = 1, 5, 6, 7
_ATTRIBUTE_TENSORS, _ATTRIBUTE_GRAPHS, _ATTRIBUTE_SPARSE, _ATTRIBUTE_SPARSES = 10, 11, 22, 23
_SPARSE_VALUES, _SPARSE_INDICES = 1, 2
_TENSOR_DIMS, _TENSOR_TYPE, _TENSOR_FLOATS, _TENSOR_INT32S, _TENSOR_INT64S = 1, 2, 4, 5, 7
_TENSOR_NAME, _TENSOR_RAW, _TENSOR_DOUBLES, _TENSOR_UINT64S, _TENSOR_EXTERNAL, _TENSOR_LOCATION = 8, 9, 10, 11, 13, 14
_ENTRY_KEY, _ENTRY_VALUE = 1, 2
_EXTERNAL = 1

# Graphs within graphs: onnxruntime's own models nest two or three.
MAX_DEPTH = 32
# The key and the value of what says where external data lies.
MAX_EXTERNAL_ENTRIES = 16


def find_weights(file: Source, length: int, budget: Budget) -> Iterator[Tensor | Elsewhere]:
    """Yield the weights of the ONNX model that ``file`` holds in its ``length`` bytes, in the order of the file.

    Raises:
        MalformedModel: it is no ONNX model, or damaged; what was yielded before is sound.
    """
    model = Message(file, 0, length, budget)
    looks_right = False
    for part in model.fields():
        if part.number == _MODEL_IR_VERSION and part.kind == VARINT:
            looks_right = part.value > 0
        if part.kind != BYTES:
            continue
        if part.number == _MODEL_GRAPH:
            if not looks_right:
                raise MalformedModel("no ONNX model: its version does not come before its graph")
            yield from _graph(model.inside(part), 0)
        elif part.number == _MODEL_FUNCTION:
            yield from _nodes(model.inside(part), _FUNCTION_NODE, 0)


def _graph(graph: Message, depth: int) -> Iterator[Tensor | Elsewhere]:
    if depth > MAX_DEPTH:
        raise MalformedModel("graphs are nested deeper than in any model")
    for part in graph.fields():
        if part.kind != BYTES:
            continue
        if part.number == _GRAPH_NODE:
            yield from _node(graph.inside(part), depth)
        elif part.number == _GRAPH_INITIALIZER:
            yield from _tensor(graph.inside(part), "")
        elif part.number == _GRAPH_SPARSE:
            yield from _sparse(graph.inside(part), "")


def _nodes(parent: Message, number: int, depth: int) -> Iterator[Tensor | Elsewhere]:
    for node in parent.messages(number):
        yield from _node(node, depth)


def _node(node: Message, depth: int) -> Iterator[Tensor | Elsewhere]:
    attributes = []
    outputs: list[Field] = []
    name: Field | None = None
    for part in node.fields():
        if part.kind != BYTES:
            continue
        if part.number == _NODE_ATTRIBUTE:
            attributes.append(node.inside(part))
        elif part.number == _NODE_OUTPUT and not outputs:
            outputs.append(part)
        elif part.number == _NODE_NAME:
            name = part
    for attribute in attributes:
        # A constant is known by what it puts out: other nodes refer to that, while its own name is often empty.
        yield from _attribute(attribute, node, outputs[0] if outputs else name, depth)


def _attribute(attribute: Message, node: Message, owner: Field | None, depth: int) -> Iterator[Tensor | Elsewhere]:
    for part in attribute.fields():
        if part.kind != BYTES:
            continue
        inside = attribute.inside(part)
        if part.number in (_ATTRIBUTE_TENSOR, _ATTRIBUTE_TENSORS):
            yield from _tensor(inside, _name(node, owner))
        elif part.number in (_ATTRIBUTE_GRAPH, _ATTRIBUTE_GRAPHS):
            yield from _graph(inside, depth + 1)
        elif part.number in (_ATTRIBUTE_SPARSE, _ATTRIBUTE_SPARSES):
            yield from _sparse(inside, _name(node, owner))
        elif part.number == _ATTRIBUTE_FLOATS:
            # Some writers pack the list, though the schema does not ask for it; then it is an array.
            name = f"{_name(node, owner)}:{attribute.text(_ATTRIBUTE_NAME)}"
            yield from _whole(make_tensor(name, part.start, part.end - part.start, "f32", ()))


def _name(message: Message, part: Field | None) -> str:
    return "" if part is None else message.text_of(part)


def _sparse(sparse: Message, name: str) -> Iterator[Tensor | Elsewhere]:
    for part in sparse.fields():
        if part.kind == BYTES and part.number in (_SPARSE_VALUES, _SPARSE_INDICES):
            yield from _tensor(sparse.inside(part), name, ":indices" if part.number == _SPARSE_INDICES else "")


@dataclass(slots=True)
class _Parts:
    """What the fields of one TensorProto say."""

    dims: list[int] = field(default_factory=list)
    element: str = "unknown"
    name: str = ""
    external: bool = False
    entries: dict[str, str] = field(default_factory=dict)
    arrays: list[tuple[int, Field]] = field(default_factory=list)


def _tensor(tensor: Message, name: str, suffix: str = "") -> Iterator[Tensor | Elsewhere]:
    parts = _parts(tensor)
    name = (name or parts.name) + suffix
    if parts.external:
        yield from _external(name, parts)
        return
    for number, part in parts.arrays:
        dtype = _array_type(number, part, parts)
        if dtype is not None:
            yield from _whole(make_tensor(name, part.start, part.end - part.start, dtype, parts.dims))


def _parts(tensor: Message) -> _Parts:
    parts = _Parts()
    for part in tensor.fields():
        if part.number == _TENSOR_DIMS:
            parts.dims.extend(tensor.numbers_of(part, MAX_DIMENSIONS))
            if len(parts.dims) > MAX_DIMENSIONS:
                raise MalformedModel("more dimensions than any tensor has")
        elif part.kind == VARINT and part.number == _TENSOR_TYPE:
            parts.element = ELEMENTS.get(part.value, "unknown")
        elif part.kind == VARINT and part.number == _TENSOR_LOCATION:
            parts.external = part.value == _EXTERNAL
        elif part.kind == BYTES and part.number == _TENSOR_NAME:
            parts.name = tensor.text_of(part)
        elif part.kind == BYTES and part.number == _TENSOR_EXTERNAL and len(parts.entries) < MAX_EXTERNAL_ENTRIES:
            entry = tensor.inside(part)
            parts.entries[entry.text(_ENTRY_KEY)] = entry.text(_ENTRY_VALUE)
        elif part.kind == BYTES and part.number in _ARRAYS:
            parts.arrays.append((part.number, part))
    return parts


_ARRAYS = (_TENSOR_RAW, _TENSOR_FLOATS, _TENSOR_DOUBLES, _TENSOR_INT32S, _TENSOR_INT64S, _TENSOR_UINT64S)


def _array_type(number: int, part: Field, parts: _Parts) -> str | None:
    """Return the type of the elements that lie in a field, None if they are no array there."""
    if number == _TENSOR_RAW:
        return short_type(parts.element)
    if number == _TENSOR_FLOATS:
        return "f32"
    if number == _TENSOR_DOUBLES:
        return "f64"
    count = 1
    for dimension in parts.dims:
        count *= max(0, dimension)
    return "u8" if count == part.end - part.start else None


def _external(name: str, parts: _Parts) -> Iterator[Elsewhere]:
    location, offset, length = (parts.entries.get(key, "") for key in ("location", "offset", "length"))
    if location and _is_number(offset or "0") and _is_number(length or "0"):
        shape = tuple(parts.dims)
        stated = int(length) if length else None
        yield Elsewhere(name, location, int(offset or "0"), stated, short_type(parts.element), shape)


def _is_number(text: str) -> bool:
    # A file's offset has 19 digits at most.
    return text.isascii() and text.isdigit() and len(text) < 20


def _whole(tensor: Tensor | None) -> Iterator[Tensor]:
    if tensor is not None:
        yield tensor
