"""The client of a provider of OpenID Connect: its keys, its addresses, how long an attempt lasts, and its settings."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from datetime import timedelta
from pathlib import Path
from urllib.parse import parse_qsl, urlsplit

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from control_plane.dashboard.identities import user_of
from control_plane.database import Database
from control_plane.errors import Conflict, Forbidden, Invalid, Unavailable
from control_plane.migrate import migrate
from control_plane.openid import (
    ATTEMPT_LASTS,
    KNOWN_FOR,
    LOOK_AGAIN_AFTER,
    OpenIdProvider,
    Person,
    ProviderSettings,
    begin_attempt,
    read_attempt,
)
from control_plane.settings import Settings
from control_plane.tables import utc_now
from control_plane.web_sessions import new_token
from tests.servers.openid import CLIENT_ID, CLIENT_SECRET, Provider, openid_provider

CALLBACK = "http://skafos.test/callback"
HONEST = {"sub": "me", "email": "me@example.org", "email_verified": True}


@pytest.fixture(scope="module")
def provider() -> Iterator[Provider]:
    with openid_provider() as running:
        yield running


@pytest.fixture
async def client(provider: Provider) -> AsyncIterator[OpenIdProvider]:
    provider.be_honest()
    provider.claims = dict(HONEST)
    client = OpenIdProvider(ProviderSettings(provider.issuer, CLIENT_ID, CLIENT_SECRET, "There", CALLBACK))
    yield client
    await client.close()


async def come(client: OpenIdProvider, after: timedelta = timedelta()) -> Person:
    """Go there and back, some time from now."""
    now, cookie = utc_now() + after, new_token()
    attempt = begin_attempt(cookie, "/", now)
    async with httpx.AsyncClient(trust_env=False) as browser:
        there = await browser.get(await client.address(attempt, now))
    answer = dict(parse_qsl(urlsplit(there.headers["Location"]).query))
    return await client.person(answer, read_attempt(cookie, answer["state"], now), now)


async def test_a_new_key_is_looked_for_at_once_but_not_each_time(provider: Provider, client: OpenIdProvider) -> None:
    told = provider.keys_told
    assert await come(client) == Person(provider.issuer, "me", "me@example.org")
    await come(client)
    assert provider.keys_told == told + 1
    provider.renew_key()
    with pytest.raises(Invalid):
        await come(client)
    assert provider.keys_told == told + 1, "nobody has the provider asked in a loop"
    await come(client, LOOK_AGAIN_AFTER)
    assert provider.keys_told == told + 2
    provider.claims["exp"] = int((utc_now() + 2 * KNOWN_FOR).timestamp())
    await come(client, KNOWN_FOR + 2 * LOOK_AGAIN_AFTER)
    assert provider.keys_told == told + 3, "what is known is not known for ever"


@pytest.mark.parametrize(
    "about",
    [
        {"issuer": "https://evil.example"},
        {"token_endpoint": "http://evil.example/token"},
        {"authorization_endpoint": "javascript:alert(1)"},
        {"jwks_uri": None},
    ],
    ids=str,
)
async def test_a_provider_that_names_other_places_is_not_asked(
    provider: Provider, client: OpenIdProvider, about: dict[str, object]
) -> None:
    provider.about = about
    with pytest.raises(Unavailable):
        await come(client)


async def test_a_provider_that_promises_to_name_itself_has_to(provider: Provider, client: OpenIdProvider) -> None:
    provider.about = {"authorization_response_iss_parameter_supported": True}
    with pytest.raises(Invalid):
        await come(client)
    provider.answer = {"iss": provider.issuer}
    assert (await come(client)).subject == "me"


async def test_keys_of_other_kinds_are_passed_over(provider: Provider, client: OpenIdProvider) -> None:
    own = provider.key.as_dict(private=False)
    strange: list[object] = [{"kty": "AKP", "kid": "x"}, {"kty": "oct", "k": "c2VjcmV0"}, {"kty": "EC"}, 7, {}]
    provider.keys = {"keys": [*strange, own]}
    assert (await come(client)).subject == "me"
    for keys in ([*strange], "none", None):
        provider.keys = {"keys": keys}
        with pytest.raises(Unavailable):
            await come(client, 2 * KNOWN_FOR)


async def test_the_secret_is_sent_in_the_way_that_the_provider_asks_for(
    provider: Provider, client: OpenIdProvider
) -> None:
    provider.about = {"token_endpoint_auth_methods_supported": ["client_secret_post"]}
    assert (await come(client)).subject == "me"


async def test_a_provider_that_is_away_or_tells_too_much_is_unavailable(provider: Provider) -> None:
    for issuer in ("http://127.0.0.1:1", f"{provider.issuer}/large", f"{provider.issuer}/nowhere"):
        client = OpenIdProvider(ProviderSettings(issuer, CLIENT_ID, CLIENT_SECRET, "There", CALLBACK))
        with pytest.raises(Unavailable, match="There cannot be asked"):
            await come(client)
        await client.close()


@given(following=st.text(max_size=200).filter(lambda text: text.isprintable()))
def test_an_attempt_is_read_in_its_browser_for_ten_minutes(following: str) -> None:
    now, cookie = utc_now(), new_token()
    attempt = begin_attempt(cookie, following, now)
    assert read_attempt(cookie, attempt.state, now + ATTEMPT_LASTS - timedelta(seconds=1)) == attempt
    with pytest.raises(Invalid):
        read_attempt(cookie, attempt.state, now + ATTEMPT_LASTS + timedelta(seconds=1))
    with pytest.raises(Invalid):
        read_attempt(new_token(), attempt.state, now)
    for spoilt in (attempt.state[:-1], attempt.state[1:], attempt.state + "AAAA", attempt.state.swapcase()):
        with pytest.raises(Invalid):
            read_attempt(cookie, spoilt, now)
    assert 43 <= len(attempt.verifier) <= 128, "RFC 7636, section 4.1"
    assert len({attempt.nonce, attempt.verifier, attempt.state, attempt.challenge}) == 4


async def test_an_account_is_made_only_where_the_operator_likes_and_is_one_persons_there(tmp_path: Path) -> None:
    database, now = Database(f"sqlite:///{tmp_path / 'test.sqlite3'}"), utc_now()
    await migrate(database)
    here, there = (Person(issuer, "me", "me@example.org") for issuer in ("https://a.example", "https://b.example"))

    async def come_as(person: Person, *, may_sign_up: bool = False) -> tuple[str, bool]:
        async with database.write() as session:
            user, came_before = await user_of(session, person, now, may_sign_up=may_sign_up)
            return user.id, came_before

    try:
        with pytest.raises(Forbidden, match="has no account here"):
            await come_as(here)
        user_id, _ = await come_as(here, may_sign_up=True)
        assert await come_as(here) == (user_id, True)
        assert await come_as(there) == (user_id, False), "the address is the same"
        for other in (Person("https://a.example", "you", "me@example.org"), Person(there.issuer, "you", here.email)):
            with pytest.raises(Conflict):
                await come_as(other, may_sign_up=True)
    finally:
        await database.close()


@pytest.mark.parametrize(
    "issuer",
    [
        "http://accounts.example.org",
        "accounts.example.org",
        "https://a@example.org",
        "https://example.org?x",
        "ftp://x",
    ],
)
def test_a_provider_is_reached_by_https_alone(issuer: str) -> None:
    with pytest.raises(ValueError, match="oidc_issuer"):
        Settings(oidc_issuer=issuer, oidc_client_id="c", oidc_client_secret="s", control_public_url="https://x")


def test_settings_of_a_provider_need_each_other() -> None:
    whole = {
        "oidc_issuer": "https://accounts.example.org",
        "oidc_client_id": "c",
        "oidc_client_secret": "s",
        "control_public_url": "https://skafos.example.org",
    }
    provider = Settings.model_validate(whole).openid_provider()
    assert provider is not None
    assert provider.settings.redirect_uri == "https://skafos.example.org/sign-in/openid/callback"
    assert "'s'" not in repr(provider.settings)
    for name in whole:
        with pytest.raises(ValueError, match="need each other"):
            Settings.model_validate({key: value for key, value in whole.items() if key != name})
