"""Check the built site: `python docs/site/check_links.py FOLDER`.

Every link leads to a file of the site, and every `#anchor` to something in it. Nothing is loaded from elsewhere: no
script, style, font or picture. Links to other sites are looked at in form only, because builds have no network.
"""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

# Attributes that load what they name, as the page opens.
LOADING = {
    "script": "src",
    "img": "src",
    "source": "src",
    "iframe": "src",
    "video": "src",
    "audio": "src",
    "link": "href",
}
ELSEWHERE = "is loaded from elsewhere"
# A style sheet that loads another one, or a font.
_STYLE = re.compile(r"""(?:@import\s+|url\()\s*["']?((?:https?:)?//[^"')\s]+)""")


@dataclass
class Page(HTMLParser):
    """The links and anchors of one page."""

    anchors: set[str] = field(default_factory=set)
    links: list[str] = field(default_factory=list)
    loaded: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__(convert_charrefs=True)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.anchors |= {value for name in ("id", "name") if (value := given.get(name))}
        if tag == "a" and (target := given.get("href")):
            self.links.append(target)
        if (source := given.get(LOADING.get(tag, ""))) and given.get("rel") != "canonical":
            self.loaded.append(source)


def check(site: Path) -> list[str]:
    """Return what is wrong, a sentence each."""
    pages = {path.resolve(): _read(path) for path in sorted(site.rglob("*.html"))}
    wrong = [] if pages else [f"{site} has no page"]
    for path, page in pages.items():
        name = path.relative_to(site.resolve())
        faults = {target: _fault(path, target, pages) for target in page.links}
        faults |= {target: _elsewhere(target) or _fault(path, target, pages) for target in page.loaded}
        wrong += [f"{name}: {target}: {fault}" for target, fault in faults.items() if fault]
    for sheet in site.rglob("*.css"):
        wrong += [f"{sheet.name}: {found}: {ELSEWHERE}" for found in _STYLE.findall(sheet.read_text("utf-8"))]
    return wrong


def _read(path: Path) -> Page:
    page = Page()
    page.feed(path.read_text("utf-8"))
    return page


def _elsewhere(target: str) -> str | None:
    return ELSEWHERE if urlsplit(target).scheme not in ("", "data") or target.startswith("//") else None


def _fault(path: Path, target: str, pages: dict[Path, Page]) -> str | None:
    parts = urlsplit(target)
    if parts.scheme in ("data", "mailto"):
        return None
    if parts.scheme or parts.netloc:
        return None if parts.scheme in ("http", "https") and parts.hostname else "is no address"
    found = (path.parent / unquote(parts.path)).resolve() if parts.path else path
    if not found.is_file():
        return "there is no such file"
    anchor = unquote(parts.fragment)
    if anchor and found in pages and anchor not in pages[found].anchors:
        return "there is no such anchor"
    return None


def main() -> int:
    """Print what is wrong, and return whether anything is."""
    site = Path(sys.argv[1])
    wrong = check(site)
    for sentence in wrong:
        print(sentence, file=sys.stderr)
    if not wrong:
        print(
            f"{len(list(site.rglob('*.html')))} pages: every link leads somewhere, and nothing is loaded from elsewhere"
        )
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main())
