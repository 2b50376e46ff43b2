"""Mails, handed to a real server: by which way, with which headers, and what becomes of those that it refuses."""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import Iterator
from email import message_from_bytes, policy
from pathlib import Path
from typing import Any

import pytest
import structlog
from prometheus_client import REGISTRY
from pydantic import ValidationError

from control_plane import mail, mails
from control_plane.mail import Mail, Mailer, MailServer, Tls, parse_sender, parse_server
from control_plane.settings import Settings
from tests.control_plane.push.certificates import make_pair
from tests.servers.smtp import PASSWORD, USER, Mailbox, mail_server

pytestmark = pytest.mark.filterwarnings("ignore:Requiring AUTH while not requiring TLS")  # TLS is there from the start

SENDER = parse_sender("Skafos <skafos@example.org>")
LETTER = Mail("to@example.org", "Zoë's Ünit", "Line one\n\nhttp://skafos.test/links/" + "x" * 80 + "\n")


def count(outcome: str) -> float:
    return REGISTRY.get_sample_value("skafos_control_mails_total", {"outcome": outcome}) or 0.0


@pytest.fixture
def certificate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ssl.SSLContext:
    """The certificate of a server on loopback, which this process trusts."""
    pair = make_pair(None, (), address="127.0.0.1")
    (tmp_path / "chain.pem").write_bytes(pair.certificate_pem)
    (tmp_path / "key.pem").write_bytes(pair.key_pem())
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "chain.pem", tmp_path / "key.pem")
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "chain.pem"))
    return context


@pytest.fixture
def mailbox() -> Iterator[Mailbox]:
    with mail_server() as running:
        yield running


def mailer_to(mailbox: Mailbox, tls: Tls = Tls.NONE, **login: str) -> Mailer:
    return Mailer(MailServer("127.0.0.1", mailbox.port, tls, **login), SENDER)


@pytest.mark.parametrize(
    ("url", "host", "port", "tls"),
    [
        ("smtp://mail.example.org", "mail.example.org", 587, Tls.STARTTLS),
        ("smtp://mail.example.org:25?tls=off", "mail.example.org", 25, Tls.NONE),
        ("smtps://mail.example.org", "mail.example.org", 465, Tls.WHOLE),
        ("smtp://localhost:1025", "localhost", 1025, Tls.NONE),
        ("smtp://127.0.0.9", "127.0.0.9", 587, Tls.NONE),
        ("smtp://[::1]", "::1", 587, Tls.NONE),
        ("smtp://localhost?tls=required", "localhost", 587, Tls.STARTTLS),
        ("smtp://localhost.example.org", "localhost.example.org", 587, Tls.STARTTLS),
    ],
)
def test_a_url_says_where_and_how_a_mail_is_handed_in(url: str, host: str, port: int, tls: Tls) -> None:
    assert parse_server(url) == MailServer(host, port, tls)


def test_user_and_password_may_hold_any_character_and_are_not_shown() -> None:
    server = parse_server("smtps://me%40example.org:p%40ss%2Fw%3Ard@mail.example.org")
    assert (server.username, server.password) == ("me@example.org", "p@ss/w:rd")
    assert "p@ss" not in repr(server)


@pytest.mark.parametrize(
    "url",
    ["http://u:secret@host", "smtp://", "smtp://u:secret@host:x", "smtp://u:secret@host?tls=no", "smtp://u:secret@h/p"],
)
def test_what_is_no_url_of_a_mail_server_is_refused_without_being_repeated(
    url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from control_plane.__main__ import main

    monkeypatch.setenv("SKAFOS_SMTP_URL", url)
    assert main([]) == 2
    told = capsys.readouterr().err
    assert "SKAFOS_SMTP_URL: " in told
    assert "secret" not in told


@pytest.mark.parametrize(
    ("settings", "needs"),
    [
        ({"smtp_url": "smtp://localhost"}, "SKAFOS_MAIL_FROM"),
        ({"mail_from": "a@example.org"}, "SKAFOS_SMTP_URL"),
        ({"smtp_url": "smtp://localhost", "mail_from": "a@example.org"}, "SKAFOS_CONTROL_PUBLIC_URL"),
        ({"sign_up": "open"}, "SKAFOS_SMTP_URL"),
        ({"mail_from": "a@example.org, b@example.org"}, "not an e-mail address"),
        ({"mail_from": "a\n@example.org"}, "not an e-mail address"),
    ],
)
def test_settings_that_need_others_say_so(settings: dict[str, Any], needs: str) -> None:
    with pytest.raises(ValidationError, match=needs):
        Settings(**settings)


async def test_a_mail_arrives_as_it_was_written(mailbox: Mailbox) -> None:
    before = count("sent")
    assert await mailer_to(mailbox).send(LETTER)
    (envelope,) = mailbox.envelopes
    assert (envelope.mail_from, envelope.rcpt_tos) == ("skafos@example.org", ["to@example.org"])
    assert isinstance(envelope.content, bytes)
    message = message_from_bytes(envelope.content, policy=policy.default)
    assert (message["From"], message["To"]) == ("Skafos <skafos@example.org>", "to@example.org")
    assert message["Subject"] == LETTER.subject
    assert message["Auto-Submitted"] == "auto-generated"
    assert message["Date"]
    assert message["Message-ID"].endswith("@example.org>")
    assert message.get_content().replace("\r\n", "\n") == LETTER.text
    assert count("sent") == before + 1


@pytest.mark.parametrize("whole", [True, False], ids=["smtps", "starttls"])
async def test_the_way_is_encrypted_and_the_server_known_before_the_password_is_told(
    whole: bool, certificate: ssl.SSLContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    tls = Tls.WHOLE if whole else Tls.STARTTLS
    with mail_server(certificate, whole=whole, login=True) as mailbox:
        assert await mailer_to(mailbox, tls, username=USER, password=PASSWORD).send(LETTER)
        assert not await mailer_to(mailbox, tls, username=USER, password="another").send(LETTER)
        monkeypatch.delenv("SSL_CERT_FILE")
        monkeypatch.setattr(mail, "AGAIN_AFTER_SECONDS", 0.0)
        assert not await mailer_to(mailbox, tls, username=USER, password=PASSWORD).send(LETTER), "nobody vouches for it"
        assert len(mailbox.envelopes) == 1


async def test_a_server_without_starttls_gets_nothing_where_it_is_required(
    mailbox: Mailbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mail, "AGAIN_AFTER_SECONDS", 0.0)
    assert not await mailer_to(mailbox, Tls.STARTTLS).send(LETTER)
    assert mailbox.envelopes == []


async def test_what_a_second_try_mends_is_mended_and_what_is_refused_for_good_is_not_tried_again(
    mailbox: Mailbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mail, "AGAIN_AFTER_SECONDS", 0.0)
    mailbox.answers = ["451 come back"]
    assert await mailer_to(mailbox).send(LETTER)
    assert mailbox.tries == 2
    mailbox.answers = ["451 come back", "451 come back"]
    assert not await mailer_to(mailbox).send(LETTER)
    assert mailbox.tries == 4
    mailbox.answers = ["550 to@example.org is not known", "250 OK"]
    assert not await mailer_to(mailbox).send(LETTER)
    assert mailbox.tries == 5


async def test_neither_addresses_nor_passwords_reach_the_log(
    mailbox: Mailbox, certificate: ssl.SSLContext, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.DEBUG)
    with structlog.testing.capture_logs() as entries:
        mailbox.answers = ["550 to@example.org is not known"]
        await mailer_to(mailbox).send(LETTER)
        with mail_server(certificate, whole=True, login=True) as guarded:
            await mailer_to(guarded, Tls.WHOLE, username=USER, password="a secret").send(LETTER)
    assert [entry["event"] for entry in entries] == ["mail_failed", "mail_failed"]
    assert [entry["code"] for entry in entries] == [550, 535]
    ours = [record.getMessage() for record in caplog.records if record.name != "mail.log"]  # which is the server's
    logged = f"{entries}{ours}{''.join(capfd.readouterr())}"
    assert "to@example.org" not in logged
    assert "a secret" not in logged
    assert USER not in str(entries)


@pytest.mark.parametrize(
    "to",
    ["a,b@example.org", "a>b@example.org", "<a@example.org", '"a"@example.org', "a;b@example.org", "a(b@example.org"],
)
async def test_an_address_that_could_be_read_as_another_gets_no_mail(to: str, mailbox: Mailbox) -> None:
    assert not await mailer_to(mailbox).send(Mail(to, "subject", "text"))
    assert mailbox.tries == 0


async def test_no_text_becomes_a_header(mailbox: Mailbox) -> None:
    wrong = mails.invitation("to@example.org", "Acme\r\nBcc: other@example.org", "viewer", "by@example.org", "link")
    assert not await mailer_to(mailbox).send(wrong)
    body = Mail("to@example.org", "subject", "\nBcc: other@example.org\n.\nQUIT\n")
    assert await mailer_to(mailbox).send(body)
    (envelope,) = mailbox.envelopes
    assert envelope.rcpt_tos == ["to@example.org"]
    assert isinstance(envelope.content, bytes)
    message = message_from_bytes(envelope.content, policy=policy.default)
    assert message["Bcc"] is None
    assert "\n.\nQUIT" in message.get_content().replace("\r\n", "\n")


async def test_more_than_so_many_at_once_are_dropped_and_counted() -> None:
    held, before = asyncio.Event(), count("dropped")

    async def hold() -> None:
        await held.wait()

    mailer = Mailer(MailServer("127.0.0.1", 1, Tls.NONE), SENDER)
    for _ in range(mail.MAX_UNDER_WAY + 3):
        mailer.later(hold)
    assert count("dropped") == before + 3
    assert not await mailer.send(LETTER)
    held.set()
    await mailer.close()
    mailer.later(hold)
    assert count("dropped") == before + 4, "there is room again"


async def test_a_mail_that_cannot_be_made_disturbs_nobody() -> None:
    async def fail() -> None:
        raise RuntimeError("a fault of ours")

    before = count("failed")
    mailer = Mailer(MailServer("127.0.0.1", 1, Tls.NONE), SENDER)
    mailer.later(fail)
    await mailer.close()
    assert count("failed") == before + 1


async def test_a_server_that_says_nothing_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mail, "TRY_SECONDS", 0.05)
    monkeypatch.setattr(mail, "AGAIN_AFTER_SECONDS", 0.0)
    tries: list[asyncio.StreamWriter] = []
    server = await asyncio.start_server(lambda _reader, writer: tries.append(writer), "127.0.0.1", 0)
    try:
        port = server.sockets[0].getsockname()[1]
        assert not await Mailer(MailServer("127.0.0.1", port, Tls.NONE), SENDER).send(LETTER)
        assert len(tries) == 2
    finally:
        for writer in tries:
            writer.close()
        server.close()
