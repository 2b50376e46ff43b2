"""The site as `make docs` left it, in Debian's Chromium: from its folder, and from a plain server."""

from __future__ import annotations

import functools
import http.server
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from tests.command import ROOT
from tests.components import require
from tests.servers.browser import Eyes, playwright_chromium

BUILT = ROOT / "build" / "docs" / "html"
# One of each kind: the first one, text, code, wide tables, a list, a page that is made.
PAGES = ("index", "docs/faq", "docs/integration", "docs/operations", "docs/adr/README", "docs/api-types")


class Quiet(http.server.SimpleHTTPRequestHandler):
    """Serves files, and tells nobody."""

    def log_message(self, format: str, *arguments: object) -> None:
        """Write nothing."""


@pytest.fixture(scope="module")
def site() -> Path:
    return require("the documentation site (make docs)", BUILT if (BUILT / "index.html").exists() else None)


@pytest.fixture
def page(site: Path) -> Iterator[Page]:
    with playwright_chromium() as chromium:
        page = chromium.new_page()
        asked: list[str] = []
        page.on("request", lambda request: asked.append(request.url))
        yield page
    assert [url for url in asked if not url.startswith(("file://", "data:", "http://127.0.0.1:"))] == []


def test_search_finds_words_in_a_folder(site: Path, page: Page) -> None:
    page.goto(f"{(site / 'search.html').as_uri()}?q=rollback")
    expect(page.locator("#search-results li a").filter(has_text="skafos rollback").first).to_be_visible()


@pytest.mark.skipif(os.environ.get("SKAFOS_LONG_TESTS") != "1", reason="axe takes its time: SKAFOS_LONG_TESTS=1")
def test_pages_are_readable_in_light_and_dark_on_a_phone_and_with_a_screen_reader(site: Path, page: Page) -> None:
    handler = functools.partial(Quiet, directory=str(site))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        eyes = Eyes(page)
        for name in PAGES:
            page.goto(f"http://127.0.0.1:{server.server_port}/{name}.html")
            eyes.look(name)
        server.shutdown()
    assert eyes.complaints == []
