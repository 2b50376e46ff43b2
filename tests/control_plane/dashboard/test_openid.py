"""Signing in at another provider, a real one on loopback; and every lie that it, or somebody between, may tell."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import pyotp
import pytest

from control_plane.web_sessions import new_token
from tests.control_plane.dashboard.browsing import Browser, Page, link_for
from tests.control_plane.dashboard.conftest import ORG, PUBLIC, Post
from tests.control_plane.dashboard.people import PASSWORD
from tests.servers.openid import CLIENT_ID

LEAVE = "/sign-in/openid"
PROVIDERS_PAGE = httpx.Client(trust_env=False)


@pytest.fixture(autouse=True)
def honest(post: Post) -> Iterator[None]:
    yield
    post.provider.be_honest()


def leave(browser: Browser, following: str = "/") -> str:
    """Go to the provider, who lets everybody in; return where it leads, below the dashboard's address."""
    answer = browser.client.get(LEAVE, params={"next": following}, follow_redirects=False)
    assert answer.status_code == 303, answer.text
    there = PROVIDERS_PAGE.get(answer.headers["Location"])
    assert there.status_code == 303, there.text
    assert there.headers["Location"].startswith(f"{PUBLIC}{LEAVE}/callback?")
    return str(there.headers["Location"]).removeprefix(PUBLIC)


def come(
    post: Post, email: str | None = "", browser: Browser | None = None, following: str = "/", **claims: Any
) -> Page:
    """Have somebody sign in there; return the page that they see in the end."""
    subject = claims.pop("sub", f"subject of {email}")
    post.provider.claims = {"sub": subject, "email": email, "email_verified": True} | claims
    browser = browser or Browser(post.api)
    return Page(browser.client.get(leave(browser, following)))


def is_in(browser: Browser) -> bool:
    return browser.get("/account").answer.url.path == "/account"


def test_whoever_comes_for_the_first_time_gets_an_account_and_comes_again_to_the_same(post: Post) -> None:
    browser = Browser(post.api)
    page = browser.get("/sign-in?next=/new-organization")
    assert "Sign in with Example Accounts" in page.text
    assert f"{LEAVE}?next=/new-organization" in page.links
    page = come(post, "first@example.org", browser, "/new-organization")
    assert page.answer.url.path == "/new-organization"
    browser.send(page.forms["organization"], {"name": "Of the first"})
    log = post.api.call("GET", "/v2/me", token=post.api.token_of("first@example.org")).json()
    assert log["organizations"] == [{"name": "Of the first", "role": "owner"}]
    # The address has changed there, and the subject has not.
    page = come(post, "renamed@example.org", sub="subject of first@example.org")
    assert page.answer.url.path == "/organizations/Of the first"


def test_the_same_verified_address_leads_to_the_account_that_is_there(post: Post) -> None:
    post.api.post(f"{ORG}/members", {"email": "there@example.org", "role": "viewer"})
    browser = Browser(post.api)
    assert come(post, "There@Example.org", browser).answer.url.path == "/organizations/Acme"
    log = post.api.get(f"{ORG}/audit?actor=there@example.org")
    assert [(entry["action"], entry["detail"]) for entry in log] == [
        ("sign-in", {"by": "Example Accounts"}),
        ("identity.link", {"by": "Example Accounts"}),
    ]
    # To whom the address was given since, it opens nothing.
    page = come(post, "there@example.org", sub="a new colleague")
    assert page.answer.status_code == 409
    assert "is somebody else's there" in page.text


def test_the_address_may_stand_beside_the_token(post: Post) -> None:
    post.provider.userinfo = {"sub": "beside", "email": "beside@example.org", "email_verified": True}
    browser = Browser(post.api)
    come(post, browser=browser, sub="beside", email=None, email_verified=None)
    assert is_in(browser)
    post.provider.userinfo["sub"] = "another"
    page = come(post, sub="beside", email=None, email_verified=None)
    assert page.answer.status_code == 400


@pytest.mark.parametrize("verified", [False, None, "false", 1, "yes", {}])
def test_an_address_that_is_not_verified_opens_nothing(post: Post, verified: Any) -> None:
    browser = Browser(post.api)
    page = come(post, "owner@example.org", browser, email_verified=verified)
    assert page.answer.status_code == 403
    assert "has not verified your e-mail address" in page.text
    assert not is_in(browser)


NOW = int(time.time())
LIES: dict[str, dict[str, Any]] = {
    "another attempt": {"nonce": "another"},
    "no attempt": {"nonce": None},
    "for somebody else": {"aud": "another"},
    "for many, made for somebody else": {"aud": [CLIENT_ID, "another"], "azp": "another"},
    "for many, made for nobody": {"aud": [CLIENT_ID, "another"]},
    "for nobody": {"aud": None},
    "expired": {"exp": NOW - 3600},
    "without an end": {"exp": None},
    "ends never": {"exp": True},
    "of a time to come": {"iat": NOW + 7200},
    "another issuer": {"iss": "https://evil.example"},
    "a longer issuer": {"iss": "PROVIDER/"},
    "of nobody": {"sub": None},
    "of nobody at all": {"sub": ""},
    "of a crowd": {"sub": ["a"]},
    "of too long a name": {"sub": "x" * 256},
}


@pytest.mark.parametrize("lie", LIES)
def test_a_token_that_is_not_what_it_should_be_opens_nothing(post: Post, lie: str) -> None:
    issuer = post.provider.issuer
    told = {key: value.replace("PROVIDER", issuer) if key == "iss" else value for key, value in LIES[lie].items()}
    browser = Browser(post.api)
    page = come(post, "owner@example.org", browser, **told)
    assert page.answer.status_code == 400, page.text
    assert not is_in(browser)
    assert come(post, "honest@example.org").answer.status_code == 200


@pytest.mark.parametrize(("algorithm", "stranger"), [("none", False), ("HS256", False), ("RS256", True)])
def test_a_signature_that_anybody_can_make_opens_nothing(post: Post, algorithm: str, stranger: bool) -> None:
    post.provider.algorithm, post.provider.stranger = algorithm, stranger
    browser = Browser(post.api)
    assert come(post, "owner@example.org", browser).answer.status_code == 400
    assert not is_in(browser)


def test_the_answer_to_another_browser_is_of_no_use(post: Post) -> None:
    """Nobody can be signed in to the account of who sent them a link."""
    post.provider.claims = {"sub": "attacker", "email": "attacker@example.org", "email_verified": True}
    thief, victim = Browser(post.api), Browser(post.api)
    callback = leave(thief)
    victim.get("/sign-in")
    page = Page(victim.client.get(callback))
    assert page.answer.status_code == 400
    assert "for another browser" in page.text
    assert not is_in(victim)
    # A code of one attempt does not fit the state of another, of whichever browser.
    code = parse_qs(urlsplit(callback).query)["code"][0]
    other = parse_qs(urlsplit(leave(victim)).query)["state"][0]
    answer = victim.client.get(f"{LEAVE}/callback", params={"code": code, "state": other})
    assert answer.status_code == 400
    assert not is_in(victim)


def test_an_answer_works_once(post: Post) -> None:
    post.provider.claims = {"sub": "once", "email": "once@example.org", "email_verified": True}
    browser = Browser(post.api)
    callback = leave(browser)
    cookie = browser.client.cookies["skafos"]
    browser.client.get(callback)
    assert is_in(browser)
    again = Browser(post.api)
    again.client.cookies.set("skafos", cookie)
    assert again.client.get(callback).status_code == 400


@pytest.mark.parametrize("state", ["", "x", "A" * 200, "\u00e9", "=" * 8])
def test_a_state_that_is_none_is_refused(post: Post, state: str) -> None:
    browser = Browser(post.api)
    browser.client.cookies.set("skafos", new_token())
    assert browser.client.get(f"{LEAVE}/callback", params={"code": "c", "state": state}).status_code == 400


@pytest.mark.parametrize(
    ("answer", "status"),
    [({"iss": "https://evil.example"}, 400), ({"error": "access_denied"}, 403), ({"code": "guessed"}, 400)],
    ids=str,
)
def test_an_answer_that_is_not_of_the_provider_or_says_no_opens_nothing(
    post: Post, answer: dict[str, str], status: int
) -> None:
    post.provider.answer = answer
    browser = Browser(post.api)
    page = come(post, "owner@example.org", browser)
    assert page.answer.status_code == status
    assert "Sign in" in page.text
    assert not is_in(browser)


def test_what_an_invitation_made_is_taken_over_without_what_lets_somebody_else_in(post: Post) -> None:
    """Whoever made the invitation may have used it, and have waited for the person whom the address belongs to."""
    made = post.api.post(f"{ORG}/invitations", {"email": "victim@example.org", "role": "viewer"})
    attacker = Browser(post.api)
    attacker.use(made["url"].removeprefix(PUBLIC), password=PASSWORD)
    form = attacker.get("/account").forms["token"]
    token = next(word for word in Page(attacker.send(form, {"name": "kept"})).text.split() if word.startswith("sk_"))
    assert is_in(attacker)
    victim = Browser(post.api)
    come(post, "victim@example.org", victim)
    assert is_in(victim)
    assert not is_in(attacker)
    assert post.api.call("GET", "/v2/me", token=token).status_code == 401
    form = attacker.get("/sign-in").forms["/sign-in"]
    assert attacker.send(form, {"email": "victim@example.org", "password": PASSWORD}).status_code == 400
    # It is proven now: another link takes nothing.
    kept = post.api.token_of("victim@example.org")
    Browser(post.api).use(link_for(post.api, "victim@example.org"))
    assert post.api.call("GET", "/v2/me", token=kept).status_code == 200


def test_whoever_has_a_second_factor_is_asked_for_it_here_too(post: Post) -> None:
    mine = Browser(post.api)
    come(post, "careful@example.org", mine)
    page = Page(mine.send(mine.get("/account/second-factor").forms["begin"]))
    (secret,) = re.findall(r"\b[A-Z2-7]{32}\b", page.text)
    mine.send(page.forms["confirm"], {"code": pyotp.TOTP(secret).now()})
    browser = Browser(post.api)
    assert come(post, "careful@example.org", browser).answer.url.path == "/sign-in/code"
    assert not is_in(browser)


def test_secrets_reach_no_log(post: Post) -> None:
    come(post, "quiet@example.org")
    assert "a secret" not in post.api.log()
    assert "quiet@example.org" not in post.api.log()
    assert "code=" not in post.api.log()
