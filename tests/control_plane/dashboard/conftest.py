"""An organization with a member of each role, an application, a model and a version, and everybody's browsers; and a
control plane that sends mails and knows people by another provider.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from tests.control_plane.dashboard.browsing import Browser
from tests.control_plane.running import ORGANIZATION, OWNER, Api, running_api
from tests.servers.openid import CLIENT_ID, CLIENT_SECRET, Provider, openid_provider
from tests.servers.smtp import Mailbox, mail_server

ORG = f"/v2/organizations/{ORGANIZATION}"
APP = f"{ORG}/apps/Photos"
MODEL = f"{APP}/models/faces"
MEMBERS = {"viewer": "viewer@example.org", "developer": "developer@example.org", "owner": OWNER}
OUTSIDER = "outsider@example.org"
PUBLIC = "http://skafos.test"


@dataclass(frozen=True)
class Office:
    """Who works there.

    Args:
        api: the control plane.
        browsers: of a member of each role, and of somebody who belongs to another organization.
    """

    api: Api
    browsers: dict[str, Browser]

    @property
    def owner(self) -> Browser:
        """The owner's browser."""
        return self.browsers["owner"]


@pytest.fixture(scope="package")
def office(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Office]:
    """A control plane that the tests of the dashboard share; they keep to things of their own."""
    folder = tmp_path_factory.mktemp("dashboard")
    with running_api(folder, f"sqlite:///{folder / 'test.sqlite3'}") as api:
        for role in ("viewer", "developer"):
            api.post(f"{ORG}/members", {"email": MEMBERS[role], "role": role})
        api.outsider("Elsewhere", OUTSIDER)
        api.post(f"{ORG}/apps", {"name": "Photos", "bundle_id": "com.example.photos", "platform": "ios"})
        api.post(f"{APP}/models", {"name": "faces"})
        api.upload(MODEL, b"a model", "model.bin", "the first")
        api.upload(MODEL, b"a better model", "model.bin", "the second")
        browsers = {role: Browser.of(api, email) for role, email in MEMBERS.items()}
        yield Office(api, browsers | {"outsider": Browser.of(api, OUTSIDER)})


@dataclass(frozen=True)
class Post:
    """A control plane that sends mails, where whoever likes signs up, by mail or at another provider."""

    api: Api
    mailbox: Mailbox
    provider: Provider

    def link_to(self, email: str) -> str:
        """Return the path of the link in the newest mail to somebody."""
        (url,) = re.findall(r"^http\S+$", self.mailbox.newest(email), re.MULTILINE)
        assert url.startswith(f"{PUBLIC}/links/")
        return str(url).removeprefix(PUBLIC)


def open_to_all(mailbox: Mailbox, provider: Provider, name: str) -> dict[str, str]:
    """Return the settings of a control plane that sends mails, and where whoever likes signs up.

    Args:
        mailbox: takes the mails.
        provider: knows people, too.
        name: of the provider.
    """
    return {
        "SKAFOS_SMTP_URL": f"smtp://127.0.0.1:{mailbox.port}",
        "SKAFOS_MAIL_FROM": "Skafos <skafos@example.org>",
        "SKAFOS_CONTROL_PUBLIC_URL": PUBLIC,
        "SKAFOS_SIGN_UP": "open",
        "SKAFOS_OIDC_ISSUER": provider.issuer,
        "SKAFOS_OIDC_CLIENT_ID": CLIENT_ID,
        "SKAFOS_OIDC_CLIENT_SECRET": CLIENT_SECRET,
        "SKAFOS_OIDC_NAME": name,
    }


@pytest.fixture(scope="package")
def post(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Post]:
    folder = tmp_path_factory.mktemp("post")
    with mail_server() as mailbox, openid_provider() as provider:
        settings = open_to_all(mailbox, provider, "Example Accounts")
        # Each test asks from an address of its own.
        settings["SKAFOS_CONTROL_TRUSTED_PROXIES"] = "127.0.0.1/32"
        with running_api(folder, f"sqlite:///{folder / 'test.sqlite3'}", **settings) as api:
            yield Post(api, mailbox, provider)
