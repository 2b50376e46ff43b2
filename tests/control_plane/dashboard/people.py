"""People who come to work in the office, with and without a password; and what somebody with the database can do."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from sqlalchemy import Executable, Select

from control_plane.database import Database
from tests.control_plane.dashboard.browsing import Browser, Page
from tests.control_plane.dashboard.conftest import ORG, Office, Post

PASSWORD = "correct horse battery"


def newcomer(office: Office | Post, name: str) -> str:
    """Return the address of a new member."""
    email = f"{name}@example.org"
    office.api.post(f"{ORG}/members", {"email": email, "role": "viewer"})
    return email


def with_password(office: Office | Post, name: str) -> tuple[str, Browser]:
    """Return the address of a new member who has set a password, and the browser that they did it with."""
    email = newcomer(office, name)
    browser = Browser.of(office.api, email)
    page = Page(browser.send(browser.get("/account").forms["password"], {"password": PASSWORD}))
    assert "Your password is set." in page.text
    return email, browser


def sign_in(browser: Browser, email: str, password: str) -> Page:
    form = browser.get("/sign-in").forms["/sign-in"]
    return Page(browser.send(form, {"email": email, "password": password}))


def in_database(office: Office | Post, statement: Executable) -> Sequence[Any]:
    """Carry a statement out, behind everybody's back; return the rows of a question."""
    return execute(office.api.database_url, statement)


def execute(database_url: str, statement: Executable) -> Sequence[Any]:
    """Do the same in the database at a URL."""

    async def run() -> Sequence[Any]:
        database = Database(database_url)
        try:
            async with database.write() as session:
                result = await session.execute(statement)
                return result.all() if isinstance(statement, Select) else []
        finally:
            await database.close()

    return asyncio.run(run())
