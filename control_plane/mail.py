"""Mails to people who manage: plain text, by SMTP (RFC 5321), a few at once, and never in the way of what they tell of.

A mail that cannot be sent is tried once more and then given up: whoever waits for it asks again. What goes wrong is
logged by its kind and the server's code; the server's own words may repeat addresses, and its URL holds a password.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from email.headerregistry import Address
from email.message import EmailMessage
from email.utils import format_datetime, getaddresses, make_msgid
from enum import Enum
from ipaddress import ip_address
from typing import Final
from urllib.parse import parse_qsl, unquote, urlsplit

import structlog
from aiosmtplib import SMTPException, SMTPRecipientsRefused, SMTPResponseException, send

from control_plane.errors import ControlPlaneError
from control_plane.metrics import MAILS
from control_plane.names import check_email, has_control_characters
from control_plane.tables import utc_now

# Whoever makes an invitation waits for two tries at most.
TRY_SECONDS: Final = 10.0
# Most errors that a second try mends are a connection that was closed for being idle, or a server that starts.
AGAIN_AFTER_SECONDS: Final = 1.0
# Each holds a connection; more at one time are not people.
MAX_UNDER_WAY: Final = 20
# What is under way when the process is told to end gets this much.
CLOSE_SECONDS: Final = 5.0

_PORTS: Final = {"smtp": 587, "smtps": 465}

_log = structlog.get_logger(__name__)


class Tls(Enum):
    """How the way to the mail server is kept from others."""

    WHOLE = "tls from the first byte (RFC 8314)"
    STARTTLS = "plain until STARTTLS, which is required (RFC 3207)"
    NONE = "plain"


@dataclass(frozen=True, slots=True)
class MailServer:
    """Where mails are handed in.

    Args:
        host, port: where.
        tls: how.
        username, password: None where none is asked for.
    """

    host: str
    port: int
    tls: Tls
    username: str | None = None
    password: str | None = field(default=None, repr=False)


def parse_server(url: str) -> MailServer:
    """Return the server of smtp://user:password@host:587 or smtps://….

    STARTTLS is required with smtp, unless the host is this machine or the URL says `?tls=off`; `?tls=required` asks for
    it there too.

    Raises:
        ValueError: it is none; the message does not repeat it, because it holds a password.
    """
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        raise ValueError("is not smtp://user:password@host:port or smtps://…") from None
    options = dict(parse_qsl(parts.query, keep_blank_values=True))
    wanted = options.pop("tls", None)
    if parts.scheme not in _PORTS or not host or parts.path not in ("", "/") or parts.fragment or options:
        raise ValueError("is not smtp://user:password@host:port or smtps://…")
    if wanted not in (None, "off", "required") or (wanted is not None and parts.scheme == "smtps"):
        raise ValueError("takes ?tls=off or ?tls=required, and with smtp:// alone")
    if parts.scheme == "smtps":
        tls = Tls.WHOLE
    elif wanted == "off" or (wanted is None and _is_this_machine(host)):
        tls = Tls.NONE
    else:
        tls = Tls.STARTTLS
    username, password = (None if text is None else unquote(text) for text in (parts.username, parts.password))
    return MailServer(host, port or _PORTS[parts.scheme], tls, username, password)


def _is_this_machine(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def parse_sender(text: str) -> Address:
    """Return the address that mails come from: `skafos@example.org`, or `Skafos <skafos@example.org>`.

    Raises:
        ValueError: it is none.
    """
    found = getaddresses([text])
    if len(found) != 1 or has_control_characters(text):
        raise ValueError("is not an e-mail address")
    ((name, address),) = found
    return _address(address, name)


def _address(email: str, name: str = "") -> Address:
    """Return an address that is whole: one that would be read as two, or as something else, is none.

    Raises:
        ValueError: it cannot be one.
    """
    local, _, host = check_email(email).rpartition("@")
    address = Address(name, local, host)
    if address.addr_spec != email.lower():  # it has to be quoted, which no address of a person has
        raise ValueError("is not an e-mail address")
    return address


@dataclass(frozen=True, slots=True)
class Mail:
    """A mail to one person.

    Args:
        to: their address.
        subject: one line.
        text: lines of it.
    """

    to: str
    subject: str
    text: str


class Mailer:
    """Sends mails.

    Args:
        server: where they are handed in; None when none is set up.
        sender: whom they come from.
    """

    def __init__(self, server: MailServer | None = None, sender: Address | None = None) -> None:
        self._server = server
        self._sender = sender
        self._under_way: set[asyncio.Task[bool]] = set()

    @property
    def is_set_up(self) -> bool:
        """Whether mails can be sent."""
        return self._server is not None

    def later(self, make: Callable[[], Awaitable[Mail | None]]) -> None:
        """Have a mail made and sent in the background, so that nobody can tell by the time whether one is.

        Args:
            make: returns it, or None when there is nothing to send.
        """

        async def made_and_sent() -> bool:
            mail = await make()
            return mail is not None and await self._send(mail)

        self._begin(made_and_sent)

    async def send(self, mail: Mail) -> bool:
        """Send a mail; return whether the server took it."""
        task = self._begin(lambda: self._send(mail))
        return task is not None and await asyncio.shield(task)

    async def close(self) -> None:
        """Let what is under way come to an end, for a while."""
        if self._under_way:
            _, late = await asyncio.wait(self._under_way, timeout=CLOSE_SECONDS)
            for task in late:
                task.cancel()

    def _begin(self, work: Callable[[], Awaitable[bool]]) -> asyncio.Task[bool] | None:
        if len(self._under_way) >= MAX_UNDER_WAY:
            MAILS.labels("dropped").inc()
            _log.warning("mail_dropped", under_way=len(self._under_way))
            return None
        task = asyncio.create_task(_watched(work))
        self._under_way.add(task)
        task.add_done_callback(self._under_way.discard)
        return task

    async def _send(self, mail: Mail) -> bool:
        try:
            message = self._message(mail)
        except ValueError:
            MAILS.labels("failed").inc()
            _log.warning("mail_failed", kind="address")
            return False
        error = await self._try(message, mail.to)
        if error is not None and not _is_final(error):
            await asyncio.sleep(AGAIN_AFTER_SECONDS)
            error = await self._try(message, mail.to)
        if error is not None:
            MAILS.labels("failed").inc()
            _log.warning("mail_failed", kind=type(error).__name__, code=getattr(error, "code", None))
            return False
        MAILS.labels("sent").inc()
        return True

    async def _try(self, message: EmailMessage, to: str) -> Exception | None:
        """Hand a mail in once; return what went wrong."""
        assert self._server is not None, "no mail server is set up"
        assert self._sender is not None, "no sender is set up"
        try:
            async with asyncio.timeout(TRY_SECONDS):
                await send(
                    message,
                    sender=self._sender.addr_spec,
                    recipients=[to],
                    hostname=self._server.host,
                    port=self._server.port,
                    local_hostname=self._sender.domain,  # the library would ask a name server, and all would wait
                    username=self._server.username,
                    password=self._server.password,
                    use_tls=self._server.tls is Tls.WHOLE,
                    start_tls=self._server.tls is Tls.STARTTLS,
                    timeout=TRY_SECONDS,
                )
        except (SMTPException, OSError, TimeoutError, ValueError) as error:
            return error
        return None

    def _message(self, mail: Mail) -> EmailMessage:
        """Return a mail with its headers, none of which a text can add to: the library refuses line ends in them.

        Raises:
            ValueError: the address or the subject cannot be one.
        """
        assert self._sender is not None, "no sender is set up"
        message = EmailMessage()
        message["From"] = self._sender
        message["To"] = _address(mail.to)
        message["Subject"] = mail.subject
        message["Date"] = format_datetime(utc_now())
        message["Message-ID"] = make_msgid(domain=self._sender.domain)
        message["Auto-Submitted"] = "auto-generated"  # RFC 3834: programs do not answer it
        message.set_content(mail.text)
        return message


async def _watched(work: Callable[[], Awaitable[bool]]) -> bool:
    """Do work of which nobody hears when it fails."""
    try:
        return await work()
    except ControlPlaneError as error:
        MAILS.labels("failed").inc()
        _log.warning("mail_failed", kind=type(error).__name__)
    except Exception:
        MAILS.labels("failed").inc()
        _log.exception("mail_failed")
    return False


def _is_final(error: Exception) -> bool:
    """Say whether a server has refused a mail for good (RFC 5321, section 4.2.1: 5yz)."""
    refused = error.recipients if isinstance(error, SMTPRecipientsRefused) else [error]
    return all(isinstance(one, SMTPResponseException) and one.code >= 500 for one in refused)
