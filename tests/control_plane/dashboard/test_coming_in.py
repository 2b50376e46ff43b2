"""Every way in: what a browser had before is of no use after it, it leads nowhere else, and nothing can be guessed."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

import httpx
import pyotp
import pytest
from sqlalchemy import delete, select, update

from control_plane.dashboard.addresses import HOME, local
from control_plane.one_time_links import TOKEN_BYTES, Purpose
from control_plane.tables import SignInFailure, utc_now
from tests.control_plane.dashboard.browsing import Browser, Page, link_for
from tests.control_plane.dashboard.conftest import ORG, PUBLIC, Post
from tests.control_plane.dashboard.hostile import ELSEWHERE
from tests.control_plane.dashboard.people import PASSWORD, in_database, newcomer, with_password

PROVIDERS_PAGE = httpx.Client(trust_env=False)
SECOND_FACTOR = "/account/second-factor"
# Comes in with a browser and goes on to an address; the name is of somebody who is not there yet.
Way = Callable[[Post, Browser, str, str], httpx.Response]


@pytest.fixture(autouse=True)
def nothing_counted(post: Post) -> Iterator[None]:
    yield
    post.provider.be_honest()
    in_database(post, delete(SignInFailure))


def by_password(post: Post, browser: Browser, name: str, following: str) -> httpx.Response:
    email, _ = with_password(post, name)
    return _sign_in(browser, email, following)


def by_password_and_code(post: Post, browser: Browser, name: str, following: str) -> httpx.Response:
    email, mine = with_password(post, name)
    recovery = turn_on(mine)[0]
    assert _sign_in(browser, email, following).headers["Location"].startswith("/sign-in/code?")
    form = browser.get("/sign-in/code").forms["code-form"]
    return browser.send(form, {"code": recovery, "next": following}, follow_redirects=False)


def by_provider(post: Post, browser: Browser, name: str, following: str) -> httpx.Response:
    post.provider.claims = {"sub": name, "email": f"{name}@example.org", "email_verified": True}
    away = browser.client.get("/sign-in/openid", params={"next": following}, follow_redirects=False)
    back = PROVIDERS_PAGE.get(away.headers["Location"]).headers["Location"]
    return browser.client.get(back.removeprefix(PUBLIC), follow_redirects=False)


def by_invitation(post: Post, browser: Browser, name: str, following: str) -> httpx.Response:
    made = post.api.post(f"{ORG}/invitations", {"email": f"{name}@example.org", "role": "viewer"})
    return _use(browser, made["url"].removeprefix(PUBLIC), following)


def by_link(purpose: Purpose) -> Way:
    def come(post: Post, browser: Browser, name: str, following: str) -> httpx.Response:
        email = f"{name}@example.org" if purpose is Purpose.SIGN_UP else newcomer(post, name)
        return _use(browser, link_for(post.api, email, purpose), following)

    return come


WAYS: dict[str, Way] = {
    "password": by_password,
    "password and code": by_password_and_code,
    "provider": by_provider,
    "invitation": by_invitation,
    **{purpose.value: by_link(purpose) for purpose in Purpose if purpose is not Purpose.INVITATION},
}


def _sign_in(browser: Browser, email: str, following: str) -> httpx.Response:
    form = browser.get("/sign-in").forms["/sign-in"]
    filled = {"email": email, "password": PASSWORD, "next": following}
    return browser.send(form, filled, follow_redirects=False)


def _use(browser: Browser, link: str, following: str) -> httpx.Response:
    form = browser.get(link).forms[link]
    return browser.send(form, {"password": PASSWORD, "next": following}, follow_redirects=False)


def turn_on(browser: Browser) -> list[str]:
    """Turn somebody's second factor on, and return the recovery codes."""
    page = Page(browser.send(browser.get(SECOND_FACTOR).forms["begin"], {"proof": PASSWORD}))
    (secret,) = re.findall(r"\b[A-Z2-7]{32}\b", page.text)
    page = Page(browser.send(page.forms["confirm"], {"code": pyotp.TOTP(secret).now()}))
    return re.findall(r"\b[a-z2-7]{4}(?:-[a-z2-7]{4}){3}\b", page.text)


def is_in(browser: Browser) -> bool:
    return browser.get("/account").answer.url.path == "/account"


@pytest.mark.parametrize("way", WAYS)
def test_what_a_browser_had_before_is_of_no_use_after(post: Post, way: str) -> None:
    """Whoever puts a cookie into somebody's browser must not be signed in with them (session fixation)."""
    attacker, victim = Browser(post.api), Browser(post.api)
    known = attacker.get("/sign-in").forms["/sign-in"].fields["form_token"]
    planted = attacker.client.cookies["skafos"]
    victim.client.cookies.set("skafos", planted, domain="127.0.0.1", path="/")
    answer = WAYS[way](post, victim, f"fixed-{way.replace(' ', '-')}", "/")
    assert answer.status_code == 303
    assert is_in(victim)
    assert victim.client.cookies["skafos"] != planted
    assert not is_in(attacker)
    assert victim.client.post("/sign-out", data={"form_token": known}).status_code == 403
    assert is_in(victim)


@pytest.mark.parametrize("aim", ELSEWHERE, ids=lambda aim: ascii(aim[:40]))
def test_an_address_that_leads_elsewhere_is_none_of_ours(aim: str) -> None:
    assert local(aim) == HOME
    assert local(aim, "/organizations/Acme") == "/organizations/Acme"


@pytest.mark.parametrize("aim", ["/", "/account", "/organizations/a%2Fb?after=c#d", "/organizations/Größe & more"])
def test_an_address_of_ours_is_gone_to(aim: str) -> None:
    assert local(aim) == aim


@pytest.mark.parametrize("way", WAYS)
def test_whoever_comes_in_stays_here(post: Post, way: str) -> None:
    number = list(WAYS).index(way)
    answer = WAYS[way](post, Browser(post.api), f"led-{way.replace(' ', '-')}", ELSEWHERE[number])
    assert answer.headers["Location"] == "/"


def guess_password(browser: Browser, guess: str) -> httpx.Response:
    form = browser.get("/account").forms["password"]
    return browser.send(form, {"current_password": guess, "password": "another horse battery"})


def guess_proof(action: str) -> Callable[[Browser, str], httpx.Response]:
    def guess_it(browser: Browser, guess: str) -> httpx.Response:
        form = next(iter(form for name, form in browser.get(SECOND_FACTOR).forms.items() if name != "/sign-out"))
        form.action = f"{SECOND_FACTOR}/{action}"
        return browser.send(form, {"proof": guess})

    return guess_it


def guess_first_code(browser: Browser, guess: str) -> httpx.Response:
    """Guess the code of a secret that is shown: who has it need not guess, and who has not is told no more."""
    token = browser.form_token()
    return browser.client.post(f"{SECOND_FACTOR}/confirm", data={"form_token": token, "code": guess})


GUESSES = {
    "password until now": (guess_password, False),
    "proof for a secret": (guess_proof("begin"), False),
    "first code": (guess_first_code, False),
    "proof for recovery codes": (guess_proof("codes"), True),
    "proof to turn it off": (guess_proof("off"), True),
}


@pytest.mark.parametrize("what", GUESSES)
def test_whoever_sits_at_somebodys_browser_cannot_guess_either(post: Post, what: str) -> None:
    guess, is_on = GUESSES[what]
    _, browser = with_password(post, f"left-{what.replace(' ', '-')}")
    if is_on:
        turn_on(browser)
    elif what == "first code":
        browser.send(browser.get(SECOND_FACTOR).forms["begin"], {"proof": PASSWORD})
    in_database(post, delete(SignInFailure))
    assert "Too many tries" not in guess(browser, "wrong horse battery").text
    counted = in_database(post, select(SignInFailure.failures))
    assert [row.failures for row in counted] == [1, 1], "for the account, and for the address"
    in_database(post, update(SignInFailure).values(failures=1000, last_at=utc_now()))
    assert "Too many tries" in guess(browser, PASSWORD).text, "the right one has to wait too"


def test_an_address_that_tries_codes_of_many_accounts_has_to_wait(post: Post) -> None:
    browsers = [Browser(post.api), Browser(post.api)]
    for number, browser in enumerate(browsers):
        email, mine = with_password(post, f"coded-{number}")
        turn_on(mine)
        browser.client.headers["X-Forwarded-For"] = "192.0.2.77"
        _sign_in(browser, email, "/")
    in_database(post, delete(SignInFailure))
    first, second = (browser.get("/sign-in/code").forms["code-form"] for browser in browsers)
    assert browsers[0].send(first, {"code": "000000"}).status_code == 400
    in_database(post, update(SignInFailure).values(failures=1000, last_at=utc_now()))
    assert browsers[1].send(second, {"code": "000000"}).status_code == 429
    browsers[1].client.headers["X-Forwarded-For"] = "192.0.2.78"
    assert browsers[1].send(second, {"code": "000000"}).status_code == 400, "from elsewhere nobody has to wait for it"


def test_a_link_is_not_guessed_from_another_and_guessing_uses_none_up(post: Post) -> None:
    email = newcomer(post, "linked")
    link = link_for(post.api, email)
    token = link.rpartition("/")[2]
    assert len(token) >= TOKEN_BYTES * 8 / 6, "each character of base64 has six bits: nobody comes to the end of them"
    thief = Browser(post.api)
    shown = {"form_token": thief.get("/sign-in").forms["/sign-in"].fields["form_token"], "password": PASSWORD}
    for guess in ("x", token[:-1], f"{token}A", token.swapcase(), token[::-1], "%00", "%2e%2e", "x" * 5000):
        assert thief.client.get(f"/links/{guess}").status_code == 404
        assert thief.client.post(f"/links/{guess}", data=shown).status_code == 404
    assert not is_in(thief)
    owner = Browser(post.api)
    owner.use(link)
    assert is_in(owner)
