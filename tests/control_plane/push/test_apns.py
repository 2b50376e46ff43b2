"""Apple's service as a channel: what is sent, what each answer means, and when it is sent again."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from datetime import UTC, datetime

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from control_plane.push import apns, attempts
from control_plane.push.apns import TOKEN_SECONDS, ProviderToken
from control_plane.push.channel import ChannelAway, ChannelUnusable, Notification, Outcome, Result
from control_plane.push.credentials import AppleKey, read_apple_certificate
from control_plane.push.servers import PRODUCTION_HOST
from tests.components import free_port
from tests.control_plane.push.certificates import BUNDLE_ID, Pair, make_pair
from tests.control_plane.push.conftest import KEY_ID, TEAM_ID, Apple

Token = Callable[[int], str]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(apns, "FIRST_PAUSE_SECONDS", 0.01)
    monkeypatch.setattr(apns, "LONGEST_PAUSE_SECONDS", 0.02)
    monkeypatch.setattr("control_plane.push.pool.FIRST_PAUSE_SECONDS", 0.01)


async def test_a_silent_notification_names_model_and_version_only(
    apple: Apple, notification: Notification, token: Token
) -> None:
    channel = apple.channel()
    assert await channel.send(token(1), notification) == Result(Outcome.ACCEPTED)
    await channel.close()
    (push,) = apple.server.accepted
    assert push.device_token == token(1)
    assert push.payload == {"aps": {"content-available": 1}, "skafos": {"model": "faces", "version": 3}}
    assert push.headers["apns-push-type"] == "background"
    assert push.headers["apns-priority"] == "5"
    assert push.headers["apns-topic"] == BUNDLE_ID
    assert push.headers["apns-collapse-id"] == "skafos.faces"
    assert push.headers["apns-expiration"] == str(int(notification.expires_at.timestamp()))
    assert push.headers[":authority"] == PRODUCTION_HOST


async def test_a_certificate_is_shown_in_place_of_a_token(
    apple: Apple, authority: Pair, notification: Notification, token: Token
) -> None:
    pair = make_pair(authority=authority)
    read = read_apple_certificate(pair.p12("secret"), "secret", BUNDLE_ID, sandbox=False, now=datetime.now(UTC))
    channel = apple.channel(read)
    assert await channel.send(token(1), notification) == Result(Outcome.ACCEPTED)
    await channel.close()
    assert "authorization" not in apple.server.accepted[0].headers


@pytest.mark.parametrize(
    ("reason", "outcome"),
    [
        ("Unregistered", Outcome.GONE),
        ("ExpiredToken", Outcome.GONE),
        ("BadDeviceToken", Outcome.REFUSED),
        ("DeviceTokenNotForTopic", Outcome.REFUSED),
        ("PayloadTooLarge", Outcome.REFUSED),
        ("TooManyRequests", Outcome.REFUSED),
        ("BadPriority", Outcome.REFUSED),
    ],
)
async def test_an_answer_about_one_device_is_the_end_for_that_device(
    apple: Apple, notification: Notification, token: Token, reason: str, outcome: Outcome
) -> None:
    apple.server.behaviour.refuse = {token(1): reason}
    apple.server.behaviour.unregistered_at = 1_700_000_000_000
    channel = apple.channel()
    since = datetime.fromtimestamp(1_700_000_000, UTC) if outcome == Outcome.GONE else None
    assert await channel.send(token(1), notification) == Result(outcome, reason, since)
    assert await channel.send(token(2), notification) == Result(Outcome.ACCEPTED)
    await channel.close()


@pytest.mark.parametrize("reason", ["InternalServerError", "ServiceUnavailable", "Shutdown"])
async def test_trouble_of_apples_is_waited_for(
    apple: Apple, notification: Notification, token: Token, reason: str
) -> None:
    apple.server.behaviour.failures = [reason] * 3
    channel = apple.channel(rng=random.Random(1))
    assert await channel.send(token(1), notification) == Result(Outcome.ACCEPTED)
    await channel.close()
    assert apple.server.reasons == {reason: 3}


async def test_who_is_told_to_wait_lets_everybody_wait(apple: Apple, notification: Notification, token: Token) -> None:
    apple.server.behaviour.failures = ["ServiceUnavailable"]
    apple.server.behaviour.retry_after = 1
    channel = apple.channel()
    loop = asyncio.get_running_loop()
    began = loop.time()
    first = asyncio.ensure_future(channel.send(token(1), notification))
    while not apple.server.reasons:  # noqa: ASYNC110 - the server has no event for it
        await asyncio.sleep(0.01)
    await asyncio.sleep(0.05)
    assert await channel.send(token(2), notification) == Result(Outcome.ACCEPTED)
    assert await first == Result(Outcome.ACCEPTED)
    assert loop.time() - began >= 1  # a second is what the server asked for
    await channel.close()


async def test_a_long_pause_is_the_callers(apple: Apple, notification: Notification, token: Token) -> None:
    apple.server.behaviour.failures = ["ServiceUnavailable"]
    apple.server.behaviour.retry_after = 3600
    channel = apple.channel()
    with pytest.raises(ChannelAway) as told:
        await channel.send(token(1), notification)
    assert told.value.retry_after == 3600
    await channel.close()


async def test_trouble_that_lasts_is_told(apple: Apple, notification: Notification, token: Token) -> None:
    apple.server.behaviour.failures = ["InternalServerError"] * 100
    channel = apple.channel()
    with pytest.raises(ChannelAway, match="later"):
        await channel.send(token(1), notification)
    await channel.close()


@pytest.mark.parametrize("reason", sorted(apns._UNUSABLE))
async def test_a_credential_that_apple_refuses_ends_everything_with_a_sentence(
    apple: Apple, notification: Notification, token: Token, reason: str
) -> None:
    apple.server.behaviour.failures = [reason]
    channel = apple.channel()
    with pytest.raises(ChannelUnusable, match=r"\.$") as told:
        await channel.send(token(1), notification)
    assert told.value.reason == reason
    await channel.close()


async def test_a_key_of_another_team_or_app_is_told(apple: Apple, notification: Notification, token: Token) -> None:
    for credential in (AppleKey(apple.key.key, KEY_ID, "OTHERTEAM1"), AppleKey(apple.key.key, "OTHERKEY12", TEAM_ID)):
        channel = apple.channel(credential)
        with pytest.raises(ChannelUnusable, match="team id"):
            await channel.send(token(1), notification)
        await channel.close()


async def test_the_token_is_renewed_in_time_and_not_too_often(
    apple: Apple, notification: Notification, token: Token
) -> None:
    now = 1_800_000_000.0
    apple.server.clock = lambda: now
    channel = apple.channel(clock=lambda: now)
    bearers = set()
    for _ in range(30):
        assert await channel.send(token(1), notification) == Result(Outcome.ACCEPTED)
        bearers.add(apple.server.accepted[-1].headers["authorization"])
        now += 600
    await channel.close()
    assert len(bearers) == 1 + 29 * 600 // TOKEN_SECONDS


def test_all_who_have_the_key_make_the_same_token() -> None:
    key = AppleKey(ec.generate_private_key(ec.SECP256R1()), KEY_ID, TEAM_ID)
    moments = [1_800_000_000.0 // TOKEN_SECONDS * TOKEN_SECONDS + part for part in (0.0, 1.5, TOKEN_SECONDS - 1)]
    assert len({ProviderToken(key, lambda at=at: at)() for at in moments}) == 1  # type: ignore[misc]


async def test_an_expired_token_is_told_when_clocks_differ(
    apple: Apple, notification: Notification, token: Token
) -> None:
    apple.server.clock = lambda: 1_800_000_000.0
    channel = apple.channel(clock=lambda: 1_800_009_000.0)
    with pytest.raises(ChannelUnusable, match="clock"):
        await channel.send(token(1), notification)
    await channel.close()


async def test_no_answer_is_not_known(
    apple: Apple, notification: Notification, token: Token, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attempts, "ANSWER_SECONDS", 0.05)
    apple.server.behaviour.stalls = 1
    channel = apple.channel()
    assert await channel.send(token(1), notification) == Result(Outcome.UNKNOWN, "TooLate")
    apple.server.behaviour.drop_after = 1
    assert await channel.send(token(2), notification) == Result(Outcome.UNKNOWN, "Lost")
    apple.server.behaviour.drop_after = None
    assert await channel.send(token(3), notification) == Result(Outcome.ACCEPTED)
    await channel.close()


async def test_a_service_that_is_away_is_told(apple: Apple, notification: Notification, token: Token) -> None:
    apple.server.port = free_port()
    channel = apple.channel()
    with pytest.raises(ChannelAway, match="cannot be reached"):
        await channel.send(token(1), notification)
    await channel.close()


async def test_goaway_in_the_middle_loses_and_doubles_nothing(
    apple: Apple, notification: Notification, token: Token
) -> None:
    apple.server.behaviour.goaway_after = 40
    apple.server.behaviour.delay = 0.005
    channel = apple.channel()
    results = await asyncio.gather(*(channel.send(token(number), notification) for number in range(200)))
    assert set(results) == {Result(Outcome.ACCEPTED)}
    await channel.close()
    assert sorted(push.device_token for push in apple.server.accepted) == [token(number) for number in range(200)]


def test_no_representation_shows_a_key() -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    assert repr(AppleKey(key, KEY_ID, TEAM_ID)) == f"AppleKey(key_id={KEY_ID!r}, team_id={TEAM_ID!r})"
