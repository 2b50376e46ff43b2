"""Google's service as a channel: what is sent, what each answer means, and how access is got, kept and renewed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
import pytest_asyncio
import structlog
from cryptography.hazmat.primitives.asymmetric import rsa

from control_plane.push import access_token, attempts, fcm
from control_plane.push.attempts import read_object, retry_after
from control_plane.push.channel import ChannelAway, ChannelUnusable, Notification, Outcome, Result
from control_plane.push.fcm import FcmChannel
from control_plane.push.http2 import Answer
from control_plane.push.servers import Servers
from tests.components import free_port
from tests.control_plane.push.certificates import EMAIL, PROJECT
from tests.control_plane.push.conftest import Google

Token = Callable[[int], str]
NOW = 1_800_000_000.0


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (fcm, access_token):
        monkeypatch.setattr(module, "FIRST_PAUSE_SECONDS", 0.01)
        monkeypatch.setattr(module, "LONGEST_PAUSE_SECONDS", 0.02)
    monkeypatch.setattr("control_plane.push.pool.FIRST_PAUSE_SECONDS", 0.01)


@pytest_asyncio.fixture
async def channel(google: Google) -> AsyncIterator[FcmChannel]:
    opened = google.channel()
    yield opened
    await opened.close()


# --- Messages ---------------------------------------------------------------------------------------------------------


async def test_a_message_holds_data_only_and_names_model_and_version_as_texts(google: Google, token: Token) -> None:
    channel = google.channel(clock=lambda: NOW)
    google.server.clock = lambda: NOW
    notification = Notification("faces", 3, datetime.fromtimestamp(NOW, UTC) + timedelta(hours=1))
    assert await channel.send(token(1), notification) == Result(Outcome.ACCEPTED)
    await channel.close()
    (push,) = google.server.accepted
    topic = push.message["webpush"]["headers"].pop("Topic")
    assert push.message == {
        "token": token(1),
        "data": {"skafos_model": "faces", "skafos_version": "3"},
        "android": {"priority": "NORMAL", "collapse_key": "skafos.faces", "ttl": "3600s"},
        "webpush": {"headers": {"TTL": "3600", "Urgency": "low"}},
    }
    assert len(topic) == 32
    assert push.headers[":path"] == f"/v1/projects/{PROJECT}/messages:send"
    assert push.headers[":authority"] == "fcm.googleapis.com"


async def test_messages_of_one_model_replace_each_other_and_no_others(
    google: Google, channel: FcmChannel, notification: Notification, token: Token
) -> None:
    for sent in (notification, replace(notification, version=4), replace(notification, model="größere Gesichter")):
        assert await channel.send(token(1), sent) == Result(Outcome.ACCEPTED)
    first, second, other = (push.message for push in google.server.accepted)
    assert first["webpush"]["headers"]["Topic"] == second["webpush"]["headers"]["Topic"]
    assert first["android"]["collapse_key"] == second["android"]["collapse_key"]
    assert first["webpush"]["headers"]["Topic"] != other["webpush"]["headers"]["Topic"]
    assert other["data"]["skafos_model"] == "größere Gesichter"


@pytest.mark.parametrize(("expires", "ttl"), [(timedelta(days=90), 2_419_200), (timedelta(hours=-1), 0)])
async def test_a_message_is_kept_no_longer_than_google_keeps_any(
    google: Google, channel: FcmChannel, token: Token, expires: timedelta, ttl: int
) -> None:
    notification = Notification("faces", 3, datetime.now(UTC) + expires)
    assert await channel.send(token(1), notification) == Result(Outcome.ACCEPTED)
    assert google.server.accepted[0].message["android"]["ttl"] == f"{ttl}s"


async def test_goaway_in_the_middle_loses_and_doubles_nothing(
    google: Google, channel: FcmChannel, notification: Notification, token: Token
) -> None:
    google.server.behaviour.goaway_after = 40
    google.server.behaviour.max_streams = 20
    google.server.behaviour.delay = 0.005
    results = await asyncio.gather(*(channel.send(token(number), notification) for number in range(150)))
    assert set(results) == {Result(Outcome.ACCEPTED)}
    assert sorted(push.device_token for push in google.server.accepted) == [token(number) for number in range(150)]
    assert google.server.most_streams <= 20


# --- Answers ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "result"),
    [
        ("UNREGISTERED", Result(Outcome.GONE, "UNREGISTERED")),
        ("INVALID_ARGUMENT", Result(Outcome.REFUSED, "INVALID_ARGUMENT")),
        ("SENDER_ID_MISMATCH", Result(Outcome.REFUSED, "SENDER_ID_MISMATCH")),
        ("THIRD_PARTY_AUTH_ERROR", Result(Outcome.REFUSED, "THIRD_PARTY_AUTH_ERROR")),
        # Without FCM's own word nothing says that the token is gone: it may be a server in between.
        ("NOT_FOUND", Result(Outcome.REFUSED, "NOT_FOUND")),
        ("page 404", Result(Outcome.REFUSED, "HTTP 404")),
    ],
)
async def test_an_answer_about_one_device_is_the_end_for_that_device(
    google: Google, channel: FcmChannel, notification: Notification, token: Token, error: str, result: Result
) -> None:
    google.server.behaviour.refuse = {token(1): error}
    assert await channel.send(token(1), notification) == result
    assert await channel.send(token(2), notification) == Result(Outcome.ACCEPTED)


async def test_what_is_no_registration_token_is_refused(
    channel: FcmChannel, notification: Notification, token: Token
) -> None:
    assert await channel.send('"},{"x":"', notification) == Result(Outcome.REFUSED, "INVALID_ARGUMENT")
    assert await channel.send(token(1), notification) == Result(Outcome.ACCEPTED)


@pytest.mark.parametrize("error", ["INTERNAL", "UNAVAILABLE", "page 502"])
async def test_trouble_of_googles_is_waited_for(
    google: Google, channel: FcmChannel, notification: Notification, token: Token, error: str
) -> None:
    google.server.behaviour.failures = [error] * 3
    assert await channel.send(token(1), notification) == Result(Outcome.ACCEPTED)
    assert google.server.reasons == {error: 3}


async def test_trouble_that_lasts_is_told(
    google: Google, channel: FcmChannel, notification: Notification, token: Token
) -> None:
    google.server.behaviour.failures = ["INTERNAL"] * 100
    with pytest.raises(ChannelAway, match="later"):
        await channel.send(token(1), notification)
    assert google.server.reasons == {"INTERNAL": fcm.ATTEMPTS}


async def test_trouble_with_one_message_holds_up_no_others(
    google: Google, channel: FcmChannel, notification: Notification, token: Token
) -> None:
    google.server.behaviour.refuse = {token(1): "INTERNAL"}
    results = await asyncio.gather(*(channel.send(token(number), notification) for number in range(5)))
    assert results.pop(1) == Result(Outcome.REFUSED, "INTERNAL")
    assert set(results) == {Result(Outcome.ACCEPTED)}


@pytest.mark.parametrize("as_date", [False, True])
async def test_a_pause_that_is_asked_for_is_the_callers_when_it_is_long(
    google: Google, notification: Notification, token: Token, as_date: bool
) -> None:
    google.server.clock = lambda: NOW
    date = format_datetime(datetime.fromtimestamp(NOW + 3600, UTC), usegmt=True)
    google.server.behaviour.retry_after = date if as_date else "3600"
    google.server.behaviour.failures = ["UNAVAILABLE"]
    channel = google.channel(clock=lambda: NOW)
    with pytest.raises(ChannelAway, match="3600 seconds") as told:
        await channel.send(token(1), notification)
    assert told.value.retry_after == 3600
    await channel.close()


async def test_a_short_pause_that_is_asked_for_is_made(
    google: Google, channel: FcmChannel, notification: Notification, token: Token
) -> None:
    google.server.behaviour.failures = ["UNAVAILABLE"]
    google.server.behaviour.retry_after = "1"
    loop = asyncio.get_running_loop()
    began = loop.time()
    assert await channel.send(token(1), notification) == Result(Outcome.ACCEPTED)
    assert loop.time() - began >= 1  # a second is what the server asked for


async def test_over_the_quota_the_caller_waits_a_minute_at_least(
    google: Google, channel: FcmChannel, notification: Notification, token: Token
) -> None:
    google.server.behaviour.failures = ["QUOTA_EXCEEDED"] * 50
    told = await asyncio.gather(
        *(channel.send(token(number), notification) for number in range(50)), return_exceptions=True
    )
    pauses = {error.retry_after for error in told if isinstance(error, ChannelAway) and error.retry_after}
    # All that was under way is one excess, not fifty.
    assert len(pauses) <= 2
    assert min(pauses) >= 59
    assert max(pauses) <= 90
    assert google.server.reasons == {"QUOTA_EXCEEDED": 50}


@pytest.mark.parametrize("asked", [None, 100])
async def test_over_the_quota_again_and_again_the_pauses_grow_and_end_with_success(
    google: Google, channel: FcmChannel, notification: Notification, token: Token, asked: int | None
) -> None:
    google.server.behaviour.retry_after = None if asked is None else str(asked)
    first = asked or 60
    for number in range(6):
        google.server.behaviour.failures = ["QUOTA_EXCEEDED"]
        with pytest.raises(ChannelAway) as told:
            await channel.send(token(1), notification)
        pause = told.value.retry_after
        longest = min(first * 2**number, fcm.LONGEST_QUOTA_PAUSE_SECONDS)
        assert pause is not None
        assert longest - 1 <= pause <= longest * 1.5
        channel._over_quota_until = 0.0  # it has passed
    assert await channel.send(token(1), notification) == Result(Outcome.ACCEPTED)
    google.server.behaviour.failures = ["QUOTA_EXCEEDED"]
    with pytest.raises(ChannelAway) as told:
        await channel.send(token(1), notification)
    assert told.value.retry_after is not None
    assert told.value.retry_after <= first * 1.5


async def test_a_short_excess_is_waited_for(
    google: Google, channel: FcmChannel, notification: Notification, token: Token, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fcm, "QUOTA_PAUSE_SECONDS", 0.01)
    google.server.behaviour.failures = ["QUOTA_EXCEEDED"] * 2
    assert await channel.send(token(1), notification) == Result(Outcome.ACCEPTED)


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        ("PERMISSION_DENIED", "Messaging API Admin"),
        ("SERVICE_DISABLED", f"not enabled in the project {PROJECT}"),
        ("page 403", "Messaging API Admin"),
    ],
)
async def test_an_account_that_may_not_send_ends_everything_with_a_sentence(
    google: Google, channel: FcmChannel, notification: Notification, token: Token, error: str, sentence: str
) -> None:
    google.server.behaviour.failures = [error]
    with pytest.raises(ChannelUnusable, match=sentence) as told:
        await channel.send(token(1), notification)
    assert told.value.reason == error.replace("page", "HTTP")


async def test_no_answer_is_not_known(
    google: Google,
    channel: FcmChannel,
    notification: Notification,
    token: Token,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert await channel.send(token(0), notification) == Result(Outcome.ACCEPTED)
    monkeypatch.setattr(attempts, "ANSWER_SECONDS", 0.05)
    google.server.behaviour.stalls = 1
    assert await channel.send(token(1), notification) == Result(Outcome.UNKNOWN, "TooLate")
    google.server.behaviour.drop_after = 1
    assert await channel.send(token(2), notification) == Result(Outcome.UNKNOWN, "Lost")


# --- Access -----------------------------------------------------------------------------------------------------------


async def test_access_is_asked_for_once_for_all_and_shown_with_each_message(
    google: Google, channel: FcmChannel, notification: Notification, token: Token
) -> None:
    google.server.behaviour.delay = 0.01
    results = await asyncio.gather(*(channel.send(token(number), notification) for number in range(100)))
    assert set(results) == {Result(Outcome.ACCEPTED)}
    assert google.server.grants == 1
    (given,) = google.server.tokens
    assert {push.headers["authorization"] for push in google.server.accepted} == {f"Bearer {given}"}


async def test_access_is_renewed_before_it_ends(google: Google, notification: Notification, token: Token) -> None:
    now = NOW
    google.server.clock = lambda: now
    channel = google.channel(clock=lambda: now)
    for _ in range(30):
        assert await channel.send(token(1), notification) == Result(Outcome.ACCEPTED)
        now += 600
    await channel.close()
    # Tokens live 3,599 seconds and are renewed 300 before: with the sixth step of 600.
    assert google.server.grants == 5
    assert google.server.reasons == {}


async def test_access_that_was_taken_back_is_renewed_once_for_all(
    google: Google, channel: FcmChannel, notification: Notification, token: Token
) -> None:
    assert await channel.send(token(0), notification) == Result(Outcome.ACCEPTED)
    google.server.tokens.clear()
    google.server.behaviour.delay = 0.01
    results = await asyncio.gather(*(channel.send(token(number), notification) for number in range(50)))
    assert set(results) == {Result(Outcome.ACCEPTED)}
    assert google.server.grants == 2
    assert google.server.reasons == {"UNAUTHENTICATED": 50}


async def test_a_late_answer_to_old_access_does_not_take_the_new_one(
    google: Google, channel: FcmChannel, notification: Notification, token: Token
) -> None:
    assert await channel.send(token(0), notification) == Result(Outcome.ACCEPTED)
    channel._access.refuse("an older one")
    assert await channel.send(token(1), notification) == Result(Outcome.ACCEPTED)
    assert google.server.grants == 1


async def test_access_that_is_refused_anew_ends_everything_with_a_sentence(
    google: Google, channel: FcmChannel, notification: Notification, token: Token
) -> None:
    # Trouble before does not count as an attempt with another token.
    google.server.behaviour.failures = ["INTERNAL", "UNAUTHENTICATED"]
    assert await channel.send(token(1), notification) == Result(Outcome.ACCEPTED)
    google.server.behaviour.failures = ["UNAUTHENTICATED", "UNAUTHENTICATED"]
    with pytest.raises(ChannelUnusable, match="header Authorization"):
        await channel.send(token(1), notification)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"key_id": "another"}, "Create a new one"),
        ({"email": "gone@camera-1.iam.gserviceaccount.com"}, "Create a new one"),
        ({"key": rsa.generate_private_key(65537, 2048)}, "Create a new one"),
        ({"project": "another-1"}, "may not send for the project another-1"),
    ],
)
async def test_an_account_that_google_does_not_know_is_told(
    google: Google, notification: Notification, token: Token, changes: dict[str, object], sentence: str
) -> None:
    channel = google.channel(replace(google.account, **changes))  # type: ignore[arg-type]
    with pytest.raises(ChannelUnusable, match=sentence):
        await channel.send(token(1), notification)
    await channel.close()


@pytest.mark.parametrize("off", [-7200, 7200])
async def test_a_wrong_clock_is_told(google: Google, notification: Notification, token: Token, off: int) -> None:
    google.server.clock = lambda: NOW
    channel = google.channel(clock=lambda: NOW + off)
    with pytest.raises(ChannelUnusable, match="clock of this server"):
        await channel.send(token(1), notification)
    await channel.close()


async def test_what_oauth_refuses_is_told_by_its_word(
    google: Google, channel: FcmChannel, notification: Notification, token: Token
) -> None:
    google.server.behaviour.token_failures = ["access_denied"]
    with pytest.raises(ChannelUnusable, match=r"no access \(access_denied\)") as told:
        await channel.send(token(1), notification)
    assert told.value.reason == "access_denied"


async def test_a_server_of_access_tokens_in_trouble_is_waited_for(
    google: Google, channel: FcmChannel, notification: Notification, token: Token
) -> None:
    google.server.behaviour.token_failures = ["page 503", "page 429"]
    assert await channel.send(token(1), notification) == Result(Outcome.ACCEPTED)
    assert google.server.grants == 3


async def test_all_who_wait_for_access_hear_of_its_failure_at_once(
    google: Google, channel: FcmChannel, notification: Notification, token: Token
) -> None:
    google.server.behaviour.token_failures = ["page 503"] * access_token.ATTEMPTS
    told = await asyncio.gather(
        *(channel.send(token(number), notification) for number in range(20)), return_exceptions=True
    )
    assert all(isinstance(error, ChannelAway) for error in told)
    assert google.server.grants == access_token.ATTEMPTS


async def test_old_access_serves_while_it_cannot_be_renewed(
    google: Google, notification: Notification, token: Token
) -> None:
    now = NOW
    google.server.clock = lambda: now
    channel = google.channel(clock=lambda: now)
    assert await channel.send(token(1), notification) == Result(Outcome.ACCEPTED)
    google.server.behaviour.token_failures = ["page 503"] * 100
    now += 3400
    with structlog.testing.capture_logs() as logs:
        for _ in range(3):
            assert await channel.send(token(1), notification) == Result(Outcome.ACCEPTED)
    assert [each["event"] for each in logs] == ["push_access_token_not_renewed"]
    assert google.server.grants == 1 + access_token.ATTEMPTS
    now += 300
    with pytest.raises(ChannelAway):
        await channel.send(token(1), notification)
    await channel.close()


@pytest.mark.parametrize(
    "answer",
    [
        {},
        {"access_token": 7, "expires_in": 3599},
        {"access_token": "a\r\nx: y", "expires_in": 3599},
        {"access_token": "a" * 5000, "expires_in": 3599},
        {"access_token": "good"},
        {"access_token": "good", "expires_in": float("nan")},
        {"access_token": "good", "expires_in": 0},
    ],
)
async def test_an_answer_without_usable_access_is_none(
    google: Google, channel: FcmChannel, notification: Notification, token: Token, answer: dict[str, object]
) -> None:
    google.server.behaviour.token_answer = answer
    with pytest.raises(ChannelAway, match="access tokens"):
        await channel.send(token(1), notification)
    assert google.server.accepted == []


async def test_who_waits_for_access_when_the_credential_is_replaced_may_come_back(
    google: Google, notification: Notification, token: Token
) -> None:
    google.server.behaviour.stalls = 1
    channel = google.channel()
    sending = asyncio.create_task(channel.send(token(1), notification))
    while not google.server.connections:  # noqa: ASYNC110 - the server has no event for it
        await asyncio.sleep(0.01)
    await channel.close()
    with pytest.raises(ChannelAway, match="replaced"):
        await sending


async def test_a_service_that_is_away_is_told(google: Google, notification: Notification, token: Token) -> None:
    google.server.port = free_port()
    channel = google.channel()
    with pytest.raises(ChannelAway, match="access tokens cannot be reached"):
        await channel.send(token(1), notification)
    await channel.close()


async def test_no_secret_is_shown(google: Google, notification: Notification, token: Token) -> None:
    channel = google.channel()
    google.server.behaviour.failures = ["PERMISSION_DENIED"]
    with structlog.testing.capture_logs() as logs, pytest.raises(ChannelUnusable) as told:
        await channel.send(token(1), notification)
    await channel.close()
    (given,) = google.server.tokens
    shown = f"{logs} {told.value!r} {told.value.reason} {google.account!r}"
    assert given not in shown
    assert "PrivateKey" not in shown
    assert repr(google.account) == f"GoogleAccount(key_id='0a1b2c', email={EMAIL!r}, project={PROJECT!r})"


def test_googles_own_addresses_are_used_unless_another_stands_in_for_both() -> None:
    own, relayed = Servers(), Servers(fcm=("relay.example", 8443))
    told = [(server.host, server.port, server.authority) for server in (own.google_messages(), own.google_tokens())]
    names = ("fcm.googleapis.com", "oauth2.googleapis.com")
    assert told == [(name, 443, name) for name in names]
    told = [(each.host, each.port, each.authority) for each in (relayed.google_messages(), relayed.google_tokens())]
    assert told == [("relay.example", 8443, name) for name in names]


# --- Reading answers --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("0", 0.0),
        ("120", 120.0),
        ("9" * 8, None),
        ("-5", None),
        ("1.5", None),
        ("\u0661", None),
        ("", None),
        ("soon", None),
        ("Fri, 15 Jan 2027 08:01:00 GMT", 60.0),
        ("Fri, 15 Jan 2027 07:59:00 GMT", 0.0),
        ("Fri, 99 Jan 2027 07:59:00 GMT", None),
        ("Fri, 15 Jan 2027 08:01:00 +999999", None),
    ],
)
def test_retry_after_is_a_number_or_a_date(text: str, seconds: float | None) -> None:
    assert retry_after(Answer(503, {"retry-after": text}, b""), NOW) == seconds
    assert retry_after(Answer(503, {}, b""), NOW) is None


@pytest.mark.parametrize("body", [b"", b"\xff", b"[]", b"7", b"<html>", b"[" * 60_000, b'{"a":' * 10_000])
def test_what_is_no_object_tells_nothing(body: bytes) -> None:
    assert read_object(body) == {}


@pytest.mark.parametrize(
    "body",
    [
        b'{"error": "text"}',
        b'{"error": {"details": "text", "status": 7}}',
        b'{"error": {"details": [7, {"@type": []}, {}], "status": "lower case\\r\\n"}}',
        b'{"error": {"details": [{"@type": "type.googleapis.com/google.firebase.fcm.v1.FcmError"}]}}',
    ],
)
def test_an_error_of_another_form_is_told_by_its_status(body: bytes) -> None:
    assert fcm._read_error(Answer(400, {}, body)).code == "HTTP 400"
