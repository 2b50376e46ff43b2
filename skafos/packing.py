"""Files on a disk become the one zip that is uploaded.

The zip is the same for the same files, whenever it is made: names in order, one fixed time, one compression. Names in
it are relative and never contain ``..``. A single zip is sent as it is.
"""

from __future__ import annotations

import contextlib
import shutil
import stat
import tempfile
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path, PurePosixPath

from skafos.exceptions import InvalidParamError

# The earliest time that a zip can hold: the same files give the same bytes.
FIXED_TIME = (1980, 1, 1, 0, 0, 0)
# Weights hardly shrink; level 1 takes most of what there is at a fraction of the time.
COMPRESSION_LEVEL = 1
COPY_BYTES = 1 << 20


@contextlib.contextmanager
def packed(files: Sequence[str | Path], model: str, *, keep_paths: bool) -> Iterator[Path]:
    """Give the zip to upload for ``files``: a file of the caller's, or a temporary one that is removed afterwards.

    Args:
        files: files and folders.
        model: the model's name, which names the zip.
        keep_paths: name entries by the path as given (as the SDK always did), not from the last component on.

    Raises:
        InvalidParamError: a file does not exist, is no zip though its name says so, or two would have one name.
    """
    paths = [Path(file) for file in files]
    if not paths:
        raise InvalidParamError("There is nothing to upload: name at least one file.")
    if len(paths) == 1 and paths[0].suffix == ".zip" and paths[0].is_file():
        yield require_zip(paths[0])
        return
    with tempfile.TemporaryDirectory(prefix="skafos-upload-") as directory:
        archive = Path(directory) / zip_name(model)
        write_zip(archive, entries(paths, keep_paths=keep_paths))
        yield archive


def zip_name(model: str) -> str:
    """Return the file name of a model's zip: ``<model>.zip``.

    Raises:
        InvalidParamError: the model's name cannot be a file's.
    """
    if "/" in model or "\\" in model or "\0" in model or model.startswith("."):
        raise InvalidParamError(f"{model!r} cannot be the name of a file.")
    return model if model.endswith(".zip") else f"{model}.zip"


def require_zip(path: Path) -> Path:
    """Return ``path`` when it is a zip; raise `InvalidParamError` when only its name says so."""
    if not zipfile.is_zipfile(path):
        raise InvalidParamError(f"{path} is an invalid zipfile. Can't upload to Skafos.")
    return path


def entries(paths: Iterable[Path], *, keep_paths: bool) -> dict[str, Path]:
    """Return what goes into the zip: names in it, in order, and the files on the disk."""
    found: dict[str, Path] = {}
    for path in paths:
        for name, file in _entries_of(path, keep_paths=keep_paths):
            if name in found and found[name] != file:
                raise InvalidParamError(f"{found[name]} and {file} would both be {name} in the upload.")
            found[name] = file
    if not found:
        raise InvalidParamError("There is nothing to upload: the folders hold no file.")
    return dict(sorted(found.items()))


def _entries_of(path: Path, *, keep_paths: bool) -> Iterator[tuple[str, Path]]:
    if path.is_file():
        yield _name_of(path, keep_paths=keep_paths), path
    elif path.is_dir():
        top = PurePosixPath(_name_of(path, keep_paths=keep_paths))
        for file in sorted(path.rglob("*")):
            if file.is_file():
                yield str(top / file.relative_to(path).as_posix()), file
    else:
        raise InvalidParamError(f"We were unable to find {path}. Check to make sure that the file path is correct.")


def _name_of(path: Path, *, keep_paths: bool) -> str:
    """Return a relative name without ``..``: the path as given when it is one, else its last component."""
    if keep_paths and not path.is_absolute() and ".." not in path.parts:
        return path.as_posix()
    return path.resolve().name


def write_zip(archive: Path, files: dict[str, Path]) -> None:
    """Write the zip. Files are streamed; nothing is held in memory."""
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED, compresslevel=COMPRESSION_LEVEL) as target:
        for name, file in files.items():
            entry = zipfile.ZipInfo(name, FIXED_TIME)
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.external_attr = (stat.S_IFREG | 0o644) << 16
            entry.file_size = file.stat().st_size
            with file.open("rb") as source, target.open(entry, "w", force_zip64=True) as sink:
                shutil.copyfileobj(source, sink, COPY_BYTES)
