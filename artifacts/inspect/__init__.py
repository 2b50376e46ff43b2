"""What an artifact holds: the model's format, its inputs and outputs, read without loading the model.

A damaged model is no error: uploads of formats and exporters that nobody thought of should work. Then the format is
what the names tell, and inputs and outputs stay unknown.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, TypeVar

from artifacts.archive import ArchiveReader
from artifacts.inspect import coreml, onnx, tflite
from artifacts.inspect.errors import MalformedModel
from artifacts.inspect.tensor import UNKNOWN_SHAPE, Signature, Tensor

__all__ = ["UNKNOWN_SHAPE", "Inspection", "Tensor", "inspect_archive"]

COREML_MODEL = "coreml-mlmodel"
COREML_PACKAGE = "coreml-mlpackage"
COREML_COMPILED = "coreml-mlmodelc"
TFLITE = "tflite"
ONNX = "onnx"
OTHER = "other"

# Files of an unknown kind that are asked for TensorFlow Lite's identifier, a read of eight bytes each.
MAX_PROBED_FILES = 16

_Result = TypeVar("_Result")


@dataclass(frozen=True, slots=True)
class Inspection:
    """What is known of a model.

    Attributes:
        format: one of the constants above.
        inputs: in the model's order; empty if unknown.
        outputs: likewise.
        interface: 32 hex digits that are equal for models that an app can exchange for each other; None if unknown.
    """

    format: str
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    interface: str | None


def inspect_archive(path: Path) -> Inspection:
    """Tell what model an artifact holds.

    Args:
        path: an archive in canonical form.

    Raises:
        InvalidArchive: it is not one.
        OSError: it cannot be read.
    """
    with ArchiveReader(path) as archive:
        form, models = _find_models(archive)
        # Which of several models an app would load cannot be told, so neither can the interface.
        signature = _signature(archive, form, models[0]) if len(models) == 1 else None
    if signature is None:
        return Inspection(form, (), (), None)
    return Inspection(form, signature.inputs, signature.outputs, signature.interface())


def _find_models(archive: ArchiveReader) -> tuple[str, list[str]]:
    """Return the format and the models of that format: a file's name, or a folder's with a slash behind."""
    names = archive.names
    for form, models in (
        (COREML_PACKAGE, _packages(names)),
        (COREML_COMPILED, _compiled(names)),
        (COREML_MODEL, _with_suffix(names, ".mlmodel")),
        (TFLITE, _with_suffix(names, ".tflite")),
        (ONNX, _with_suffix(names, ".onnx")),
        (TFLITE, [name for name in names[:MAX_PROBED_FILES] if _read(archive, name, tflite.is_tflite)]),
    ):
        if models:
            return form, models
    return OTHER, []


def _packages(names: tuple[str, ...]) -> list[str]:
    """Return the folders of ``.mlpackage`` bundles; one that was zipped from the inside has no name, only its parts."""
    folders = _folders_with_suffix(names, ".mlpackage")
    bare = "Manifest.json" in names and any(name.startswith("Data/com.apple.CoreML/") for name in names)
    return folders or ([""] if bare else [])


def _compiled(names: tuple[str, ...]) -> list[str]:
    folders = _folders_with_suffix(names, ".mlmodelc")
    return folders or ([""] if "coremldata.bin" in names else [])


def _folders_with_suffix(names: tuple[str, ...], suffix: str) -> list[str]:
    found = set()
    for name in names:
        parts = name.split("/")
        for depth, part in enumerate(parts[:-1], start=1):
            if part.lower().endswith(suffix):
                found.add("/".join(parts[:depth]) + "/")
                break
    return sorted(found)


def _with_suffix(names: tuple[str, ...], suffix: str) -> list[str]:
    return [name for name in names if name.lower().endswith(suffix)]


def _signature(archive: ArchiveReader, form: str, model: str) -> Signature | None:
    try:
        signature = _READERS[form](archive, model)
        signature.require_sound()
        return signature
    except (MalformedModel, KeyError):
        # KeyError: a file that the format demands is not in the archive.
        return None


def _read_package(archive: ArchiveReader, folder: str) -> Signature:
    path = _read(archive, folder + "Manifest.json", coreml.specification_path)
    if path is None:
        raise MalformedModel("the manifest names no specification")
    return _read_coreml(archive, f"{folder}Data/{path}")


def _read_compiled(archive: ArchiveReader, folder: str) -> Signature:
    return _read(archive, folder + "metadata.json", coreml.read_compiled_signature)


def _read_coreml(archive: ArchiveReader, name: str) -> Signature:
    length = archive.member(name).length
    return _read(archive, name, lambda file: coreml.read_signature(file, length))


def _read_onnx(archive: ArchiveReader, name: str) -> Signature:
    length = archive.member(name).length
    return _read(archive, name, lambda file: onnx.read_signature(file, length))


def _read_tflite(archive: ArchiveReader, name: str) -> Signature:
    return _read(archive, name, tflite.read_signature)


def _read(archive: ArchiveReader, name: str, reader: Callable[[BinaryIO], _Result]) -> _Result:
    with archive.open(name) as file:
        return reader(file)


_READERS: dict[str, Callable[[ArchiveReader, str], Signature]] = {
    COREML_PACKAGE: _read_package,
    COREML_COMPILED: _read_compiled,
    COREML_MODEL: _read_coreml,
    TFLITE: _read_tflite,
    ONNX: _read_onnx,
}
