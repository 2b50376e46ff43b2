"""A browser without scripts: it keeps its cookie, reads a page's forms, and sends one back as a person filled it in."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from html.parser import HTMLParser
from typing import Any

import httpx

from control_plane.bootstrap import sign_in_link
from control_plane.database import Database
from tests.control_plane.running import Api

# Reading the system's authorities takes longer than most tests, and nothing here has a certificate.
_AUTHORITIES = ssl.create_default_context()


@dataclass
class Form:
    """A form of a page.

    Args:
        id: its own.
        action: where it goes.
        fields: what it sends when nothing is filled in.
    """

    id: str
    action: str
    fields: dict[str, str] = field(default_factory=dict)


class Page(HTMLParser):
    """A page's forms, its links, and what it says."""

    def __init__(self, answer: httpx.Response) -> None:
        super().__init__()
        self.answer = answer
        self.forms: dict[str, Form] = {}
        self.links: list[str] = []
        self.scripts: list[str] = []
        self.handlers: list[str] = []
        self.text = ""
        self._form: Form | None = None
        self.feed(answer.text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        named = {name: value or "" for name, value in attrs}
        self.handlers += [name for name in named if name.startswith("on")]
        if tag == "form":
            self._form = Form(named.get("id", ""), named.get("action", self.answer.url.path))
            self.forms[self._form.id or self._form.action] = self._form
        elif tag == "a":
            self.links.append(named.get("href", ""))
        elif tag == "script" and named.get("type") != "application/json":  # which is data
            self.scripts.append(named.get("src", ""))
        elif tag == "input" and self._form is not None and named.get("type") not in ("radio", "checkbox", "file"):
            self._form.fields[named["name"]] = named.get("value", "")

    def handle_endtag(self, tag: str) -> None:
        if tag == "form":
            self._form = None

    def handle_data(self, data: str) -> None:
        self.text = " ".join([*self.text.split(), *data.split()])


class Browser:
    """Somebody's browser.

    Args:
        api: the control plane that it looks at.
    """

    def __init__(self, api: Api) -> None:
        self.api = api
        self.client = httpx.Client(
            base_url=api.url, timeout=60.0, trust_env=False, verify=_AUTHORITIES, follow_redirects=True
        )

    @classmethod
    def of(cls, api: Api, email: str) -> Browser:
        """Return the browser of a user, signed in by a link."""
        browser = cls(api)
        browser.use(link_for(api, email))
        return browser

    def get(self, path: str, status: int = 200) -> Page:
        """Return a page."""
        answer = self.client.get(path)
        assert answer.status_code == status, answer.text
        return Page(answer)

    def send(self, form: Form, values: Mapping[str, Any] | None = None, **more: Any) -> httpx.Response:
        """Send a form, filled in, and return where it leads."""
        return self.client.post(form.action, data={**form.fields, **(values or {})}, **more)

    def use(self, link: str, **values: str) -> Page:
        """Use a link that signs in."""
        form = self.get(link).forms[link]
        return Page(self.send(form, values))

    def form_token(self) -> str:
        """Return what the forms of this browser's pages send back."""
        return next(form for form in self.get("/account").forms.values()).fields["form_token"]

    def call(self, method: str, path: str, body: Any = None, **headers: str) -> httpx.Response:
        """Call a route of the management API through the door, as a script of the dashboard does."""
        shown = {"X-Form-Token": self.form_token(), "Content-Type": "application/json", **headers}
        return self.client.post(f"/do/{method.lower()}{path}", json=body, headers=shown, follow_redirects=False)


def link_for(api: Api, email: str) -> str:
    """Return the path of a new link that signs a user in."""

    async def make() -> str:
        database = Database(api.database_url)
        try:
            return await sign_in_link(database, email)
        finally:
            await database.close()

    return asyncio.run(make())
