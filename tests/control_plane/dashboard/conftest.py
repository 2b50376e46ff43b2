"""An organization with a member of each role, an application, a model and a version, and everybody's browsers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from tests.control_plane.dashboard.browsing import Browser
from tests.control_plane.running import ORGANIZATION, OWNER, Api, running_api

ORG = f"/v2/organizations/{ORGANIZATION}"
APP = f"{ORG}/apps/Photos"
MODEL = f"{APP}/models/faces"
MEMBERS = {"viewer": "viewer@example.org", "developer": "developer@example.org", "owner": OWNER}
OUTSIDER = "outsider@example.org"


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
