"""A real mail server on loopback (aiosmtpd), that keeps what it is given; with TLS and a password if asked for."""

from __future__ import annotations

import asyncio
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from email import message_from_bytes, policy
from email.message import EmailMessage
from typing import Any

from aiosmtpd.smtp import SMTP, AuthResult, Envelope

PATIENCE_SECONDS = 60.0
USER, PASSWORD = "skafos", "p@ss/word of the server"


@dataclass
class Mailbox:
    """What a mail server was given.

    Args:
        envelopes: each mail, as it came.
        answers: what the next mails are answered with, before they are taken: "451 …".
    """

    envelopes: list[Envelope] = field(default_factory=list)
    answers: list[str] = field(default_factory=list)
    tries: int = 0
    port: int = 0

    async def handle_DATA(self, server: Any, session: Any, envelope: Envelope) -> str:
        self.tries += 1
        if self.answers:
            return self.answers.pop(0)
        self.envelopes.append(envelope)
        return "250 OK"

    def newest(self, to: str) -> str:
        """Return the text of the newest mail to somebody, once there is one that was not returned before."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not (found := [each for each in self.envelopes if each.rcpt_tos == [to]]):
            assert time.monotonic() < deadline, f"no mail to {to} came"
            time.sleep(0.01)
        self.envelopes.remove(found[-1])
        content = found[-1].content
        assert isinstance(content, bytes)
        message = message_from_bytes(content, policy=policy.default)
        assert isinstance(message, EmailMessage)
        text: str = message.get_content()
        return text.replace("\r\n", "\n")


@contextmanager
def mail_server(tls: ssl.SSLContext | None = None, *, whole: bool = False, login: bool = False) -> Iterator[Mailbox]:
    """Run a mail server while the block lasts.

    Args:
        tls: its certificate, if it has one.
        whole: whether TLS begins with the first byte; with STARTTLS otherwise.
        login: whether user and password are asked for.
    """
    mailbox = Mailbox()

    def check(_server: Any, _session: Any, _envelope: Any, _mechanism: str, data: Any) -> AuthResult:
        right = (data.login, data.password) == (USER.encode(), PASSWORD.encode())
        return AuthResult(success=right, handled=False)  # so that the server answers 535

    starttls = tls is not None and not whole
    more: dict[str, Any] = {"tls_context": tls, "require_starttls": True} if starttls else {}
    if login:
        more |= {"authenticator": check, "auth_required": True, "auth_require_tls": starttls}
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="smtp")
    thread.start()
    try:
        serving = loop.create_server(
            lambda: SMTP(mailbox, loop=loop, **more), "127.0.0.1", 0, ssl=tls if whole else None
        )
        server = asyncio.run_coroutine_threadsafe(serving, loop).result(PATIENCE_SECONDS)
        mailbox.port = server.sockets[0].getsockname()[1]
        yield mailbox
        loop.call_soon_threadsafe(server.close)
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join(PATIENCE_SECONDS)
        loop.close()
