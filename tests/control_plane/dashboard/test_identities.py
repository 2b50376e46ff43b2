"""Providers that know an account: listed, unlinked where there is another way in, and linked by coming again."""

from __future__ import annotations

from sqlalchemy import insert

from control_plane.tables import Identity
from tests.control_plane.dashboard.browsing import Browser, Page
from tests.control_plane.dashboard.conftest import ORG, Office, Post
from tests.control_plane.dashboard.people import PASSWORD, in_database, newcomer
from tests.control_plane.dashboard.test_openid import come, is_in

IDENTITIES = "/v2/me/identities"


def known_as(post: Post, name: str) -> tuple[str, Browser]:
    """Return the address of a member who has come from the provider, and their browser."""
    email = f"{name}@example.org"
    post.api.post(f"{ORG}/members", {"email": email, "role": "viewer"})
    browser = Browser(post.api)
    come(post, email, browser)
    return email, browser


def unlink(browser: Browser) -> Page:
    (form,) = [form for name, form in browser.get("/account").forms.items() if name.startswith("unlink-")]
    return Page(browser.send(form))


def test_a_provider_is_listed_unlinked_and_linked_again_by_coming_from_there(post: Post) -> None:
    email, browser = known_as(post, "listed-and-unlinked")
    page = browser.get("/account")
    assert f"Example Accounts {post.provider.issuer}" in page.text
    (identity,) = post.api.get(IDENTITIES, token=post.api.token_of(email))
    assert (identity["name"], identity["issuer"]) == ("Example Accounts", post.provider.issuer)
    assert "subject" not in page.answer.text
    page = unlink(browser)
    assert "Unlinked. Who signs in there with your address links it again." in page.text
    assert "None knows you yet. Sign in with Example Accounts once" in page.text
    assert is_in(browser), "who is in stays in"
    log = post.api.get(f"{ORG}/audit?actor={email}&action=identity.")
    assert [(entry["action"], entry["detail"], entry["via"]) for entry in log] == [
        ("identity.unlink", {"by": "Example Accounts"}, "browser"),
        ("identity.link", {"by": "Example Accounts"}, "browser"),
    ]
    # Who has another account there by now comes in with it, as long as the address is theirs.
    again = Browser(post.api)
    come(post, email, again, sub="another account there")
    assert is_in(again)
    assert f"Example Accounts {post.provider.issuer}" in again.get("/account").text


def test_nobody_unlinks_what_is_somebody_elses(post: Post) -> None:
    email, _ = known_as(post, "theirs")
    (identity,) = post.api.get(IDENTITIES, token=post.api.token_of(email))
    for there in (identity["id"], "0" * 32, "x"):
        answer = post.api.call("DELETE", f"{IDENTITIES}/{there}")
        assert (answer.status_code, answer.json()["code"]) == (404, "not_found")
    assert post.api.get(IDENTITIES, token=post.api.token_of(email)) == [identity]
    assert post.api.get(IDENTITIES) == []


def test_a_token_for_less_than_the_person_may_unlinks_nothing(post: Post) -> None:
    email, _ = known_as(post, "careful-token")
    bounded = {"name": "bounded", "role": "viewer"}
    token = post.api.post("/v2/tokens", bounded, token=post.api.token_of(email))["token"]
    for method, path in (("GET", IDENTITIES), ("DELETE", f"{IDENTITIES}/x")):
        answer = post.api.call(method, path, token=token)
        assert (answer.status_code, answer.json()["code"]) == (403, "scoped_token")


def test_without_mail_a_password_has_to_be_set_first(office: Office) -> None:
    email = newcomer(office, "alone")
    members = {each["email"]: each["id"] for each in office.api.get(f"{ORG}/members")}
    issuer = "https://accounts.example.org"  # which was set up once
    in_database(office, insert(Identity).values(issuer=issuer, subject="alone", user_id=members[email]))
    browser = Browser.of(office.api, email)
    page = browser.get("/account")
    assert f"not set up any more {issuer}" in page.text
    assert "To unlink it, set a password first" in page.text
    assert not [name for name in page.forms if name.startswith("unlink-")]
    (identity,) = office.api.get(IDENTITIES, token=office.api.token_of(email))
    assert (identity["name"], identity["issuer"]) == (None, issuer)
    answer = office.api.call("DELETE", f"{IDENTITIES}/{identity['id']}", token=office.api.token_of(email))
    assert (answer.status_code, answer.json()["code"]) == (409, "no_other_way")
    browser.send(page.forms["password"], {"password": PASSWORD})
    assert "Unlinked." in unlink(browser).text
    assert office.api.get(IDENTITIES, token=office.api.token_of(email)) == []
