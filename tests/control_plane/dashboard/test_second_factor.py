"""The second factor in a browser: turning it on and off, and that nothing lets anybody in without it."""

from __future__ import annotations

import re
from datetime import timedelta

import pyotp
import pytest
from sqlalchemy import delete, select, update

from control_plane.sign_ins import FREE_FOR_ACCOUNT
from control_plane.tables import SecondFactor, SignInFailure, WebSession, utc_now
from tests.control_plane.dashboard.browsing import Browser, Page, link_for
from tests.control_plane.dashboard.conftest import ORG, Office
from tests.control_plane.dashboard.people import PASSWORD, in_database, newcomer, sign_in, with_password

PAGE = "/account/second-factor"


@pytest.fixture(scope="module", autouse=True)
def no_wrong_tries(office: Office) -> None:
    """Forget what others have tried from this machine."""
    in_database(office, delete(SignInFailure))


class Phone:
    """An app that shows codes, each of them once: it waits for nothing, and has the server forget the last one."""

    def __init__(self, office: Office, secret: str) -> None:
        self._office = office
        self._app = pyotp.TOTP(secret)

    def code(self) -> str:
        in_database(self._office, update(SecondFactor).values(last_step=0))
        return self._app.now()


def turn_on(office: Office, browser: Browser, proof: str = PASSWORD) -> tuple[Phone, list[str]]:
    """Turn the second factor on; return the phone, and the recovery codes."""
    page = Page(browser.send(browser.get(PAGE).forms["begin"], {"proof": proof}))
    assert 'role="img"' in page.answer.text
    assert "style=" not in page.answer.text, "the policy lets nothing be styled inline"
    (secret,) = re.findall(r"\b[A-Z2-7]{32}\b", page.text)
    phone = Phone(office, secret)
    page = Page(browser.send(page.forms["confirm"], {"code": phone.code()}))
    codes = re.findall(r"\b[a-z2-7]{4}(?:-[a-z2-7]{4}){3}\b", page.text)
    assert len(codes) == 10
    return phone, codes


def give(browser: Browser, page: Page, code: str) -> Page:
    return Page(browser.send(page.forms["code-form"], {"code": code}))


def test_signing_in_takes_the_password_and_then_a_code(office: Office) -> None:
    email, mine = with_password(office, "careful")
    elsewhere = Browser(office.api)
    sign_in(elsewhere, email, PASSWORD)
    phone, codes = turn_on(office, mine)
    assert elsewhere.get("/account").answer.url.path == "/sign-in", "it signed in without a code"
    assert mine.get("/account").answer.url.path == "/account"

    browser = Browser(office.api)
    form = browser.get("/organizations/Acme/members").forms["/sign-in"]
    page = Page(browser.send(form, {"email": email, "password": PASSWORD}))
    assert page.answer.url.path == "/sign-in/code"
    between = browser.client.cookies["skafos"]
    assert browser.get("/account").answer.url.path == "/sign-in", "nobody is signed in yet"
    page = browser.get("/sign-in/code?next=/organizations/Acme/members")
    refused = give(browser, page, "000000")
    assert refused.answer.status_code == 400
    assert "not the code of this moment" in refused.text
    page = give(browser, refused, phone.code())
    assert page.answer.url.path == "/organizations/Acme/members"
    assert browser.client.cookies["skafos"] != between, "the cookie from before the code is of no use"
    newest = office.api.get(f"{ORG}/audit?limit=1&actor={email}")[0]
    assert (newest["action"], newest["detail"]) == ("sign-in", {"code": "app"})

    thief = Browser(office.api)
    thief.client.cookies.set("skafos", between)
    assert thief.get("/account").answer.url.path == "/sign-in"
    assert thief.get("/sign-in/code").answer.url.path == "/sign-in"
    other = Browser(office.api)
    assert give(other, sign_in(other, email, PASSWORD), codes[0]).answer.url.path == "/organizations/Acme"
    other = Browser(office.api)
    assert give(other, sign_in(other, email, PASSWORD), codes[0]).answer.status_code == 400


def test_codes_cannot_be_guessed_and_a_right_password_begins_no_new_count(office: Office) -> None:
    email, mine = with_password(office, "guessing")
    phone, _ = turn_on(office, mine)
    browser = Browser(office.api)
    page = sign_in(browser, email, PASSWORD)
    statuses = [give(browser, page, f"{n:06}").answer.status_code for n in range(FREE_FOR_ACCOUNT)]
    assert statuses == [400] * FREE_FOR_ACCOUNT
    in_database(office, update(SignInFailure).values(failures=SignInFailure.failures + 10, last_at=utc_now()))
    try:
        assert give(browser, page, phone.code()).answer.status_code == 429
        in_database(office, delete(SignInFailure).where(SignInFailure.failures < 15))
        page = sign_in(browser, email, PASSWORD)
        assert give(browser, page, phone.code()).answer.status_code == 429
    finally:
        in_database(office, delete(SignInFailure))


def test_what_waits_for_a_code_ends_after_ten_minutes(office: Office) -> None:
    email = newcomer(office, "slow")
    phone, _ = turn_on(office, Browser.of(office.api, email))
    browser = Browser(office.api)
    page = browser.use(link_for(office.api, email))
    waiting = select(WebSession.id, WebSession.expires_at).where(WebSession.awaits_code.is_(True))
    newest = in_database(office, waiting.order_by(WebSession.created_at.desc()).limit(1))[0]
    assert newest.expires_at <= utc_now() + timedelta(minutes=10)
    past = update(WebSession).where(WebSession.id == newest.id).values(expires_at=utc_now() - timedelta(seconds=1))
    in_database(office, past)
    assert give(browser, page, phone.code()).answer.url.path == "/sign-in"


@pytest.mark.parametrize("has_password", [True, False])
def test_links_ask_for_the_code_too(office: Office, has_password: bool) -> None:
    name = f"linked-{has_password}".lower()
    email, mine = with_password(office, name) if has_password else (newcomer(office, name), Browser(office.api))
    if not has_password:
        mine = Browser.of(office.api, email)
    phone, _ = turn_on(office, mine)
    browser = Browser(office.api)
    page = browser.use(link_for(office.api, email), **({"password": "one more horse battery"} if has_password else {}))
    assert page.answer.url.path == "/sign-in/code"
    assert browser.get("/account").answer.url.path == "/sign-in"
    assert give(browser, page, phone.code()).answer.url.path == "/organizations/Acme"


def test_an_invitation_waits_until_the_code_was_given(office: Office) -> None:
    email, mine = with_password(office, "asked-in")
    phone, _ = turn_on(office, mine)
    form = office.browsers["outsider"].get("/organizations/Elsewhere/members").forms["invite"]
    page = Page(office.browsers["outsider"].send(form, {"email": email, "role": "viewer"}))
    link = next(word for word in page.text.split() if "/links/" in word).removeprefix(office.api.url)
    browser = Browser(office.api)
    page = browser.use(link)
    page = Page(browser.send(page.forms["/sign-in"], {"email": email, "password": PASSWORD}))
    assert page.answer.url.path == "/sign-in/code"
    page = give(browser, page, phone.code())
    assert page.answer.url.path == link
    browser.send(page.forms[link])
    assert "Elsewhere" in browser.get("/").text


def test_it_is_turned_off_and_recovery_codes_are_made_anew_by_who_knows_the_password_or_has_a_code(
    office: Office,
) -> None:
    email, mine = with_password(office, "undecided")
    _, codes = turn_on(office, mine)
    form = mine.get(PAGE).forms["second-factor"]
    for action in ("codes", "off"):
        form.action = f"{PAGE}/{action}"
        refused = Page(mine.send(form, {"proof": "not the password"}))
        assert refused.answer.status_code == 400
        assert "neither your password nor a code" in refused.text
    form.action = f"{PAGE}/codes"
    page = Page(mine.send(form, {"proof": codes[0]}))
    fresh = re.findall(r"\b[a-z2-7]{4}(?:-[a-z2-7]{4}){3}\b", page.text)
    assert len(set(fresh) - set(codes)) == 10
    assert "10 recovery codes are left" in mine.get(PAGE).text
    form.action = f"{PAGE}/off"
    assert "It is off" in Page(mine.send(form, {"proof": PASSWORD})).text
    assert sign_in(Browser(office.api), email, PASSWORD).answer.url.path == "/organizations/Acme"
    log = [entry["action"] for entry in office.api.get(f"{ORG}/audit?actor={email}&action=second-factor")]
    assert log == ["second-factor.off", "second-factor.codes", "second-factor.on"]


@pytest.mark.parametrize("step", ["begin", "confirm", "codes", "off"])
def test_its_forms_are_of_who_is_signed_in(office: Office, step: str) -> None:
    stranger = Browser(office.api)
    token = stranger.get("/sign-in").forms["/sign-in"].fields["form_token"]
    answer = stranger.client.post(f"{PAGE}/{step}", data={"form_token": token})
    assert answer.url.path == "/sign-in"


def test_a_wrong_first_code_shows_the_same_secret_again(office: Office) -> None:
    browser = Browser.of(office.api, newcomer(office, "typing"))
    page = Page(browser.send(browser.get(PAGE).forms["begin"]))
    again = Page(browser.send(page.forms["confirm"], {"code": "000000"}))
    secrets = [re.findall(r"\b[A-Z2-7]{32}\b", each.text) for each in (page, again)]
    assert secrets[0] == secrets[1] != []
    assert "not the code of this moment" in again.text
    assert secrets[0][0] not in office.api.log()


def test_api_tokens_need_no_code_and_the_operator_turns_it_off(office: Office) -> None:
    email = newcomer(office, "lost-phone")
    token = office.api.token_of(email)
    turn_on(office, Browser.of(office.api, email))
    assert office.api.get("/v2/me", token=token)["email"] == email
    done = office.api.command("second-factor-off", "--email", email)
    assert done.stdout == f'{{"email": "{email}", "was_on": true}}\n', done.stderr
    newest = office.api.get(f"{ORG}/audit?limit=1")[0]
    assert (newest["action"], newest["actor"], newest["target"]) == ("second-factor.off", "system", email)
    assert Browser.of(office.api, email).get("/account").answer.url.path == "/account"
