"""What goes by mail: another password, an invitation, an account of one's own; and what it tells to whom."""

from __future__ import annotations

import re

import pytest
from sqlalchemy import delete, update

from control_plane.sign_ins import FREE_MAILS_TO
from control_plane.tables import SignInFailure, utc_now
from tests.control_plane.dashboard.browsing import Browser, Page
from tests.control_plane.dashboard.conftest import ORG, PUBLIC, Post
from tests.control_plane.dashboard.people import PASSWORD, in_database
from tests.control_plane.running import OWNER


@pytest.fixture
def browser(post: Post, request: pytest.FixtureRequest) -> Browser:
    """A stranger's browser, at an address that no other test uses."""
    browser = Browser(post.api)
    number = abs(hash(request.node.name))
    browser.client.headers["X-Forwarded-For"] = f"10.{number % 256}.{number // 256 % 256}.{number // 65536 % 256}"
    return browser


def ask(browser: Browser, path: str, email: str, **headers: str) -> Page:
    form = browser.get(path).forms["by-mail"]
    return Page(browser.send(form, {"email": email}, headers=headers))


def member(post: Post, name: str) -> str:
    email = f"{name}@example.org"
    post.api.post(f"{ORG}/members", {"email": email, "role": "viewer"})
    return email


def test_a_forgotten_password_is_set_anew_by_a_link_in_a_mail(post: Post, browser: Browser) -> None:
    email = member(post, "forgetful")
    elsewhere = Browser.of(post.api, email)
    assert "/forgotten" in browser.get("/sign-in").links
    page = ask(browser, "/forgotten", "Forgetful@Example.org")
    assert f"If {email} has an account, a mail is on its way." in page.text
    link = post.link_to(email)
    newest = post.api.get(f"{ORG}/audit?limit=1")[0]
    assert (newest["action"], newest["actor"], newest["via"]) == ("link.mail", "not signed in", "browser")
    assert browser.use(link, password=PASSWORD).answer.url.path == "/organizations/Acme"
    assert elsewhere.get("/account").answer.url.path == "/sign-in"
    form = Browser(post.api).get("/sign-in").forms["/sign-in"]
    signed_in = Browser(post.api)
    form.fields["form_token"] = signed_in.get("/sign-in").forms["/sign-in"].fields["form_token"]
    assert signed_in.send(form, {"email": email, "password": PASSWORD}).url.path == "/organizations/Acme"


@pytest.mark.parametrize("path", ["/forgotten", "/sign-up"])
def test_the_page_tells_nobody_whether_there_is_an_account(post: Post, browser: Browser, path: str) -> None:
    known = member(post, f"known{path.replace('/', '-')}")
    unknown = f"unknown{path.replace('/', '-')}@example.org"
    pages = [ask(browser, path, email) for email in (known, unknown)]
    assert {page.answer.status_code for page in pages} == {200}
    texts = {page.text.replace(email, "…") for page, email in zip(pages, (known, unknown), strict=True)}
    assert len(texts) == 1
    if path == "/sign-up":
        assert "You have one: sign in." in post.mailbox.newest(known)
        assert "/links/" in post.mailbox.newest(unknown)
    else:
        assert "/links/" in post.mailbox.newest(known)
        assert not [each for each in post.mailbox.envelopes if each.rcpt_tos == [unknown]]


def test_links_in_mails_lead_where_the_setting_says_and_not_to_a_host_that_a_request_names(
    post: Post, browser: Browser
) -> None:
    email = member(post, "host")
    page = ask(browser, "/forgotten", email, Host="evil.example")
    assert page.answer.status_code == 200
    assert post.link_to(email)


@pytest.mark.parametrize("is_known", [True, False])
def test_nobody_is_flooded_with_mails(post: Post, browser: Browser, is_known: bool) -> None:
    email = member(post, "flooded") if is_known else "flooded-stranger@example.org"
    statuses = [ask(browser, "/forgotten", email).answer.status_code for _ in range(FREE_MAILS_TO)]
    assert statuses == [200] * FREE_MAILS_TO
    # Each wait is longer than the one before; the longest is long enough for the slowest machine.
    in_database(post, update(SignInFailure).values(failures=SignInFailure.failures + 10, last_at=utc_now()))
    try:
        page = ask(browser, "/sign-up", email)
        assert page.answer.status_code == 429
        assert "Too many mails were asked for." in page.text
        browser.client.headers["X-Forwarded-For"] = "192.0.2.1"
        assert ask(browser, "/forgotten", email).answer.status_code == 429, "it is counted for whom they are for"
        assert ask(browser, "/forgotten", "somebody-else@example.org").answer.status_code == 200
    finally:
        in_database(post, delete(SignInFailure))


def test_an_invitation_is_mailed_and_shown_all_the_same(post: Post, browser: Browser) -> None:
    owner = Browser.of(post.api, OWNER)
    form = owner.get("/organizations/Acme/members").forms["invite"]
    page = Page(owner.send(form, {"email": "guest@example.org", "role": "developer"}))
    assert "It is on its way to guest@example.org by mail." in page.text
    text = post.mailbox.newest("guest@example.org")
    assert f"{OWNER} invites you to Acme on Skafos, as developer." in text
    (url,) = re.findall(r"^http\S+$", text, re.MULTILINE)
    assert url in page.text
    assert browser.use(url.removeprefix(PUBLIC), password=PASSWORD).answer.url.path == "/organizations/Acme"


def test_a_mail_server_that_refuses_loses_no_invitation(post: Post, browser: Browser) -> None:
    post.mailbox.answers = ["550 not here"]
    made = post.api.post(f"{ORG}/invitations", {"email": "lost@example.org", "role": "viewer"})
    assert made["mailed"] is False
    link = made["url"].removeprefix(PUBLIC)
    assert browser.use(link, password=PASSWORD).answer.url.path == "/organizations/Acme"
    assert "not here" not in post.api.log()
    assert "lost@example.org" not in post.api.log()


def test_whoever_signs_up_makes_an_organization_of_their_own(post: Post, browser: Browser) -> None:
    email = "new@example.org"
    assert "/sign-up" in browser.get("/sign-in").links
    assert f"A mail to {email} is on its way." in ask(browser, "/sign-up", email).text
    link = post.link_to(email)
    assert "A password has 10 to 200 characters" in browser.use(link, password="short").text
    page = browser.use(link, password=PASSWORD)
    assert "You are in no organization yet" in page.text
    form = browser.get("/new-organization").forms["organization"]
    assert browser.send(form, {"name": "Start-up"}).url.path == "/organizations/Start-up"
    Browser(post.api).get(link, 404)


def test_a_link_to_sign_up_opens_no_account_that_is_there_by_now(post: Post, browser: Browser) -> None:
    ask(browser, "/sign-up", "late@example.org")
    link = post.link_to("late@example.org")
    member(post, "late")
    page = browser.use(link, password="a password of a thief")
    assert "You have an account by now" in page.text
    assert browser.get("/account").answer.url.path == "/sign-in"
