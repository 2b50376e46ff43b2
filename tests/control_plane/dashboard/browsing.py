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
from control_plane.one_time_links import Purpose, make_link
from control_plane.tables import utc_now
from tests.control_plane.running import Api

# Reading the system's authorities takes longer than most tests, and nothing here has a certificate.
_AUTHORITIES = ssl.create_default_context()
# Attributes that lead somewhere.
ADDRESSES = ("href", "src", "action", "formaction", "data-live", "data-chart", "data-upload")


@dataclass
class Form:
    """A form of a page.

    Args:
        id: its own.
        action: where it goes.
        method: how.
        fields: what it sends when nothing is filled in.
        controls: the type of each of its fields.
        aims: where its buttons go, if elsewhere.
    """

    id: str
    action: str
    method: str = "get"
    fields: dict[str, str] = field(default_factory=dict)
    controls: dict[str, str] = field(default_factory=dict)
    aims: list[str] = field(default_factory=list)


class Page(HTMLParser):
    """A page's forms, its links, what it says, and what it is made of."""

    def __init__(self, answer: httpx.Response) -> None:
        super().__init__()
        self.answer = answer
        self.forms: dict[str, Form] = {}
        self.links: list[str] = []
        self.scripts: list[str] = []
        self.handlers: list[str] = []
        self.tags: set[str] = set()
        self.addresses: list[str] = []
        self._words: list[str] = []
        self._form: Form | None = None
        self._select = ""
        self._reads_option = False
        self.feed(answer.text)

    @property
    def text(self) -> str:
        """What it says, its words apart by one space each."""
        return " ".join(self._words)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        named = {name: value or "" for name, value in attrs}
        self.tags.add(tag)
        self.handlers += [name for name in named if name.startswith("on")]
        self.addresses += [named[name] for name in ADDRESSES if name in named]
        if tag == "form":
            path = self.answer.url.raw_path.decode().partition("?")[0]
            self._form = Form(named.get("id", ""), named.get("action", path), named.get("method", "get"))
            self.forms[self._form.id or self._form.action] = self._form
        elif tag == "a":
            self.links.append(named.get("href", ""))
        elif tag == "script" and named.get("type") != "application/json":  # which is data
            self.scripts.append(named.get("src", ""))
        elif self._form is not None:
            self._read_control(self._form, tag, named)

    def _read_control(self, form: Form, tag: str, named: dict[str, str]) -> None:
        if tag == "button" and "formaction" in named:
            form.aims.append(named["formaction"])
        if tag in ("input", "textarea", "select"):
            form.controls[named["name"]] = named.get("type", "text") if tag == "input" else tag
        if tag == "input" and named.get("type") not in ("radio", "checkbox", "file"):
            form.fields[named["name"]] = named.get("value", "")
        elif tag == "select":
            self._select = named["name"]
        elif tag == "option" and ("selected" in named or self._select not in form.fields):
            form.fields[self._select] = named.get("value", "")
            self._reads_option = "value" not in named

    def handle_endtag(self, tag: str) -> None:
        if tag == "form":
            self._form = None

    def handle_data(self, data: str) -> None:
        self._words += data.split()
        if self._reads_option and self._form is not None:
            self._form.fields[self._select], self._reads_option = data, False


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


def link_for(api: Api, email: str, purpose: Purpose | None = None) -> str:
    """Return the path of a new link that signs a user in, as operators make it, or of one for another purpose."""

    async def make() -> str:
        database = Database(api.database_url)
        try:
            if purpose is None:
                return await sign_in_link(database, email)
            async with database.write() as session:
                return (await make_link(session, purpose, email, utc_now())).path
        finally:
            await database.close()

    return asyncio.run(make())
