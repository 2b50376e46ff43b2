"""One request, one answer, over a plain or encrypted socket: to look before measuring."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass

ANSWER_SECONDS = 30.0
READ_BYTES = 1 << 16


class WrongAnswer(Exception):
    """A server does not answer as the case expects, so its figures would mean nothing."""


@dataclass(frozen=True)
class Answer:
    """An answer as it came over the wire."""

    head: bytes
    body: bytes

    @property
    def status(self) -> int:
        """The status code."""
        return int(self.head.split(b" ", 2)[1])

    def header(self, name: str) -> str:
        """Return the value of a header field, or nothing."""
        for line in self.head.split(b"\r\n")[1:]:
            field, _, value = line.partition(b":")
            if field.lower() == name.lower().encode():
                return value.strip().decode("latin-1")
        return ""

    def __len__(self) -> int:
        """Bytes on the wire."""
        return len(self.head) + len(self.body)


def request(method: str, path: str, headers: Mapping[str, str] | None = None, body: bytes = b"") -> bytes:
    """Return a request's bytes."""
    fields = {"Host": "edge.test", **(headers or {})}
    if body:
        fields["Content-Length"] = str(len(body))
    head = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    return f"{method} {path} HTTP/1.1\r\n{head}\r\n".encode() + body


def ask(address: tuple[str, int], asked: bytes, *, tls: bool = False) -> Answer:
    """Send one request and return the whole answer."""
    with ExitStack() as stack:
        connection = stack.enter_context(socket.create_connection(address, timeout=ANSWER_SECONDS))
        if tls:
            connection = stack.enter_context(_encrypted(connection))
        connection.sendall(asked)
        return read_answer(connection)


def read_answer(connection: socket.socket) -> Answer:
    """Read one answer with a `Content-Length`, or one without a body.

    Raises:
        WrongAnswer: the connection ended before.
    """
    data = bytearray()
    while (end := data.find(b"\r\n\r\n")) < 0:
        data += _more(connection)
    head = bytes(data[: end + 4])
    status, length = Answer(head, b"").status, Answer(head, b"").header("Content-Length")
    size = 0 if status in (204, 304) else int(length or 0)
    while len(data) < len(head) + size:
        data += _more(connection)
    return Answer(head, bytes(data[len(head) :]))


def _more(connection: socket.socket) -> bytes:
    data = connection.recv(READ_BYTES)
    if not data:
        raise WrongAnswer("the server closed the connection in the middle of an answer")
    return data


def _encrypted(plain: socket.socket) -> ssl.SSLSocket:
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE  # the certificate was made a moment ago, by us
    return context.wrap_socket(plain)
