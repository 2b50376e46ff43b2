"""The real nginx, as ``deploy/`` sets it up, before a real control plane: the dashboard by https, in a real browser."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from dataclasses import dataclass

import httpx
import pytest
from playwright.sync_api import BrowserContext

from bench.edge.certificate import Certificate, make_certificate
from tests.components import free_port
from tests.control_plane.dashboard.browsing import link_for
from tests.control_plane.dashboard.conftest import APP, MODEL, ORG
from tests.control_plane.running import OWNER, Api, running_api
from tests.servers.browser import playwright_chromium
from tests.servers.proxies import running_nginx_for_people

MANAGE = "/organizations/Acme/apps/Photos/models/faces"
LARGE = 3 * 1024 * 1024
"""More than nginx takes by default."""


@dataclass(frozen=True)
class Proxied:
    """A control plane that is reached by https.

    Args:
        api: itself.
        url: of nginx.
        certificate: of nginx.
    """

    api: Api
    url: str
    certificate: Certificate

    def client(self) -> httpx.Client:
        """Return a client that trusts nginx."""
        trusted = ssl.create_default_context(cafile=self.certificate.certificate)
        return httpx.Client(base_url=self.url, verify=trusted, trust_env=False)


@pytest.fixture(scope="module")
def proxied(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxied]:
    folder, nginx = tmp_path_factory.mktemp("control"), tmp_path_factory.mktemp("nginx")
    address = f"127.0.0.1:{free_port()}"
    settings = {
        "SKAFOS_CONTROL_PUBLIC_URL": f"https://{address}",
        "SKAFOS_CONTROL_TRUSTED_PROXIES": "127.0.0.1",
    }
    certificate = make_certificate(nginx)
    with (
        running_api(folder, f"sqlite:///{folder / 'test.sqlite3'}", **settings) as api,
        running_nginx_for_people(nginx, api.url.removeprefix("http://"), certificate, address),
    ):
        api.post(f"{ORG}/apps", {"name": "Photos", "bundle_id": "com.example.photos", "platform": "ios"})
        api.post(f"{APP}/models", {"name": "faces"})
        api.upload(MODEL, b"the first", "model.bin")
        yield Proxied(api, f"https://{address}", certificate)


@pytest.fixture
def signed_in(proxied: Proxied) -> Iterator[BrowserContext]:
    """The owner's Chromium, which takes the certificate for good."""
    link = link_for(proxied.api, OWNER)
    with playwright_chromium() as chromium:
        context = chromium.new_context(base_url=proxied.url, ignore_https_errors=True)
        page = context.new_page()
        page.goto(link)
        page.get_by_role("button").first.click()
        page.wait_for_url("**/organizations/**")
        yield context


def test_the_cookie_is_for_this_host_and_for_https_alone(proxied: Proxied, signed_in: BrowserContext) -> None:
    (cookie,) = signed_in.cookies()
    assert cookie["name"] == "__Host-skafos"
    assert (cookie["secure"], cookie["httpOnly"], cookie["sameSite"], cookie["path"]) == (True, True, "Lax", "/")
    # What is told under the other name, which any host nearby could set, signs nobody in.
    with proxied.client() as client:
        for name, status in (("__Host-skafos", 200), ("skafos", 303)):
            assert client.get("/account", headers={"Cookie": f"{name}={cookie['value']}"}).status_code == status


def test_people_change_things_and_are_told_of_changes(proxied: Proxied, signed_in: BrowserContext) -> None:
    page = signed_in.pages[0]
    page.goto(f"{MANAGE}/versions/1")
    page.get_by_label("Description").fill("by https")
    page.get_by_role("button", name="Save").click()
    page.get_by_text("by https").first.wait_for()
    # Another open page hears of what happens, without being loaded again: nothing holds back what it is told.
    watching = signed_in.new_page()
    watching.goto(f"{MANAGE}/deliveries")
    proxied.api.post(f"{MODEL}/deploy", {"version": 1, "environment": "prod"})
    watching.get_by_role("cell", name="deploy", exact=True).wait_for(timeout=20_000)


def test_large_models_pass_and_nobody_can_say_that_they_ask_from_elsewhere(proxied: Proxied) -> None:
    shown = {"X-API-TOKEN": proxied.api.owner, "X-Forwarded-For": "203.0.113.9"}
    with proxied.client() as client:
        begun = client.post(f"{MODEL}/model_versions", json={"filename": "model.bin"}, headers=shown).json()
        assert begun["presigned_url"].startswith(f"{proxied.url}/")
        assert client.put(begun["presigned_url"], content=bytes(LARGE)).status_code == 200
        version = f"{MODEL}/model_versions/{begun['model_version_id']}"
        made = client.patch(version, json={"filepath": begun["filepath"]}, headers=shown)
        assert made.is_success, made.text
        assert made.headers["Strict-Transport-Security"] == "max-age=31536000"
    newest = proxied.api.get(f"{ORG}/audit")[0]
    assert (newest["action"], newest["client"]) == ("version.upload", "127.0.0.1")
