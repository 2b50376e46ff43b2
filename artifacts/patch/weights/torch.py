"""The tensors of a PyTorch file: TorchScript, or what ``torch.save`` writes.

Both are zips with a pickle that names the tensors and a file for each storage. A pickle is a program; it is not run.
`pickletools.genops` lists its instructions, and of what they would build only the strings, numbers, tuples and tensors
are followed, on a stack that mirrors the pickle's own.

Sources: PyTorch's torch/serialization.py and torch/_utils.py (``_rebuild_tensor_v2``); Python's `pickletools`.
"""

from __future__ import annotations

import math
import pickletools
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from artifacts.inspect.errors import MalformedModel
from artifacts.inspect.protobuf import Budget
from artifacts.inspect.tensor import MAX_DIMENSIONS
from artifacts.patch.weights.tensor import MAX_NAME_LENGTH, WIDTHS, Elsewhere

# The pickles of a zip that can name tensors, and the folder beside each that holds their storages.
STORAGES = {"data.pkl": "data", "constants.pkl": "constants", "bytecode.pkl": "constants"}

# Names of layers and their settings: the pickle of a model of a billion weights has a megabyte.
MAX_PICKLE_BYTES = 16 * 1024 * 1024
# Objects within objects; Python's own limit to what a pickle can nest is about the same.
MAX_DEPTH = 1000

# The values on the stack of one that is not complete: an object and its state, a function and its arguments.
_UNFINISHED = 8

_REBUILDERS = ("_rebuild_tensor_v2", "_rebuild_tensor", "_rebuild_qtensor")
_STORAGE_TYPES = {
    "FloatStorage": "f32",
    "HalfStorage": "f16",
    "BFloat16Storage": "bf16",
    "DoubleStorage": "f64",
    "ByteStorage": "u8",
    "CharStorage": "i8",
    "ShortStorage": "i16",
    "IntStorage": "i32",
    "LongStorage": "i64",
    "BoolStorage": "u8",
    "QInt8Storage": "i8",
    "QUInt8Storage": "u8",
    "QInt32Storage": "i32",
    "ComplexFloatStorage": "f32",
    "ComplexDoubleStorage": "f64",
}


@dataclass(frozen=True, slots=True)
class _Name:
    """A class or function that the pickle refers to."""

    text: str


@dataclass(frozen=True, slots=True)
class _Storage:
    """A file of elements: its name and its elements' type."""

    key: str
    dtype: str


# What the stack holds: text, numbers, tuples, the two above, and None for all that does not matter.
_Value = Any


def find_weights(data: memoryview, folder: str, budget: Budget) -> Iterator[Elsewhere]:
    """Yield the tensors that a pickle builds, each with the file of its storage.

    Args:
        data: the pickle.
        folder: where its storages are, as `STORAGES` tells.
        budget: of instructions that may be looked at.

    Raises:
        MalformedModel: it is no pickle, or damaged; what was yielded before is sound.
    """
    if len(data) > MAX_PICKLE_BYTES:
        raise MalformedModel("a pickle is longer than any model's")
    machine = _Machine()
    try:
        for instruction, argument, _ in pickletools.genops(bytes(data)):
            budget.spend()
            tensor = machine.step(instruction.name, argument, folder)
            if tensor is not None:
                yield tensor
    except (ValueError, KeyError, IndexError, TypeError, OverflowError, struct.error) as problem:
        raise MalformedModel("a pickle is damaged") from problem


class _Machine:
    """The pickle's stack, cut into frames at its marks, and its memo."""

    def __init__(self) -> None:
        self._frames: list[list[_Value]] = [[]]
        self._memo: dict[int, _Value] = {}

    def step(self, name: str, argument: object, folder: str) -> Elsewhere | None:
        """Follow one instruction; return the tensor if it builds one."""
        if name == "REDUCE":
            return self._reduce(folder)
        if name in _LITERALS:
            self._push(argument)
        elif name in _NOTHING:
            self._push(None)
        elif name in _POPS:
            self._drop(_POPS[name])
        elif name in _TUPLES:
            frame = self._frames[-1]
            values = tuple(frame[len(frame) - _TUPLES[name] :])
            self._drop(_TUPLES[name])
            self._push(values)
        elif name in _MEMOIZE:
            self._memo[len(self._memo) if argument is None else int(str(argument))] = self._frames[-1][-1]
        elif name in _RECALL:
            self._push(self._memo[int(str(argument))])
        else:
            _RARE[name](self, argument)
        return None

    def _push(self, value: _Value) -> None:
        self._frames[-1].append(value)

    def _drop(self, count: int) -> None:
        frame = self._frames[-1]
        if count > len(frame):
            raise IndexError
        del frame[len(frame) - count :]

    def mark(self, _: object) -> None:
        """Open a frame."""
        if len(self._frames) > MAX_DEPTH:
            raise MalformedModel("a pickle nests deeper than any model's")
        self._frames.append([])

    def close(self) -> list[_Value]:
        """Close a frame and return what was in it."""
        if len(self._frames) == 1:
            raise IndexError
        return self._frames.pop()

    def close_tuple(self, _: object) -> None:
        """Make a tuple of a frame."""
        self._push(tuple(self.close()))

    def close_dropped(self, _: object) -> None:
        """Forget a frame: its values went into the object below it."""
        self.close()

    def close_object(self, _: object) -> None:
        """Make something that does not matter of a frame."""
        self.close()
        self._push(None)

    def name(self, argument: object) -> None:
        """Push a class or function, which is written as ``module name``."""
        self._push(_Name(str(argument).rpartition(" ")[2]))

    def stack_name(self, _: object) -> None:
        """Push a class or function whose module and name are on the stack."""
        name = self._frames[-1][-1]
        self._drop(2)
        self._push(_Name(name if isinstance(name, str) else ""))

    def again(self, _: object) -> None:
        """Push once more what was pushed last."""
        self._push(self._frames[-1][-1])

    def storage(self, _: object) -> None:
        """Replace ``('storage', class, key, place, number)`` by the storage that it stands for."""
        reference = self._frames[-1].pop()
        storage = None
        if isinstance(reference, tuple) and len(reference) >= 3 and reference[0] == "storage":
            kind, key = reference[1:3]
            if isinstance(kind, _Name) and isinstance(key, str):
                storage = _Storage(key, _STORAGE_TYPES[kind.text]) if kind.text in _STORAGE_TYPES else None
        self._push(storage)

    def nothing(self, _: object) -> None:
        """Do nothing."""

    def _reduce(self, folder: str) -> Elsewhere | None:
        frame = self._frames[-1]
        function, arguments = frame[-2], frame[-1]
        self._drop(2)
        self._push(None)
        if isinstance(function, _Name) and function.text in _REBUILDERS and isinstance(arguments, tuple):
            # What is pushed stands for the tensor: the place that it is put into is still the one being built.
            return self._tensor(arguments, folder)
        return None

    def _tensor(self, arguments: tuple[_Value, ...], folder: str) -> Elsewhere | None:
        storage, offset, shape = arguments[:3]
        if not isinstance(storage, _Storage) or type(offset) is not int or not isinstance(shape, tuple):
            return None
        if offset < 0 or len(shape) > MAX_DIMENSIONS or any(type(one) is not int or one < 0 for one in shape):
            return None
        width = WIDTHS[storage.dtype]
        length = math.prod(shape) * width
        location = f"{folder}/{storage.key}"
        return Elsewhere(self._path(), location, offset * width, length, storage.dtype, shape) if length else None

    def _path(self) -> str:
        """Return the names under which what is being built will be found: ``encoder.0.weight``.

        A dictionary is filled from a frame of keys and values in turn. The key whose value is not complete is the
        last one at an even place: behind it is what there is of the value, and no value that is complete.
        """
        keys = []
        for frame in self._frames:
            last = (len(frame) - 1) // 2 * 2
            for place in range(last, max(-1, last - _UNFINISHED), -2):
                if isinstance(frame[place], (str, int)):
                    keys.append(f"{frame[place]}"[:MAX_NAME_LENGTH])
                    break
        return ".".join(keys)[:MAX_NAME_LENGTH]


# Instructions by what they do here. Those that are not listed belong to no tensor and end the scan.
_LITERALS = frozenset(
    [
        *("BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "UNICODE", "BINSTRING", "SHORT_BINSTRING", "STRING"),
        *("BININT", "BININT1", "BININT2", "INT", "LONG", "LONG1", "LONG4"),
    ]
)
_NOTHING = frozenset(
    [
        *("NONE", "NEWTRUE", "NEWFALSE", "EMPTY_DICT", "EMPTY_LIST", "EMPTY_SET", "FLOAT", "BINFLOAT"),
        *("BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8", "EXT1", "EXT2", "EXT4", "NEXT_BUFFER"),
    ]
)
# The number of values that are taken away, where what is below them stays.
_POPS = {"POP": 1, "APPEND": 1, "BUILD": 1, "SETITEM": 2, "NEWOBJ": 1, "NEWOBJ_EX": 2}
_TUPLES = {"EMPTY_TUPLE": 0, "TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_MEMOIZE = frozenset(("BINPUT", "LONG_BINPUT", "PUT", "MEMOIZE"))
_RECALL = frozenset(("BINGET", "LONG_BINGET", "GET"))
_RARE: dict[str, Callable[[_Machine, object], None]] = {
    "MARK": _Machine.mark,
    "TUPLE": _Machine.close_tuple,
    "SETITEMS": _Machine.close_dropped,
    "APPENDS": _Machine.close_dropped,
    "ADDITEMS": _Machine.close_dropped,
    "POP_MARK": _Machine.close_dropped,
    "DICT": _Machine.close_object,
    "LIST": _Machine.close_object,
    "FROZENSET": _Machine.close_object,
    "OBJ": _Machine.close_object,
    "INST": _Machine.close_object,
    "GLOBAL": _Machine.name,
    "STACK_GLOBAL": _Machine.stack_name,
    "DUP": _Machine.again,
    "BINPERSID": _Machine.storage,
    "PROTO": _Machine.nothing,
    "FRAME": _Machine.nothing,
    "READONLY_BUFFER": _Machine.nothing,
    "STOP": _Machine.nothing,
}
