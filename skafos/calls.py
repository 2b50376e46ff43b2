"""What a client and a server say to each other, described without doing it.

An operation of the API is a generator: it yields a `Call` (or a `Pause`), is given the `Answer`, and returns its
result. The synchronous and the asynchronous client run the same generators; only how bytes travel differs. When a call
gets no answer the client throws `UnavailableError` into the generator, which may go on from where it was.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeVar
from urllib.parse import quote

import msgspec

from skafos.exceptions import (
    ConflictError,
    ForbiddenError,
    InvalidAnswerError,
    InvalidParamError,
    InvalidTokenError,
    NotFoundError,
    SkafosError,
    UnavailableError,
)

T = TypeVar("T")
Progress = Callable[[int, int], None]
"""Is told how many bytes are done, of how many."""

# Answers that are held in memory: a page of 1,000 versions with their files is well below it.
MAX_ANSWER_BYTES = 64 << 20
# As the SDK always had it; finishing a large upload gets longer.
DEFAULT_TIMEOUT_SECONDS = 120.0
READ_BYTES = 256 << 10
MAX_SENTENCE = 500


class Sink(Protocol):
    """Takes the body of a successful answer as it comes."""

    def begin(self, status: int, headers: Mapping[str, str]) -> None:
        """Prepare for the body of an answer with this status (2xx) and these headers (lower-case names)."""

    def write(self, chunk: bytes) -> None:
        """Take the next bytes."""

    def end(self) -> None:
        """Close what `begin` opened; called once for each `begin`, also after a failure."""


@dataclass(frozen=True, slots=True)
class FileSlice:
    """Bytes of a file, from `start` up to and not including `end`, as a request's body."""

    path: Path
    start: int
    end: int
    progress: Callable[[int], None] | None = None

    def chunks(self) -> Iterator[bytes]:
        """Read the slice piece by piece, telling `progress` the position in the file after each."""
        with self.path.open("rb") as file:
            file.seek(self.start)
            position = self.start
            while position < self.end and (chunk := file.read(min(READ_BYTES, self.end - position))):
                yield chunk
                position += len(chunk)
                if self.progress:
                    self.progress(position)


@dataclass(frozen=True, slots=True)
class Call:
    """One request. `url` is absolute, or a path below the API's base."""

    method: str
    url: str
    query: Mapping[str, str] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    json: Any = None
    file: FileSlice | None = None
    sink: Sink | None = None
    # A presigned URL carries its own permission; the token is for the API alone.
    with_token: bool = True
    # For each wait on the network, not for the whole call.
    timeout_seconds: float = DEFAULT_TIMEOUT_SECONDS

    def __post_init__(self) -> None:
        """Raise `InvalidParamError` when a text in the query or the body cannot be sent."""
        for text in _texts((dict(self.query), self.json)):
            require_utf8(text)


@dataclass(frozen=True, slots=True)
class Pause:
    """Wait this long before the next call."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back: header names in lower case; the body unless a sink took it."""

    status: int
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""


Steps = Generator[Call | Pause, Answer, T]


def path(*parts: str) -> str:
    """Return the path of ``parts``, each quoted, so that a name cannot reach another path.

    Raises:
        InvalidParamError: a part cannot be sent.
    """
    return "".join("/" + quote(require_utf8(part), safe="") for part in parts)


def require_utf8(text: str) -> str:
    """Return ``text``; raise `InvalidParamError` when it is no UTF-8, as bytes of a shell or a file system may be."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise InvalidParamError(f"{text[:MAX_SENTENCE]!a} is no valid UTF-8.") from None
    return text


def _texts(value: Any) -> Iterator[str]:
    """Walk through JSON's strings, names of members among them."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for name, member in value.items():
            yield from (name, *_texts(member))
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _texts(item)


def ask(call: Call, kind: type[T]) -> Steps[T]:
    """Make one call and decode its answer as ``kind``.

    Raises:
        SkafosError: the kind for the answer's status.
    """
    return decode((yield call), kind)


def decode(answer: Answer, kind: type[T]) -> T:
    """Return a successful answer's body as ``kind``; raise what any other answer means."""
    require_success(answer)
    try:
        return msgspec.json.decode(answer.body, type=kind)
    except msgspec.DecodeError as error:
        raise InvalidAnswerError(f"The server's answer is not what the Skafos API gives: {error}.") from None


def require_success(answer: Answer) -> None:
    """Raise the error that an answer of a status other than 2xx means."""
    if not 200 <= answer.status < 300:
        raise error_of(answer)


_ERRORS: dict[int, type[SkafosError]] = {
    400: InvalidParamError,
    401: InvalidTokenError,
    403: ForbiddenError,
    404: NotFoundError,
    409: ConflictError,
    413: InvalidParamError,
    422: InvalidParamError,
}


def error_of(answer: Answer) -> SkafosError:
    """Return the error for an answer, with the server's own sentence when it gave one."""
    sentence = server_sentence(answer.body)
    if answer.status == 401:
        return InvalidTokenError("Invalid Skafos API Token")
    if kind := _ERRORS.get(answer.status):
        return kind(sentence or f"The server refused this with status {answer.status}.")
    if answer.status == 429 or answer.status >= 500:
        return UnavailableError(sentence or f"The server cannot answer now (status {answer.status}).")
    return InvalidAnswerError(f"The server answered with status {answer.status}, which the Skafos API does not give.")


def server_sentence(body: bytes) -> str | None:
    """Return the ``error`` of an error body, or None when the body has none."""
    try:
        found = msgspec.json.decode(body)
    except msgspec.DecodeError:
        return None
    sentence = found.get("error") if isinstance(found, dict) else None
    return sentence[:MAX_SENTENCE] if isinstance(sentence, str) and sentence else None
