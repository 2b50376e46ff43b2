"""Files on a disk become the one zip that is uploaded.

The zip is the same for the same files, whenever it is made: names in order, one fixed time, one compression. Names in
it are relative and never contain ``..``. A zip that is to be the upload itself is sent as it is.
"""

from __future__ import annotations

import contextlib
import enum
import os
import stat
import tempfile
import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath

from skafos.calls import Progress
from skafos.exceptions import InvalidParamError

# The earliest time that a zip can hold: the same files give the same bytes.
FIXED_TIME = (1980, 1, 1, 0, 0, 0)
# Weights hardly shrink; level 1 takes most of what there is at a fraction of the time.
COMPRESSION_LEVEL = 1
COPY_BYTES = 1 << 20


class Naming(enum.Enum):
    """How files are named in the zip, and which zip is sent as it is.

    Attributes:
        AS_GIVEN: as the published client does it: by the path as given, without ``.``, inner ``..`` and a leading
            ``/``; a zip is sent as it is when it is given as exactly ``<model>.zip``.
        LAST_PART: from the last part of the path on; any single zip is sent as it is.
    """

    AS_GIVEN = "as given"
    LAST_PART = "last part"


@contextlib.contextmanager
def packed(files: Sequence[str | Path], model: str, naming: Naming, progress: Progress | None = None) -> Iterator[Path]:
    """Give the zip to upload for ``files``: a file of the caller's, or a temporary one that is removed afterwards.

    Args:
        files: files and folders.
        model: the model's name, which names the zip.
        naming: how files are named in it.
        progress: is told the bytes that were packed and their total.

    Raises:
        InvalidParamError: a file does not exist, is no zip though its name says so, two would have one name, or a name
            cannot be in a zip.
    """
    if not files:
        raise InvalidParamError("There is nothing to upload: name at least one file.")
    # The path of an empty text is the working directory, which nobody means.
    if "" in files:
        raise InvalidParamError("An empty text names no file.")
    for file in files:
        if str(file).endswith(".zip") and Path(file).exists():
            _require_zip(Path(file))
    if _is_sent_as_it_is(files, model, naming):
        yield Path(files[0])
        return
    with tempfile.TemporaryDirectory(prefix="skafos-upload-") as directory:
        archive = Path(directory) / zip_name(model)
        write_zip(archive, entries(map(Path, files), naming), progress)
        yield archive


def _is_sent_as_it_is(files: Sequence[str | Path], model: str, naming: Naming) -> bool:
    (name, *more) = map(str, files)
    if more or not Path(name).is_file():
        return False
    return name.endswith(".zip") if naming is Naming.LAST_PART else name == zip_name(model)


def zip_name(model: str) -> str:
    """Return the file name of a model's zip: ``<model>.zip``.

    Raises:
        InvalidParamError: the model's name cannot be a file's.
    """
    if "/" in model or "\\" in model or "\0" in model or model.startswith("."):
        raise InvalidParamError(f"{model!r} cannot be the name of a file.")
    return model if model.endswith(".zip") else f"{model}.zip"


def _require_zip(path: Path) -> None:
    if not zipfile.is_zipfile(path):
        raise InvalidParamError(f"{path} is an invalid zipfile. Can't upload to Skafos.")


def entries(paths: Iterable[Path], naming: Naming) -> dict[str, Path]:
    """Return what goes into the zip: names in it, in order, and the files on the disk."""
    found: dict[str, Path] = {}
    for path in paths:
        for name, file in _entries_of(path, naming):
            if name in found and not found[name].samefile(file):
                raise InvalidParamError(f"{found[name]} and {file} would both be {name} in the upload.")
            found[name] = file
    if not found:
        raise InvalidParamError("There is nothing to upload: the folders hold no file.")
    return dict(sorted(found.items()))


def _entries_of(path: Path, naming: Naming) -> Iterator[tuple[str, Path]]:
    if path.is_file():
        yield _name_of(path, naming), path
    elif path.is_dir():
        top = PurePosixPath(_name_of(path, naming))
        for file in sorted(path.rglob("*")):
            if file.is_file():
                yield _zippable(str(top / file.relative_to(path).as_posix())), file
            elif not file.is_dir():
                raise InvalidParamError(f"{file} is neither a file nor a folder, or leads to nothing.")
    else:
        raise InvalidParamError(f"We were unable to find {path}. Check to make sure that the file path is correct.")


def _name_of(path: Path, naming: Naming) -> str:
    """Return a path's name in the zip: relative, and without ``..``."""
    if naming is Naming.LAST_PART:
        return _zippable(Path(os.path.normpath(Path.cwd() / path)).name or ".")
    # As `zipfile.ZipInfo.from_file` names what the published client adds; a leading `..` stays, and no server takes it.
    name = os.path.normpath(path).lstrip("/") or "."
    if name.split("/", 1)[0] == "..":
        raise InvalidParamError(
            f"{path} leads out of the working directory, and its name in the upload would too. "
            "Give its absolute path, or change the working directory."
        )
    return _zippable(name)


def _zippable(name: str) -> str:
    try:
        name.encode()
    except UnicodeEncodeError:
        raise InvalidParamError(f"The name {name!a} is no UTF-8.") from None
    return name


def write_zip(archive: Path, files: Mapping[str, Path], progress: Progress | None = None) -> None:
    """Write the zip. Files are streamed; nothing is held in memory."""
    total, done = sum(file.stat().st_size for file in files.values()), 0
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED, compresslevel=COMPRESSION_LEVEL) as target:
        for name, file in files.items():
            entry = zipfile.ZipInfo(name, FIXED_TIME)
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.external_attr = (stat.S_IFREG | 0o644) << 16
            entry.file_size = file.stat().st_size
            with file.open("rb") as source, target.open(entry, "w", force_zip64=True) as sink:
                while chunk := source.read(COPY_BYTES):
                    sink.write(chunk)
                    done += len(chunk)
                    if progress:
                        progress(done, total)
