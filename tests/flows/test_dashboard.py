"""The dashboard in Debian's Chromium, from signing up to a version that is rolled back, while a device updates."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import quote

import pytest
from playwright.sync_api import Browser, Page, Route, expect
from pyotp import TOTP

from skafos.device import DeviceClient
from tests.command import PATIENCE_SECONDS, ROOT
from tests.control_plane.running import Api
from tests.flows.running import Running, until
from tests.flows.whole_path import Releases
from tests.servers.browser import DROP, LAPTOP, Eyes, playwright_chromium
from tests.servers.openid import openid_provider
from tests.servers.redis import running_redis
from tests.servers.smtp import Mailbox, mail_server

APP, MODEL, ORGANIZATION = "In a browser", "voice", "Signed up"
PASSWORD = "five words are a password"


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    """A browser."""
    with playwright_chromium() as browser:
        yield browser


def link_of(skafos: Running, email: str) -> str:
    """Return a link that signs a user in, as an operator makes it."""
    environment = {**os.environ, "SKAFOS_DATA": str(skafos.data)}
    environment["SKAFOS_CONTROL_PUBLIC_URL"] = skafos.connection["control_url"]
    command = [sys.executable, "-m", "control_plane", "sign-in-link", "--email", email]
    done = subprocess.run(
        command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE_SECONDS, check=True
    )
    return str(json.loads(done.stdout)["sign_in_url"])


def new_page(chromium: Browser) -> Page:
    context = chromium.new_context(viewport={"width": LAPTOP["width"], "height": LAPTOP["height"]}, locale="en-US")
    context.set_default_timeout(PATIENCE_SECONDS * 1000)
    return context.new_page()


def shots() -> Path | None:
    """Return where pictures of pages are wanted."""
    return Path(os.environ["SKAFOS_TEST_SHOTS"]) if "SKAFOS_TEST_SHOTS" in os.environ else None


def come_in(page: Page, skafos: Running) -> None:
    """Sign the owner in by a link."""
    page.goto(link_of(skafos, "owner@example.org"))
    page.click("main button:has-text('Sign in')")
    expect(page.locator("h1")).to_have_text("Applications")


def upload(page: Page, file: Path, version: int) -> None:
    page.set_input_files("#upload-file", str(file))
    page.wait_for_url(f"**/versions/{version}")


def deploy(page: Page, environment: str, percent: str = "100") -> None:
    page.click("text=Deploy …")
    page.check(f"input[value={environment}]")
    page.fill("#deploy-percent", percent)
    page.click("text=Confirm & Deploy")


def sign_up(page: Page, mailbox: Mailbox, email: str, eyes: Eyes) -> None:
    """Make an account by the link in a mail, and an organization."""
    page.click("text=Sign up")
    page.fill("#email", email)
    page.click("text=Send it")
    expect(page.locator("h1")).to_have_text("Look at your mail")
    (link,) = re.findall(r"^http\S+$", mailbox.newest(email), re.MULTILINE)
    page.goto(link)
    eyes.look("link")
    page.fill("#password", PASSWORD)
    page.click("text=Make my account")
    page.click("text=Make an organization")
    page.fill("#organization-name", ORGANIZATION)
    page.click("button:has-text('Create')")
    expect(page.locator("h1")).to_have_text("Applications")


# What the chart of the version mix draws: the share of each version among the active devices.
MIX = """() => {
  const place = document.querySelector("#mix .chart");
  place?.scrollIntoView();
  const [view] = (place && typeof views !== "undefined" && views.get(place)) || [];
  if (!view) return null;
  const source = view.model.renderers[0].data_source;
  const [versions, shares] = [source.get_column("category"), source.get_column("s0")];
  return Object.fromEntries([...versions].map((version, at) => [version, shares[at]]));
}"""


# Hides the only line of a chart, as a click on its name does, and has the chart drawn from fresh figures.
HIDDEN_LINE_STAYS = """async () => {
  const place = document.querySelector("#devices .chart");
  await draw(place);
  for (const renderer of linesOf(place)[0].renderers) renderer.visible = false;
  await draw(place);
  return linesOf(place).map(isHidden);
}"""
# Goes to another tab and comes back; returns whether the page follows what happens, there and back.
LOOKED_AT = """() => [true, false].map((hidden) => {
  Object.defineProperty(document, "hidden", {value: hidden, configurable: true});
  document.dispatchEvent(new Event("visibilitychange"));
  return stream !== null;
})"""


def test_from_signing_up_to_a_roll_back_while_a_device_updates_and_the_chart_moves(
    skafos_up: Running, mails_of_up: Mailbox, chromium: Browser, silero: Releases, tmp_path: Path
) -> None:
    page = new_page(chromium)
    eyes = Eyes(page, shots())
    page.goto(skafos_up.connection["dashboard_url"])
    expect(page).to_have_url(re.compile("/sign-in"))
    eyes.look("sign-in")
    sign_up(page, mails_of_up, "newcomer@example.org", eyes)
    page.click("text=New application")
    page.fill("#app-name", APP)
    page.fill("#app-bundle_id", "two words")
    page.click("button:has-text('Create')")
    expect(page.locator("#app-bundle_id")).to_be_focused()
    eyes.look("refused")
    page.fill("#app-bundle_id", "com.example.browser")
    page.click("button:has-text('Create')")
    eyes.look("application")
    page.fill("#model-name", MODEL)
    page.click("button:has-text('Create')")
    expect(page.locator("h1")).to_have_text(MODEL)
    eyes.look("no-version")

    (first, *_), (second, *_) = silero
    page.fill("#upload-description", "the first")
    upload(page, first, 1)
    eyes.look("version")
    page.click("text=Deploy …")
    eyes.look("deploy")
    page.go_back()
    deploy(page, "prod")
    expect(page.locator(".notice.done")).to_have_text(f"Deployed {MODEL} in prod: version 1.")

    home = f"{skafos_up.connection['control_url']}/organizations/{quote(ORGANIZATION)}"
    model = page.url
    page.goto(f"{home}/apps/{quote(APP)}/environments")
    shown = "section:has(h2:text-is('{}')) .copied code"
    keys = {name: page.locator(shown.format(name)).inner_text() for name in ("dev", "prod")}
    page.goto(model)
    monitor = page.context.new_page()
    watching = Eyes(monitor)
    monitor.goto(f"{model}/monitor")
    expect(monitor.locator("h2")).to_have_text("No data yet")
    monitor.evaluate("window.neverLoadedAgain = true")

    def shows(version: int) -> None:
        until(lambda: monitor.evaluate(MIX) == {f"version {version}": 1}, f"version {version} in the open chart")

    with DeviceClient(skafos_up.edge_url, keys["prod"], tmp_path / "device") as device:
        until(lambda: device.sync(MODEL).version == 1, "version 1 on the device")
        upload(page, second, 2)
        shows(1)
        page.click("text=Compare …")
        expect(page.locator("h2").first).to_have_text("Version 1 and version 2")
        eyes.look("compare")
        page.go_back()
        deploy(page, "prod")
        eyes.look("manage")
        until(lambda: device.sync(MODEL).version == 2, "version 2 on the device")
        page.click("summary:has-text('Roll back')")
        eyes.look("roll-back")
        shows(2)
        page.click("button:has-text('Roll back prod')")
        expect(page.locator(".notice.done")).to_have_text(f"Rolled back {MODEL} in prod: version 1.")
        until(lambda: device.sync(MODEL).version == 1, "version 1 on the device again")
    shows(1)
    assert monitor.evaluate(HIDDEN_LINE_STAYS) == [True]
    assert monitor.evaluate(LOOKED_AT) == [False, True], "nothing is followed while nobody looks"
    assert monitor.evaluate("window.neverLoadedAgain")
    drawn = monitor.evaluate("[Bokeh.documents.length, views.size]")
    assert drawn[0] == drawn[1], "charts that were drawn before are not kept"
    assert watching.complaints == []
    monitor.close()

    page.click(".tabs >> text=Monitor")
    expect(page.locator(".chart canvas").first).to_be_visible()
    eyes.look("monitor")
    for tab in ("Deliveries", "Integrate"):
        page.click(f".tabs >> text={tab}")
        page.wait_for_load_state()
        eyes.look(tab.lower())
    assert_python_runs(page.locator("h2:text-is('Python') ~ pre").first.inner_text(), keys, tmp_path)
    app = f"apps/{quote(APP)}"
    for path in ("", "members", "audit", "works", "settings", f"{app}/environments", f"{app}/settings"):
        page.goto(f"{home}/{path}".rstrip("/"))
        eyes.look(path.replace("/", "-") or "applications")
    assert eyes.complaints == []


def assert_python_runs(code: str, keys: Mapping[str, str], folder: Path) -> None:
    """Run the code that the page shows, for the environment that has something."""
    code = code.replace(keys["dev"], keys["prod"])
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, env=environment, capture_output=True, text=True)
    assert Path(folder, done.stdout.strip()).exists(), done.stderr


def test_an_upload_goes_on_after_the_line_broke(skafos_up: Running, chromium: Browser, tmp_path: Path) -> None:
    skafos_up.skafos("apps", "create", "Broken line", "--bundle-id", "com.example.broken", "--platform", "ios")
    skafos_up.skafos("models", "create", "large", app="Broken line")
    file = tmp_path / "large.bin"
    file.write_bytes(os.urandom(20_000_000))
    page = new_page(chromium)
    come_in(page, skafos_up)
    model = f"/organizations/{skafos_up.organization}/apps/Broken%20line/models/large"
    page.goto(f"{skafos_up.connection['control_url']}{model}")
    sent: list[str] = []

    def break_once(route: Route) -> None:
        sent.append(route.request.headers.get("content-range", ""))
        if len(sent) == 2:
            route.abort()
        else:
            route.continue_()

    page.route("**/v2/uploads/**", break_once)
    upload(page, file, 1)
    assert sent[1].startswith("bytes 8388608-"), sent
    assert sent[2] == "bytes */20000000", "after the line broke it asks how much is there"
    (version,) = skafos_up.skafos("versions", app="Broken line", model="large")
    assert version["upload_length"] == 20_000_000


def test_a_folder_and_several_files_are_packed_as_the_command_packs_them(
    skafos_up: Running, chromium: Browser, tmp_path: Path
) -> None:
    app, organization = "Folders", skafos_up.organization
    skafos_up.skafos("apps", "create", app, "--bundle-id", "com.example.folders", "--platform", "ios")
    skafos_up.skafos("models", "create", "packed", app=app)
    folder = tmp_path / "Größe.mlpackage"
    (folder / "Data").mkdir(parents=True)
    (folder / "Manifest.json").write_text("{}")
    (folder / "Data" / "weights.bin").write_bytes(os.urandom(9_000_000))
    (folder / "Data" / "empty").write_bytes(b"")
    page = new_page(chromium)
    come_in(page, skafos_up)
    model = f"{skafos_up.connection['control_url']}/organizations/{organization}/apps/{app}/models/packed"
    page.goto(model)
    page.set_input_files("#upload-folder", str(folder))
    page.wait_for_url("**/versions/1")
    skafos_up.skafos("upload", str(folder), app=app, model="packed")
    page.goto(model)
    page.evaluate(DROP, [["b.txt", "second"], ["a.txt", "first"]])
    page.wait_for_url("**/versions/3")
    page.goto(model)
    page.evaluate(DROP, [["alone.bin", "as it is"]])
    page.wait_for_url("**/versions/4")
    browser, command, several, alone = skafos_up.skafos("versions", app=app, model="packed")
    names = ["Größe.mlpackage/Data/empty", "Größe.mlpackage/Data/weights.bin", "Größe.mlpackage/Manifest.json"]
    assert [file["name"] for file in browser["files"]] == names
    assert browser["artifact_sha256"] == command["artifact_sha256"]
    assert browser["name"] == "packed.zip"
    assert [(file["name"], file["length"]) for file in several["files"]] == [("a.txt", 5), ("b.txt", 6)]
    assert ([file["name"] for file in alone["files"]], alone["upload_length"]) == (["alone.bin"], 8)


def test_an_account_from_its_invitation_on(skafos_up: Running, chromium: Browser, tmp_path: Path) -> None:
    owner, guest = new_page(chromium), new_page(chromium)
    eyes = Eyes(guest)
    come_in(owner, skafos_up)
    owner.click("nav >> text=Members")
    owner.fill("#invite-email", "guest@example.org")
    owner.click("text=Make a link")
    guest.goto(owner.locator(".copied code").inner_text())
    eyes.look("invitation")
    guest.fill("#password", PASSWORD)
    guest.click("main button:has-text('Join')")
    expect(guest.locator("h1")).to_have_text("Applications")
    guest.goto(f"{skafos_up.connection['control_url']}/account")
    eyes.look("account")
    guest.fill("#token-name", "laptop")
    guest.click("text=Make a token")
    eyes.look("token")
    assert guest.locator(".copied code").inner_text().startswith("sk_")
    guest.click("text=Done")
    guest.click("text=Sign out everywhere")
    guest.fill("#email", "guest@example.org")
    guest.fill("#password", PASSWORD)
    guest.click("main button:has-text('Sign in')")
    expect(guest.locator("h1")).to_have_text("Applications")
    assert eyes.complaints == []


def test_somebody_signs_up_by_mail_and_comes_again_with_a_code(chromium: Browser, tmp_path: Path) -> None:
    page = new_page(chromium)
    eyes = Eyes(page, shots())
    # What is looked at elsewhere, or differs in a sentence, is looked at only for pictures.
    look_longer = eyes.look if shots() else lambda _name: None
    email, public = "fresh@example.org", "http://skafos.test"
    with mail_server() as mailbox, openid_provider() as provider, running_redis() as redis:
        settings = {
            "SKAFOS_SMTP_URL": f"smtp://127.0.0.1:{mailbox.port}",
            "SKAFOS_MAIL_FROM": "skafos@example.org",
            "SKAFOS_CONTROL_PUBLIC_URL": public,
            "SKAFOS_SIGN_UP": "open",
            "SKAFOS_OIDC_ISSUER": provider.issuer,
            "SKAFOS_OIDC_CLIENT_ID": "skafos",
            "SKAFOS_OIDC_CLIENT_SECRET": "secret",
            "SKAFOS_OIDC_NAME": "Example Accounts",
        }
        api = Api(tmp_path, f"sqlite:///{tmp_path / 'test.sqlite3'}", redis, settings)
        try:
            api.start()
            page.goto(api.url)
            look_longer("sign-in-ways")
            page.click("text=Forgot your password?")
            look_longer("forgotten")
            page.click("text=Back to signing in")
            page.click("text=Sign up")
            eyes.look("sign-up")
            page.fill("#email", email)
            page.click("text=Send it")
            expect(page.locator("h1")).to_have_text("Look at your mail")
            look_longer("sign-up-sent")
            (link,) = re.findall(rf"{public}(/links/\S+)", mailbox.newest(email))
            page.goto(f"{api.url}{link}")
            look_longer("sign-up-link")
            page.fill("#password", PASSWORD)
            page.click("text=Make my account")
            look_longer("no-organization")
            page.click("text=Make an organization")
            page.fill("#organization-name", "Fresh")
            page.click("button:has-text('Create')")
            page.goto(f"{api.url}/account")
            look_longer("account-tokens")
            page.click("text=Turn it on")
            look_longer("second-factor-off")
            page.fill("#proof", PASSWORD)
            page.click("button:has-text('Begin')")
            page.click("text=Without a camera")
            eyes.look("second-factor-secret")
            app = TOTP(page.locator(".copied code").inner_text())
            page.fill("#confirm-code", app.now())
            page.click("button:has-text('Turn it on')")
            expect(page.locator(".codes li")).to_have_count(10)
            eyes.look("second-factor-codes")
            page.goto(f"{api.url}/account/second-factor")
            look_longer("second-factor-on")
            page.click(".menu.right summary")
            page.click("button:has-text('Sign out')")
            page.fill("#email", email)
            page.fill("#password", PASSWORD)
            page.click("main button:has-text('Sign in')")
            expect(page.locator("h1")).to_have_text("One more step")
            eyes.look("code")
            page.fill("#code", app.at(datetime.now(UTC) + timedelta(seconds=30)))  # the one of now was used
            page.click("main button:has-text('Sign in')")
            expect(page.locator("h1")).to_have_text("Applications")
            page.click("nav >> text=Audit log")
            look_longer("audit-from-where")
        finally:
            api.stop()
    assert eyes.complaints == []
