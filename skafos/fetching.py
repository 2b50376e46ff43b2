"""A version's upload is downloaded: resumed where it was cut off, and compared with its hash before it is there.

Bytes go to ``<file>.part`` beside the wanted file; the ETag, which is the SHA-256 of the upload, to
``<file>.part.etag``. The wanted file appears by a rename, once all bytes are there and hash to what the server named.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO

from skafos.calls import Call, Pause, Progress, Steps, error_of
from skafos.exceptions import DownloadFailedError, NotFoundError, SkafosError, UnavailableError
from skafos.operations import of_model
from skafos.uploading import MAX_FRUITLESS_ATTEMPTS, pause_after

# For each piece read, not for the file: a network that brings nothing for a minute is gone.
PIECE_TIMEOUT_SECONDS = 60.0
DOWNLOAD_PREFIX = "/download/v2"

_SHA256 = re.compile(r"[0-9a-f]{64}", re.ASCII)
_CONTENT_RANGE = re.compile(r"bytes (\d{1,18})-\d{1,18}/(\d{1,18})", re.ASCII)


def fetch_version(
    org: str, app: str, model: str, out: Path, *, version: int | None = None, progress: Progress | None = None
) -> Steps[Path]:
    """Download what was uploaded as a version, byte for byte.

    Args:
        org, app, model: names or ids.
        out: the file to make; a part of an earlier attempt beside it is used.
        version: its number; default the latest.
        progress: is told the bytes received and their total.

    Raises:
        NotFoundError: there is no such version.
        DownloadFailedError: it could not be had in several attempts, or its bytes are not what was uploaded.
    """
    url = DOWNLOAD_PREFIX + of_model(org, app, model)
    query = {"version": str(version)} if version else {}
    part = PartialFile(out, progress)
    fruitless = 0
    while True:
        before = part.length
        try:
            answer = yield Call(
                "GET", url, query=query, headers=part.headers(), sink=part, timeout_seconds=PIECE_TIMEOUT_SECONDS
            )
            if answer.status in (200, 206, 416) and part.is_whole:
                return part.finish()
            failure: SkafosError = _failure_of(answer.status, error_of(answer))
        except UnavailableError as error:
            failure = error
        if not isinstance(failure, UnavailableError):
            raise failure
        fruitless = 0 if part.length > before else fruitless + 1
        if fruitless >= MAX_FRUITLESS_ATTEMPTS:
            raise DownloadFailedError(f"The download failed {fruitless} times in a row: {failure}") from failure
        yield Pause(pause_after(fruitless))


def _failure_of(status: int, error: SkafosError) -> SkafosError:
    """Return what an answer that left the file incomplete means; `UnavailableError` when asking again may help."""
    if status == 416:
        return UnavailableError("The server's file has changed.")
    if status in (200, 206):
        return UnavailableError("The connection ended before the file did.")
    return error if isinstance(error, UnavailableError | NotFoundError) else DownloadFailedError(str(error))


class PartialFile:
    """A file that arrives in pieces. A `skafos.calls.Sink`."""

    def __init__(self, out: Path, progress: Progress | None = None) -> None:
        self._out = out
        self._part = out.with_name(out.name + ".part")
        self._etag_file = out.with_name(out.name + ".part.etag")
        self._progress = progress
        self._total: int | None = None
        self._file: BinaryIO | None = None

    @property
    def length(self) -> int:
        """How many bytes are on the disk."""
        return self._part.stat().st_size if self._part.exists() else 0

    @property
    def is_whole(self) -> bool:
        """Say whether all bytes that the server announced are there."""
        return self._total is not None and self.length == self._total

    def headers(self) -> dict[str, str]:
        """Return the request headers that ask for what is missing (RFC 9110, sections 13.1.5 and 14.2)."""
        etag = self._known_etag()
        if not self.length or not etag or etag.startswith("W/"):
            return {}
        return {"range": f"bytes={self.length}-", "if-range": etag}

    def begin(self, status: int, headers: Mapping[str, str]) -> None:
        """Open the file where this answer's body belongs."""
        if status == 206:
            self._begin_rest(_CONTENT_RANGE.fullmatch(headers.get("content-range", "")))
        else:
            self._begin_whole(headers)

    def _begin_rest(self, placed: re.Match[str] | None) -> None:
        if placed and int(placed[1]) == self.length:
            self._total = int(placed[2])
            self._file = self._part.open("ab")
        else:
            # Not the part that was asked for: start anew rather than guess.
            self._discard()

    def _begin_whole(self, headers: Mapping[str, str]) -> None:
        self._part.parent.mkdir(parents=True, exist_ok=True)
        self._etag_file.write_text(headers.get("etag", ""), "utf-8")
        self._total = int(headers["content-length"]) if headers.get("content-length", "").isdecimal() else None
        self._file = self._part.open("wb")

    def write(self, chunk: bytes) -> None:
        """Take the next bytes."""
        if self._file is not None:
            self._file.write(chunk)
            if self._progress and self._total is not None:
                self._progress(self._file.tell(), self._total)

    def end(self) -> None:
        """Close the file; what came stays."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def finish(self) -> Path:
        """Compare the bytes with the hash in the ETag and give the file its name.

        Raises:
            DownloadFailedError: the bytes are not those that were uploaded; they are thrown away.
        """
        named = self._known_etag().strip('"')
        if _SHA256.fullmatch(named) and _sha256(self._part) != named:
            self._discard()
            raise DownloadFailedError("The downloaded file is damaged: its hash is not that of the upload.")
        with self._part.open("rb+") as file:
            os.fsync(file.fileno())
        self._part.replace(self._out)
        self._etag_file.unlink(missing_ok=True)
        return self._out

    def _known_etag(self) -> str:
        try:
            return self._etag_file.read_text("utf-8")
        except (OSError, ValueError):
            return ""

    def _discard(self) -> None:
        self._part.unlink(missing_ok=True)
        self._etag_file.unlink(missing_ok=True)


def _sha256(file: Path) -> str:
    with file.open("rb") as source:
        return hashlib.file_digest(source, "sha256").hexdigest()
