"""Debian's Chromium, driven by Playwright: pages are looked at as people see them, and checked by axe."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, ConsoleMessage, Page, sync_playwright
from playwright.sync_api import TimeoutError as PlaywrightTimeout

from tests.components import find_program, require
from tests.servers.chromium import OPTIONS

LAPTOP = {"width": 1280, "height": 800}
PHONE = {"width": 375, "height": 800}
FITS_MILLISECONDS = 10_000
# What keeps somebody from using a page; axe's lesser findings are advice.
SERIOUS = ("serious", "critical")
# Drops files of these names and texts on the place for uploads.
DROP = """files => {
  const dropped = new DataTransfer();
  for (const [name, text] of files) dropped.items.add(new File([text], name));
  document.querySelector("[data-upload]").dispatchEvent(new DragEvent("drop", {dataTransfer: dropped}));
}"""
# In the dark only the colours are others.
_RULES = {"light": {}, "dark": {"runOnly": ["color-contrast"]}}


@contextmanager
def playwright_chromium() -> Iterator[Browser]:
    """Run Chromium within the block."""
    program = require("chromium", find_program("chromium") or find_program("chromium-headless-shell"))
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=list(OPTIONS))
        try:
            yield browser
        finally:
            browser.close()


class Eyes:
    """Somebody who looks at pages: in light and dark, on a laptop and on a phone, with a screen reader.

    Args:
        page: where they are.
        shots: a folder for pictures of all of it, or None.
    """

    def __init__(self, page: Page, shots: Path | None = None) -> None:
        self.page = page
        self.complaints: list[str] = []
        self._shots = shots
        self._axe = Axe()
        page.on("pageerror", lambda error: self.complaints.append(f"{page.url}: {error}"))
        page.on("console", self._hear)

    def look(self, name: str) -> None:
        """Look at the page; what is wrong with it is a complaint."""
        for scheme in ("light", "dark"):
            self.page.emulate_media(color_scheme="light" if scheme == "light" else "dark")
            self._picture(f"{name}-{scheme}")
            for found in self._axe.run(self.page, options=_RULES[scheme]).response["violations"]:
                if found["impact"] in SERIOUS:
                    self.complaints.append(f"{name}, {scheme}: {found['id']}: {found['nodes'][0]['html'][:200]}")
        self.page.emulate_media(color_scheme="light")
        for size in (PHONE, LAPTOP):
            self.page.set_viewport_size({"width": size["width"], "height": size["height"]})
            fits = "document.documentElement.scrollWidth <= document.documentElement.clientWidth"
            try:  # charts take their new size a moment later
                self.page.wait_for_function(fits, timeout=FITS_MILLISECONDS)
            except PlaywrightTimeout:
                self.complaints.append(f"{name}: wider than {size['width']} pixels")
            if size is PHONE:
                self._picture(f"{name}-phone")

    def _picture(self, name: str) -> None:
        if self._shots is not None:
            self.page.screenshot(path=self._shots / f"{name}.png", full_page=True)

    def _hear(self, message: ConsoleMessage) -> None:
        """Note what the browser complains of; a page that answers with an error on purpose is none of it."""
        if message.type in ("error", "warning") and "the server responded with a status of" not in message.text:
            self.complaints.append(f"{self.page.url}: {message.text}")
