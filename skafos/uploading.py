"""A model version is uploaded: begun, sent in parts, finished.

Parts go to the presigned URL. When it is the control plane's own, a part that was cut off is resumed where the server
says it stopped: 308 with ``Range`` while bytes are missing, ``Content-Range: bytes */<total>`` to ask (the conversation
of Google's resumable uploads). An object store's URL takes the whole file in one request, tried again from its start.
"""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from skafos.calls import Answer, Call, FileSlice, Pause, Progress, Steps, ask, error_of
from skafos.exceptions import ConflictError, InvalidParamError, SkafosError, UnavailableError, UploadFailedError
from skafos.operations import of_model
from skafos.records import Begun, ModelVersion

MAX_DESCRIPTION = 255
# A part that is cut off costs at most this much again.
PART_BYTES = 8 << 20
# For each piece written and for the answer, not for the part: a network that takes nothing for a minute is gone.
PART_TIMEOUT_SECONDS = 60.0
# Reading, archiving and compressing an upload of 2 GiB takes minutes on a small machine.
FINISH_TIMEOUT_SECONDS = 900.0
# Attempts in a row that move nothing; one that moves a part starts the count again.
MAX_FRUITLESS_ATTEMPTS = 6
FIRST_PAUSE_SECONDS = 0.5
LONGEST_PAUSE_SECONDS = 15.0

_RANGE = re.compile(r"bytes=0-(\d{1,18})", re.ASCII)


def upload_version(
    org: str,
    app: str,
    model: str,
    file: Path,
    *,
    filename: str | None = None,
    description: str | None = None,
    progress: Progress | None = None,
) -> Steps[ModelVersion]:
    """Upload one file (a zip, or a bare model file) as a model's next version.

    Args:
        org, app, model: names or ids.
        file: streamed from the disk, never held in memory.
        filename: what the upload is called; default the file's name.
        description: up to 255 characters.
        progress: is told the bytes sent and their total.

    Raises:
        UploadFailedError: the bytes could not be delivered in several attempts.
        SkafosError: the kind for what the server refused.
    """
    body = {"filename": filename or file.name} | description_field(description)
    begun = yield from ask(Call("POST", of_model(org, app, model, "model_versions"), json=body), Begun)
    yield from send_file(begun.presigned_url, file, progress)
    return (yield from finish(org, app, model, begun))


def description_field(description: object) -> dict[str, str]:
    """Return the description as a part of a body; raise `InvalidParamError` when it cannot be one."""
    if not description:
        return {}
    if not isinstance(description, str):
        raise InvalidParamError("Model version description must be a string.")
    if len(description) > MAX_DESCRIPTION:
        raise InvalidParamError(
            f"Description is too long. Please provide a description of at most {MAX_DESCRIPTION} characters."
        )
    return {"description": description}


def finish(org: str, app: str, model: str, begun: Begun) -> Steps[ModelVersion]:
    """Tell the server that all bytes are there. It may be said again: the same version comes back."""
    call = Call(
        "PATCH",
        of_model(org, app, model, "model_versions", begun.model_version_id),
        json={"filepath": begun.filepath},
        timeout_seconds=FINISH_TIMEOUT_SECONDS,
    )
    for attempt in range(MAX_FRUITLESS_ATTEMPTS):
        try:
            return (yield from ask(call, ModelVersion))
        except UnavailableError as error:
            last = error
            yield Pause(pause_after(attempt))
    raise UploadFailedError(f"The upload could not be finished: {last}") from last


def send_file(url: str, file: Path, progress: Progress | None = None) -> Steps[None]:
    """Send a file to a presigned URL, resuming after failures.

    Raises:
        UploadFailedError: the URL was refused, or several attempts in a row moved nothing.
    """
    transfer = _Transfer(url, file, progress)
    position, fruitless = 0, 0
    failure: SkafosError | None = None
    while True:
        try:
            reached = yield from transfer.send_from(position)
        except (UnavailableError, ConflictError) as error:
            failure = error
            reached = yield from transfer.ask_position()
        if reached is None:
            return
        fruitless = 0 if reached > position else fruitless + 1
        if fruitless >= MAX_FRUITLESS_ATTEMPTS:
            raise UploadFailedError(f"The upload failed {fruitless} times in a row: {failure}") from failure
        if fruitless:
            yield Pause(pause_after(fruitless))
        position = reached


def is_resumable(url: str) -> bool:
    """Say whether a presigned URL is the control plane's own, which takes parts."""
    address = urlsplit(url)
    return "/v2/uploads/" in address.path and "signature" in parse_qs(address.query)


def pause_after(failures: int) -> float:
    """Return the seconds to wait after ``failures`` in a row: doubling, bounded."""
    return min(FIRST_PAUSE_SECONDS * 2.0**failures, LONGEST_PAUSE_SECONDS)


class _Transfer:
    """One file on its way to one presigned URL. Positions are offsets in the file; None means that all is there."""

    def __init__(self, url: str, file: Path, progress: Progress | None) -> None:
        self._url = url
        self._file = file
        self._total = file.stat().st_size
        self._resumable = is_resumable(url) and self._total > 0
        self._report = (lambda position: progress(position, self._total)) if progress else None

    def send_from(self, start: int) -> Steps[int | None]:
        """Send the next part, or all where parts are not known; return the position that the server reached."""
        end = min(start + PART_BYTES, self._total) if self._resumable else self._total
        headers = {"content-type": "application/octet-stream", "content-length": str(end - start)}
        if self._resumable:
            headers["content-range"] = f"bytes {start}-{end - 1}/{self._total}"
        answer = yield Call(
            "PUT",
            self._url,
            headers=headers,
            file=FileSlice(self._file, start, end, self._report),
            with_token=False,
            timeout_seconds=PART_TIMEOUT_SECONDS,
        )
        return _position_in(answer)

    def ask_position(self) -> Steps[int | None]:
        """Ask how far the upload came; 0, to start anew, where that cannot be asked or is not answered."""
        if not self._resumable:
            return 0
        headers = {"content-range": f"bytes */{self._total}", "content-length": "0"}
        try:
            return _position_in((yield Call("PUT", self._url, headers=headers, with_token=False)))
        except (UnavailableError, ConflictError):
            return 0


def _position_in(answer: Answer) -> int | None:
    if answer.status == 200:
        return None
    if answer.status == 308:
        known = _RANGE.fullmatch(answer.headers.get("range", ""))
        return int(known[1]) + 1 if known else 0
    raise _refused(answer)


def _refused(answer: Answer) -> SkafosError:
    error = error_of(answer)
    if isinstance(error, UnavailableError | ConflictError):
        return error
    return UploadFailedError(f"The upload was refused: {error}")
