"""Inputs and outputs of a Core ML model: the specification as it is written, and the folder that Xcode compiles it to.

Sources: the field numbers are those of coremltools' mlmodel/format, Model.proto and FeatureTypes.proto. The compiled
folder is undocumented; its ``metadata.json`` holds ``inputSchema`` and ``outputSchema``, which Xcode shows.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from typing import Any, BinaryIO

from artifacts.inspect.errors import MalformedModel
from artifacts.inspect.protobuf import BYTES, Budget, Message
from artifacts.inspect.tensor import MAX_DIMENSIONS, MAX_TENSORS, Dimension, Signature, Tensor, is_dimension

_MODEL_VERSION, _MODEL_DESCRIPTION = 1, 2
_DESCRIPTION_INPUT, _DESCRIPTION_OUTPUT, _DESCRIPTION_FUNCTION, _DESCRIPTION_DEFAULT_FUNCTION = 1, 10, 20, 21
_FUNCTION_NAME, _FUNCTION_INPUT, _FUNCTION_OUTPUT = 1, 2, 3
_FEATURE_NAME, _FEATURE_TYPE = 1, 3
_IMAGE_WIDTH, _IMAGE_HEIGHT, _IMAGE_COLOR, _IMAGE_SIZES, _IMAGE_RANGE = 1, 2, 3, 21, 31
_ARRAY_SHAPE, _ARRAY_TYPE, _ARRAY_SHAPES, _ARRAY_RANGE = 1, 2, 21, 31
_KEY_INT64, _SEQUENCE_INT64, _STATE_ARRAY = 1, 1, 1
_RANGE_LOWER, _RANGE_UPPER = 1, 2

_COLORS = {10: "grayscale", 20: "rgb", 30: "bgr", 40: "grayscale-float16"}
_ELEMENTS = {65552: "float16", 65568: "float32", 65600: "float64", 131080: "int8", 131104: "int32"}

# Shapes to choose from: far above any model's.
MAX_SHAPES = 1024
# Manifest.json and metadata.json: a few kilobytes in real models.
MAX_JSON_BYTES = 4 * 1024 * 1024


def read_signature(file: BinaryIO, length: int) -> Signature:
    """Return the inputs and outputs of the Core ML specification that ``file`` holds in its ``length`` bytes.

    Raises:
        MalformedModel: it is no Core ML specification.
    """
    model = Message(file, 0, length, Budget())
    description = model.message(_MODEL_DESCRIPTION)
    if description is None or model.integer(_MODEL_VERSION) <= 0:
        raise MalformedModel("no Core ML model: it has no description or no version")
    function = _default_function(description)
    if function is not None:
        return Signature(_features(function, _FUNCTION_INPUT), _features(function, _FUNCTION_OUTPUT))
    return Signature(_features(description, _DESCRIPTION_INPUT), _features(description, _DESCRIPTION_OUTPUT))


def _default_function(description: Message) -> Message | None:
    """Return the function that an app gets when it names none: models with several describe them one by one."""
    default = description.text(_DESCRIPTION_DEFAULT_FUNCTION)
    for function in description.messages(_DESCRIPTION_FUNCTION):
        if default and function.text(_FUNCTION_NAME) == default:
            return function
    return None


def _features(parent: Message, number: int) -> tuple[Tensor, ...]:
    features = []
    for feature in parent.messages(number):
        features.append(_feature(feature))
        if len(features) > MAX_TENSORS:
            raise MalformedModel("more inputs and outputs than any model has")
    return tuple(features)


def _feature(feature: Message) -> Tensor:
    kind: str = "unknown"
    shape: tuple[Dimension, ...] = ()
    type_message = feature.message(_FEATURE_TYPE)
    for field in type_message.fields() if type_message else ():
        if field.kind == BYTES and field.number in _FEATURE_TYPES:
            assert type_message is not None
            kind, shape = _FEATURE_TYPES[field.number](type_message.inside(field))
    return Tensor(feature.text(_FEATURE_NAME), kind, shape)


_TypeAndShape = tuple[str, tuple[Dimension, ...]]


def _image(image: Message) -> _TypeAndShape:
    color = _COLORS.get(image.integer(_IMAGE_COLOR), "unknown")
    fixed: tuple[Dimension, ...] = (image.integer(_IMAGE_HEIGHT), image.integer(_IMAGE_WIDTH))
    span = image.message(_IMAGE_RANGE)
    if span is not None:
        fixed = _ranged(fixed, [span.message(2), span.message(1)])
    sizes = image.message(_IMAGE_SIZES)
    if sizes is not None:
        fixed = _varied([(size.integer(2), size.integer(1)) for size in _bounded(sizes.messages(1))], fixed)
    return f"image:{color}", fixed


def _array(array: Message) -> _TypeAndShape:
    fixed: tuple[Dimension, ...] = array.integers(_ARRAY_SHAPE, MAX_DIMENSIONS)
    span = array.message(_ARRAY_RANGE)
    if span is not None:
        fixed = _ranged(fixed, list(_bounded(span.messages(1))))
    shapes = array.message(_ARRAY_SHAPES)
    if shapes is not None:
        fixed = _varied([shape.integers(1, MAX_DIMENSIONS) for shape in _bounded(shapes.messages(1))], fixed)
    return _ELEMENTS.get(array.integer(_ARRAY_TYPE), "unknown"), fixed


def _bounded(messages: Iterable[Message]) -> Iterable[Message]:
    for count, message in enumerate(messages):
        if count >= MAX_SHAPES:
            raise MalformedModel("more shapes than any tensor has")
        yield message


def _ranged(default: tuple[Dimension, ...], spans: list[Message | None]) -> tuple[Dimension, ...]:
    """Return the dimensions of which each may lie in a range: a number only where the range holds just one."""
    if not any(spans):
        return default
    return tuple(None if span is None else _only_value(span) for span in spans)


def _only_value(span: Message) -> Dimension:
    lower, upper = span.integer(_RANGE_LOWER), span.integer(_RANGE_UPPER)
    return lower if lower == upper else None


def _varied(shapes: list[tuple[int, ...]], default: tuple[Dimension, ...]) -> tuple[Dimension, ...]:
    """Return the dimensions of a tensor that may have any of several shapes: a number only where all agree."""
    if not shapes or len({len(shape) for shape in shapes}) != 1:
        return default
    return tuple(column[0] if len(set(column)) == 1 else None for column in zip(*shapes, strict=True))


def _dictionary(dictionary: Message) -> _TypeAndShape:
    return ("dictionary:int64" if dictionary.message(_KEY_INT64) is not None else "dictionary:string"), ()


def _sequence(sequence: Message) -> _TypeAndShape:
    return ("sequence:int64" if sequence.message(_SEQUENCE_INT64) is not None else "sequence:string"), (None,)


def _state(state: Message) -> _TypeAndShape:
    array = state.message(_STATE_ARRAY)
    return _array(array) if array is not None else ("unknown", ())


# FeatureType's fields, each a type of its own.
_FEATURE_TYPES: dict[int, Callable[[Message], _TypeAndShape]] = {
    1: lambda _: ("int64", ()),
    2: lambda _: ("float64", ()),
    3: lambda _: ("string", ()),
    4: _image,
    5: _array,
    6: _dictionary,
    7: _sequence,
    8: _state,
}


def specification_path(manifest: BinaryIO) -> str | None:
    """Return where an ``.mlpackage``'s ``Manifest.json`` says its specification lies, below ``Data/``.

    Raises:
        MalformedModel: it is no such manifest.
    """
    content = _json(manifest)
    if not isinstance(content, dict):
        raise MalformedModel("Manifest.json holds no object")
    items, root = content.get("itemInfoEntries"), content.get("rootModelIdentifier")
    item = items.get(root) if isinstance(items, dict) and isinstance(root, str) else None
    path = item.get("path") if isinstance(item, dict) else None
    return path if isinstance(path, str) else None


def read_compiled_signature(metadata: BinaryIO) -> Signature:
    """Return the inputs and outputs that a compiled model's ``metadata.json`` lists.

    Raises:
        MalformedModel: it lists none.
    """
    content = _json(metadata)
    first = content[0] if isinstance(content, list) and content else None
    if not isinstance(first, dict):
        raise MalformedModel("metadata.json describes no model")
    return Signature(_schema(first.get("inputSchema")), _schema(first.get("outputSchema")))


def _schema(entries: object) -> tuple[Tensor, ...]:
    if not isinstance(entries, list) or len(entries) > MAX_TENSORS:
        raise MalformedModel("metadata.json lists no inputs or outputs")
    return tuple(_schema_entry(entry) for entry in entries)


def _schema_entry(entry: object) -> Tensor:
    if not isinstance(entry, dict) or not isinstance(entry.get("name"), str):
        raise MalformedModel("metadata.json has an entry without a name")
    kind = entry.get("type")
    if kind == "Image":
        return Tensor(entry["name"], f"image:{_word(entry, 'colorspace')}", _compiled_image_shape(entry))
    if kind == "MultiArray":
        element = {"double": "float64"}.get(_word(entry, "dataType"), _word(entry, "dataType"))
        return Tensor(entry["name"], element, _compiled_array_shape(entry))
    if kind == "Dictionary":
        return Tensor(entry["name"], f"dictionary:{_word(entry, 'keyType')}", ())
    return Tensor(entry["name"], {"Double": "float64"}.get(str(kind), str(kind)[:64].lower()), ())


def _word(entry: dict[str, Any], key: str) -> str:
    word = entry.get(key)
    return word[:64].lower() if isinstance(word, str) else "unknown"


def _compiled_image_shape(entry: dict[str, Any]) -> tuple[Dimension, ...]:
    if entry.get("hasSizeFlexibility") == "1":
        return (None, None)
    return tuple(_whole_number(entry.get(side)) for side in ("height", "width"))


def _compiled_array_shape(entry: dict[str, Any]) -> tuple[Dimension, ...]:
    """Return the shape that is written as text, for example ``"[1, 3]"``; a range ``[1, -1]`` is any length."""
    spans = _numbers(entry.get("shapeRange"))
    if entry.get("hasShapeFlexibility") == "1" and spans:
        return tuple(_only_number(span) for span in spans)
    return tuple(_number(dimension) for dimension in _numbers(entry.get("shape")) or [])


def _only_number(span: object) -> Dimension:
    """Return the number that a range holds when it holds just one."""
    return _number(span[0]) if isinstance(span, list) and len(span) == 2 and span[0] == span[1] else None


def _number(value: object) -> Dimension:
    """Return a dimension as JSON has it; what is no whole number is as unknown as a range."""
    return value if isinstance(value, int) and is_dimension(value) else None


def _numbers(text: object) -> list[Any] | None:
    if not isinstance(text, str):
        return None
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, list) and len(value) <= MAX_DIMENSIONS else None


def _whole_number(text: object) -> Dimension:
    return int(text) if isinstance(text, str) and text.isascii() and text.isdigit() and len(text) < 10 else None


def _json(file: BinaryIO) -> Any:
    data = file.read(MAX_JSON_BYTES + 1)
    if len(data) > MAX_JSON_BYTES:
        raise MalformedModel("a description is longer than any model has")
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as problem:
        raise MalformedModel("a description is not JSON") from problem
