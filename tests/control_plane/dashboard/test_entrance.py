"""Coming in: links that work once, passwords, how often they may be tried, and sessions that end."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
from sqlalchemy import delete, select, update

from control_plane.sign_ins import FREE_FOR_ACCOUNT
from control_plane.tables import OneTimeLink, SignInFailure, WebSession, utc_now
from tests.control_plane.dashboard.browsing import Browser, Page, link_for
from tests.control_plane.dashboard.conftest import ORG, Office
from tests.control_plane.dashboard.people import PASSWORD, in_database, newcomer, sign_in, with_password


def test_whoever_is_not_signed_in_is_led_to_sign_in_and_back(office: Office) -> None:
    email, _ = with_password(office, "back")
    stranger = Browser(office.api)
    page = stranger.get("/organizations/Acme/members?after=")
    assert page.answer.url.path == "/sign-in"
    form = page.forms["/sign-in"]
    answer = stranger.send(form, {"email": email, "password": PASSWORD})
    assert answer.url.raw_path == b"/organizations/Acme/members?after="


def test_a_link_works_once_and_looking_at_it_uses_nothing_up(office: Office) -> None:
    link = link_for(office.api, newcomer(office, "once"))
    for _ in range(3):
        Browser(office.api).get(link)
    browser = Browser(office.api)
    assert browser.use(link).answer.url.path == "/organizations/Acme"
    assert "has been used" in Browser(office.api).get(link, 404).text


def test_of_two_who_use_a_link_at_once_one_comes_in(office: Office) -> None:
    link = link_for(office.api, newcomer(office, "two"))
    browsers = [Browser(office.api) for _ in range(6)]
    forms = [browser.get(link).forms[link] for browser in browsers]
    with ThreadPoolExecutor() as pool:
        answers = list(pool.map(lambda pair: pair[0].send(pair[1]).status_code, zip(browsers, forms, strict=True)))
    assert sorted(answers) == [200, *[404] * 5]


def test_a_newer_link_ends_an_older_one_and_each_ends_with_its_hour(office: Office) -> None:
    email = newcomer(office, "late")
    older, newer = link_for(office.api, email), link_for(office.api, email)
    Browser(office.api).get(older, 404)
    Browser(office.api).get(newer)
    past = update(OneTimeLink).where(OneTimeLink.email == email).values(expires_at=utc_now() - timedelta(seconds=1))
    in_database(office, past)
    Browser(office.api).get(newer, 404)


def test_a_password_signs_in_and_a_wrong_one_says_no_more_than_an_unknown_address(office: Office) -> None:
    email, _ = with_password(office, "words")
    browser = Browser(office.api)
    refused = sign_in(browser, email, "wrong horse battery")
    unknown = sign_in(Browser(office.api), "nobody@example.org", "wrong horse battery")
    assert refused.answer.status_code == unknown.answer.status_code == 400
    sentence = "E-mail address and password do not belong together."
    assert sentence in refused.text
    assert sentence in unknown.text
    assert sign_in(browser, email, PASSWORD).answer.url.path == "/organizations/Acme"


def test_too_many_wrong_passwords_have_to_wait_and_the_right_one_too(office: Office) -> None:
    email, _ = with_password(office, "guessed")
    browser = Browser(office.api)
    statuses = [sign_in(browser, email, f"guess number {n}").answer.status_code for n in range(FREE_FOR_ACCOUNT)]
    assert statuses == [400] * FREE_FOR_ACCOUNT
    # Each wait is longer than the one before; the longest is long enough for the slowest machine.
    in_database(office, update(SignInFailure).values(failures=SignInFailure.failures + 10, last_at=utc_now()))
    page = sign_in(browser, email, PASSWORD)
    assert page.answer.status_code == 429
    assert "The next is possible in" in page.text
    earlier = update(SignInFailure).values(last_at=utc_now() - timedelta(minutes=20))
    in_database(office, earlier)
    assert sign_in(browser, email, PASSWORD).answer.url.path == "/organizations/Acme"


def test_a_hundred_tries_at_once_are_no_more_than_one_after_the_other(office: Office) -> None:
    email, _ = with_password(office, "flooded")
    browsers = [Browser(office.api) for _ in range(4 * FREE_FOR_ACCOUNT)]
    with ThreadPoolExecutor(len(browsers)) as pool:
        tries = pool.map(lambda browser: sign_in(browser, email, "the same guess").answer.status_code, browsers)
        statuses = sorted(tries)
    assert statuses.count(400) <= FREE_FOR_ACCOUNT + 1, statuses
    assert set(statuses) == {400, 429}
    in_database(office, delete(SignInFailure))


def test_whoever_knows_the_password_is_never_counted(office: Office) -> None:
    email, _ = with_password(office, "often")
    in_database(office, delete(SignInFailure))
    for _ in range(FREE_FOR_ACCOUNT + 2):
        assert sign_in(Browser(office.api), email, PASSWORD).answer.status_code == 200
    assert {row.failures for row in in_database(office, select(SignInFailure.failures))} <= {0}


def test_an_address_that_tries_many_accounts_has_to_wait_too(office: Office) -> None:
    browser = Browser(office.api)
    in_database(office, update(SignInFailure).values(failures=1000, last_at=utc_now()))
    try:
        assert sign_in(browser, "somebody-else@example.org", "some password").answer.status_code == 429
    finally:
        in_database(office, delete(SignInFailure))


def test_the_cookie_is_out_of_reach_of_scripts_and_other_sites(office: Office) -> None:
    email, _ = with_password(office, "cookie")
    browser = Browser(office.api)
    form = browser.get("/sign-in").forms["/sign-in"]
    answer = browser.send(form, {"email": email, "password": PASSWORD}, follow_redirects=False)
    assert {"HttpOnly", "SameSite=Lax", "Path=/"} <= set(answer.headers["Set-Cookie"].split("; "))
    hashes = [row.token_hash for row in in_database(office, select(WebSession.token_hash))]
    assert hashes
    assert browser.client.cookies["skafos"] not in hashes


def test_a_browser_may_call_itself_what_it_likes(office: Office) -> None:
    browser = Browser(office.api)
    link = link_for(office.api, newcomer(office, "foreign"))
    form = browser.get(link).forms[link]
    named = [(b"User-Agent", b"Gr\xfc\xdfe \xe2\x80\xae 1.0")]  # not in UTF-8, and then what turns the order round
    browser.client.post(link, data=form.fields, headers=named)
    assert "Gr\ufffd\ufffde \ufffd 1.0" in browser.get("/account").text


def test_signing_out_ends_the_session_and_not_only_the_cookie(office: Office) -> None:
    email, browser = with_password(office, "out")
    other = Browser(office.api)
    sign_in(other, email, PASSWORD)
    kept = browser.client.cookies["skafos"]
    browser.send(browser.get("/account").forms["/sign-out"])
    browser.client.cookies.set("skafos", kept)
    assert browser.get("/account").answer.url.path == "/sign-in"
    assert other.get("/account").answer.url.path == "/account"


def test_a_new_password_and_signing_out_everywhere_end_other_sessions(office: Office) -> None:
    email, browser = with_password(office, "everywhere")
    other = Browser(office.api)
    sign_in(other, email, PASSWORD)
    form = browser.get("/account").forms["password"]
    wrong = Page(browser.send(form, {"current_password": "not this one", "password": "another horse battery"}))
    assert "This is not your password." in wrong.text
    assert other.get("/account").answer.url.path == "/account"
    browser.send(form, {"current_password": PASSWORD, "password": "another horse battery"})
    assert other.get("/account").answer.url.path == "/sign-in"
    sign_in(other, email, "another horse battery")
    browser.send(browser.get("/account").forms["everywhere"])
    assert {each.get("/account").answer.url.path for each in (browser, other)} == {"/sign-in"}


def test_a_token_alone_cannot_set_a_first_password(office: Office) -> None:
    token = office.api.token_of(newcomer(office, "robot"))
    answer = office.api.call("PUT", "/v2/me/password", {"password": PASSWORD}, token=token)
    assert (answer.status_code, answer.json()["code"]) == (403, "needs_browser")


@pytest.mark.parametrize("password", ["short", "password123", "aaaaaaaaaaaaaaa", "weak@example.org"])
def test_a_password_that_others_would_try_first_is_refused(office: Office, password: str) -> None:
    if "weak@example.org" not in {member["email"] for member in office.api.get(f"{ORG}/members")}:
        newcomer(office, "weak")
    browser = Browser.of(office.api, "weak@example.org")
    page = Page(browser.send(browser.get("/account").forms["password"], {"password": password}))
    assert "Your password is set." not in page.text
    assert password not in page.answer.text.replace("weak@example.org", "") or password == "weak@example.org"


def test_whom_an_owner_invites_joins_with_a_password_and_the_role(office: Office) -> None:
    form = office.owner.get("/organizations/Acme/members").forms["invite"]
    page = Page(office.owner.send(form, {"email": "guest@example.org", "role": "developer"}))
    url = next(word for word in page.text.split() if "/links/" in word)
    link = url.removeprefix(office.api.url)
    assert "guest@example.org" in office.owner.get("/organizations/Acme/members").text
    guest = Browser(office.api)
    refused = guest.use(link, password="short")
    assert "A password has 10 to 200 characters" in refused.text
    assert guest.use(link, password=PASSWORD).answer.url.path == "/organizations/Acme"
    members = {member["email"]: member["role"] for member in office.api.get(f"{ORG}/members")}
    assert members["guest@example.org"] == "developer"
    assert office.api.get(f"{ORG}/invitations") == []
    assert sign_in(Browser(office.api), "guest@example.org", PASSWORD).answer.url.path == "/organizations/Acme"


def invitation(office: Office, email: str) -> str:
    """Return the path of an invitation into another organization, whose owner keeps it to themselves."""
    attacker = office.browsers["outsider"]
    form = attacker.get("/organizations/Elsewhere/members").forms["invite"]
    page = Page(attacker.send(form, {"email": email, "role": "viewer"}))
    return next(word for word in page.text.split() if "/links/" in word).removeprefix(office.api.url)


@pytest.mark.parametrize("has_password", [True, False])
def test_an_invitation_opens_no_account_that_is_there_already(office: Office, has_password: bool) -> None:
    name = f"victim-{has_password}".lower()
    email = with_password(office, name)[0] if has_password else newcomer(office, name)
    link = invitation(office, email)
    thief = Browser(office.api)
    page = thief.use(link, password="a password of the thief")
    assert page.answer.url.path == "/sign-in"
    assert thief.get("/account").answer.url.path == "/sign-in"
    if has_password:
        assert sign_in(Browser(office.api), email, "a password of the thief").answer.status_code == 400
    attacker = office.browsers["outsider"]
    assert f"The invitation is for {email}" in attacker.use(link).text
    # Whom it is for joins, once they are signed in.
    owner_of_it = Browser.of(office.api, email) if not has_password else Browser(office.api)
    if has_password:
        assert sign_in(owner_of_it, email, PASSWORD).answer.status_code == 200
    owner_of_it.use(link)
    assert "Elsewhere" in owner_of_it.get("/").text


def test_who_forgot_the_password_sets_another_with_a_link_of_the_operators(office: Office) -> None:
    email, browser = with_password(office, "forgetful")
    again = Browser(office.api)
    assert again.use(link_for(office.api, email), password="one more horse battery").answer.url.path.endswith("Acme")
    assert browser.get("/account").answer.url.path == "/sign-in", "whoever was signed in is not any more"
    assert sign_in(Browser(office.api), email, PASSWORD).answer.status_code == 400
    assert sign_in(Browser(office.api), email, "one more horse battery").answer.status_code == 200


def test_an_invitation_that_was_taken_back_works_no_more(office: Office) -> None:
    made = office.api.post(f"{ORG}/invitations", {"email": "nobody2@example.org", "role": "viewer"})
    link = made["url"].removeprefix(office.api.url)
    Browser(office.api).get(link)
    office.api.delete(f"{ORG}/invitations/{made['id']}")
    Browser(office.api).get(link, 404)


def test_a_session_that_is_not_used_ends(office: Office) -> None:
    _, browser = with_password(office, "idle")
    browser.get("/account")
    (newest,) = in_database(office, select(WebSession.id).order_by(WebSession.created_at.desc()).limit(1))
    past = utc_now() - timedelta(seconds=1)
    in_database(office, update(WebSession).where(WebSession.id == newest.id).values(expires_at=past))
    assert browser.get("/account").answer.url.path == "/sign-in"


def test_without_mail_pages_say_who_helps_and_nobody_signs_up(office: Office) -> None:
    browser = Browser(office.api)
    page = browser.get("/sign-in")
    assert "sign-in-link" in page.text
    assert not {"/forgotten", "/sign-up"} & set(page.links)
    token = page.forms["/sign-in"].fields["form_token"]
    for path, says in (("/forgotten", "sign-in-link"), ("/sign-up", "by invitation")):
        page = browser.get(path)
        assert says in page.text
        assert "by-mail" not in page.forms
        answer = browser.client.post(path, data={"form_token": token, "email": "a@example.org"})
        assert answer.status_code == 404
