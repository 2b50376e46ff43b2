"""Every page, for everybody who may see it: that it is there, what it tells, and what bounds it."""

from __future__ import annotations

import ast
import re
import shlex
from datetime import timedelta
from typing import Any
from urllib.parse import quote

import pytest

from control_plane.accounts import Role
from control_plane.api.schemas import FileOut
from control_plane.dashboard.differences import compare_files
from control_plane.dashboard.table import PAGES
from control_plane.tables import utc_now
from manifests.edge_reports import EDGES, EdgeReport, EdgeReports
from manifests.redis_client import connect_redis
from tests.control_plane.dashboard.browsing import Browser, Page
from tests.control_plane.dashboard.conftest import MODEL, ORG, Office

# Of what a page may weigh; the largest is a list.
MAX_PAGE_BYTES = 500_000
PARTS = {"org": "Acme", "app": "Photos", "model": "faces", "version": "1"}
PATHS = [page.path for page in PAGES]
PHOTOS = "/organizations/Acme/apps/Photos"


@pytest.mark.parametrize("path", PATHS)
def test_a_page_shows_itself_to_an_owner_with_nothing_inline(office: Office, path: str) -> None:
    page = office.owner.get(path.format_map(PARTS))
    headers = page.answer.headers
    policy = headers["Content-Security-Policy"].split("; ")
    assert "script-src 'self'" in policy
    # Bokeh writes style elements; test_monitor.py looks at the page that allows them.
    assert "unsafe" not in "".join(part for part in policy if not part.startswith("style-src-elem"))
    assert headers["Cache-Control"] == "no-store"
    assert page.handlers == []
    assert all(source.startswith("/assets/") for source in page.scripts)
    assert "style=" not in page.answer.text
    assert len(page.answer.content) < MAX_PAGE_BYTES
    assert re.search(r"<title>[^<]+ · Skafos</title>", page.answer.text)


@pytest.mark.parametrize("path", [path for path in PATHS if "{org}" in path])
def test_who_belongs_to_another_organization_sees_none_of_it(office: Office, path: str) -> None:
    page = office.browsers["outsider"].get(path.format_map(PARTS), 404)
    assert "faces" not in page.text
    assert "There is no organization of this name" in page.text


@pytest.mark.parametrize("role", ["viewer", "developer"])
def test_each_role_sees_the_pages_that_the_table_says(office: Office, role: str) -> None:
    for page in PAGES:
        sees = page.access.role is None or page.access.role <= Role.of(role)
        office.browsers[role].get(page.path.format_map(PARTS), 200 if sees else 403)


@pytest.mark.parametrize("path", PATHS)
def test_a_stranger_is_led_to_sign_in(office: Office, path: str) -> None:
    assert Browser(office.api).get(path.format_map(PARTS)).answer.url.path == "/sign-in"


def test_every_link_of_every_page_leads_somewhere(office: Office) -> None:
    seen: set[str] = set()
    waiting = ["/organizations/Acme"]
    while waiting:
        page = office.owner.get(waiting.pop())
        for link in page.links:
            if link.startswith("/") and link not in seen and ".csv?" not in link:
                seen.add(link)
                waiting.append(link)
    assert {"/account", "/organizations/Acme/apps/Photos/models/faces/versions/1/deploy"} <= seen


def test_a_version_is_downloaded_from_its_page_by_members(office: Office) -> None:
    viewer = office.browsers["viewer"]
    (link,) = (link for link in viewer.get(f"{PHOTOS}/models/faces/versions/1").links if "download" in link)
    answer = viewer.client.get(link)
    assert answer.content == b"a model"
    assert answer.headers["Content-Type"] == "application/octet-stream"
    assert answer.headers["Content-Disposition"] == "attachment; filename*=UTF-8''model.bin"
    assert viewer.client.get(link, headers={"Range": "bytes=2-"}).content == b"model"
    office.browsers["outsider"].get(link, 404)
    assert Browser(office.api).get(link).answer.url.path == "/sign-in"


@pytest.mark.parametrize("host", [b"skafos:99999999", b"\xff"])
def test_a_request_to_no_host_is_refused_where_a_page_would_show_it(office: Office, host: bytes) -> None:
    answer = office.owner.client.get(f"{PHOTOS}/models/faces/integrate", headers=[(b"Host", host)])
    assert answer.status_code == 400
    assert "names no host" in answer.text


def test_the_works_tell_when_signatures_end(office: Office) -> None:
    page = office.browsers["viewer"].get("/organizations/Acme/works")
    assert re.search(r"Photos prod \d{4}-\d\d-\d\d \d\d:\d\d UTC 1 \d{4}-", page.text)
    assert "Uploads under way 0" in page.text
    office.api.post(f"{MODEL}/model_versions", {"filename": "begun.bin"})
    assert "Uploads under way 1" in office.owner.get("/organizations/Acme/works").text
    assert "Photos" not in office.browsers["outsider"].get("/organizations/Elsewhere/works").text


async def test_the_works_tell_which_edges_are_there_and_which_are_silent(office: Office) -> None:
    works = "/organizations/Acme/works"
    assert "No edge has reported within a day" in office.owner.get(works).text
    client: Any = connect_redis(office.api.redis.url)
    await EdgeReports(client).report(EdgeReport("here.example", "edge-0", "1.2.3", 1_700_000_000.0, 5))
    assert re.search(r"here.example/edge-0 1.2.3 2023-11-14 22:13 UTC [^<]{20} 5", office.owner.get(works).text)
    (edge,) = office.api.get(f"{ORG}/edges")
    assert (edge["name"], edge["silent"]) == ("here.example/edge-0", False)
    moment, _, text = (await client.hget(EDGES, "here.example/edge-0")).partition(b" ")
    await client.hset(EDGES, "here.example/edge-0", b"%d %b" % (int(moment) - 3600, text))
    assert "UTC : silent 5" in office.owner.get(works).text
    await client.delete(EDGES)
    await client.aclose()


def test_the_audit_log_is_filtered_by_days_and_saved(office: Office) -> None:
    at = "/organizations/Acme/audit"
    page = office.owner.get(at)
    assert "token test" in page.text, "the settings of the office were made with one"
    assert "127.0.0.1" in page.text
    today = utc_now().date()
    page = office.browsers["viewer"].get(f"{at}?action=model&since={today - timedelta(days=1)}&until={today}&actor=")
    assert "model.create" in page.text
    assert "member.add" not in page.text
    (link,) = [link for link in page.links if ".csv?" in link]
    assert office.owner.client.get(link).text.count("\r\n") == page.answer.text.count("<tr><td ") + 1
    assert "Nothing of the kind" in office.owner.get(f"{at}?until=2020-01-01").text
    assert "This is not a day" in office.owner.get(f"{at}?since=9999-99-99").text
    office.browsers["outsider"].get("/organizations/Acme/audit.csv", 404)


def test_an_application_begins_with_an_example_and_its_page_tells_what_to_type(office: Office) -> None:
    browser = office.browsers["developer"]
    form = browser.get("/organizations/Acme/new-app").forms["image-classification"]
    page = Page(browser.send(form))
    assert page.answer.url.path == "/organizations/Acme/apps/Digits/models/digits/integrate"
    assert "cd examples/image-classification" in page.text
    assert "The example" not in office.owner.get("/organizations/Acme/apps/Photos/models/faces/integrate").text
    assert "already has this name or this bundle ID" in Page(browser.send(form)).text
    office.api.delete(f"{ORG}/apps/Digits")


def test_what_is_to_be_typed_holds_names_that_a_shell_would_read_otherwise(office: Office) -> None:
    name = 'it\'s $HOME; "é" \\(x) <b>{y}'
    office.api.post(
        f"{ORG}/apps", {"name": name, "bundle_id": "com.example.shell", "platform": "ios", "first_model": name}
    )
    at = f"/organizations/Acme/apps/{quote(name, safe='')}"
    page = office.owner.get(f"{at}/models/{quote(name, safe='')}/integrate")
    line = re.search(r"skafos upload model.onnx .*? --deploy dev", page.text)
    assert line is not None
    words = ["upload", "model.onnx", "--org", "Acme", "--app", name, "--model", name, "--deploy", "dev"]
    assert shlex.split(line[0]) == ["skafos", *words]
    (literal,) = re.findall(r"device\.sync\((.+?)\) model", page.text)
    assert ast.literal_eval(literal) == name
    # Of what JSON escapes, Swift escapes the quotes and its own sign alone.
    assert 'static let model = "it\'s $HOME; \\"é\\" \\\\(x) <b>{y}"' in page.text
    office.api.delete(f"{ORG}/apps/{quote(name, safe='')}")


def test_two_versions_are_compared_file_by_file(office: Office) -> None:
    page = office.owner.get("/organizations/Acme/apps/Photos/models/faces/versions/2/compare")
    assert "Version 1 and version 2" in page.text
    assert "the first the second" in page.text
    assert "model.bin changed 7 bytes 14 bytes" in page.text
    same = office.owner.get("/organizations/Acme/apps/Photos/models/faces/versions/2/compare?with=2")
    assert "All files are the same." in same.text
    office.owner.get("/organizations/Acme/apps/Photos/models/faces/versions/2/compare?with=999", 404)


@pytest.mark.parametrize(
    ("before", "after", "change"),
    [(None, "a", "added"), ("a", None, "removed"), ("a", "b", "changed"), ("a", "a", "same")],
)
def test_what_became_of_a_file(before: str | None, after: str | None, change: str) -> None:
    def files(sha256: str | None) -> list[FileOut]:
        return [] if sha256 is None else [FileOut(name="weights.bin", length=1, sha256=sha256)]

    (difference,) = compare_files(files(before), files(after))
    assert (difference.name, difference.change) == ("weights.bin", change)


def test_a_page_that_is_not_there_says_so_in_words(office: Office) -> None:
    page = office.owner.get("/organizations/Acme/apps/None", 404)
    assert "There is nothing here" in page.text


def test_files_are_cached_for_ever_under_names_that_change_with_them(office: Office) -> None:
    page = office.owner.get("/account")
    (style,) = re.findall(r'href="(/assets/[^"]+css)"', page.answer.text)
    answer = office.owner.client.get(style)
    assert answer.headers["Content-Type"].startswith("text/css")
    assert "immutable" in answer.headers["Cache-Control"]
    assert office.owner.client.get(re.sub(r"/[0-9a-f]{16}/", "/0000000000000000/", style)).status_code == 404
