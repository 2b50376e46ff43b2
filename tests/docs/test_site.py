"""The documentation site: what it is laid out from, the pages that are made, and what its links are held to."""

from __future__ import annotations

import re
import runpy
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from control_plane.api.openapi import document
from control_plane.api.table import ROUTES
from tests.command import ROOT

SITE = ROOT / "docs" / "site"


@pytest.fixture
def program(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], dict[str, Any]]:
    monkeypatch.setattr(sys, "path", [str(SITE), *sys.path])
    return lambda name: runpy.run_path(str(SITE / name))


def test_every_document_is_a_page_and_is_found_from_the_first_one(
    program: Callable[[str], dict[str, Any]], tmp_path: Path
) -> None:
    program("stage.py")["stage"](tmp_path)
    pages = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.md")}
    wanted = {path.relative_to(ROOT).as_posix() for path in (ROOT / "docs").rglob("*.md") if SITE not in path.parents}
    assert wanted | {"README.md", "ARCHITECTURE.md", "CHANGELOG.md", "CONTRIBUTING.md", "deploy/README.md"} <= pages
    found, waiting = set(), ["index.md"]
    while waiting:
        page = waiting.pop()
        found.add(page)
        for tree in re.findall(r"```\{toctree\}\n(?::[^\n]*\n)*\n(.*?)```", (tmp_path / page).read_text(), re.DOTALL):
            names = re.findall(r"([\w./-]+)>?$", tree, re.MULTILINE)
            paths = [name[1:] if name.startswith("/") else (Path(page).parent / name).as_posix() for name in names]
            waiting += [f"{path}.md" for path in paths]
    assert found == pages


def test_links_to_folders_lead_to_their_pages_and_files_come_along(program: Callable[[str], dict[str, Any]]) -> None:
    linked = program("stage.py")["linked"]
    known = {"README.md", "deploy/README.md", "docs/adr/README.md", "docs/edge.md"}
    text = (
        "[a](../deploy/) [b](../deploy/systemd/) [c](adr/) [d](../LICENSE) [e](edge.md#x)\n```\n[f](../deploy/)\n```\n"
    )
    assert linked(text, "docs/edge.md", known) == (
        "[a](../deploy/README.md) [b](../deploy/README.md) [c](adr/README.md) [d](../LICENSE) [e](edge.md#x)\n"
        "```\n[f](../deploy/)\n```\n",
        {"LICENSE"},
    )


def test_the_reference_has_every_route_and_every_type(program: Callable[[str], dict[str, Any]]) -> None:
    made = program("reference.py")
    routes, types = made["routes_page"](), made["types_page"]()
    listed = re.findall(r"^### (\w+) (\S+)$", routes, re.MULTILINE)
    assert sorted(listed) == sorted((route.method, route.path) for route in ROUTES)
    assert re.findall(r"^## (\w+)$", types, re.MULTILINE) == sorted(document(ROUTES)["components"]["schemas"])


@pytest.mark.parametrize(
    ("html", "wrong"),
    [
        ('<a href="b.html#there">b</a> <a href="#here" id="here">a</a> <a href="https://example.org/x#y">c</a>', None),
        ('<a href="missing.html">b</a>', "there is no such file"),
        ('<a href="b.html#gone">b</a>', "there is no such anchor"),
        ('<a href="#gone">b</a>', "there is no such anchor"),
        ('<a href="https://">b</a>', "is no address"),
        ('<a href="javascript:alert(1)">b</a>', "is no address"),
        ('<img src="missing.png">', "there is no such file"),
        ('<script src="https://cdn.example.org/x.js"></script>', "is loaded from elsewhere"),
        ('<link rel="stylesheet" href="//fonts.example.org/x.css">', "is loaded from elsewhere"),
    ],
)
def test_a_link_that_leads_nowhere_and_a_thing_from_elsewhere_are_found(
    program: Callable[[str], dict[str, Any]], tmp_path: Path, html: str, wrong: str | None
) -> None:
    (tmp_path / "a.html").write_text(html)
    (tmp_path / "b.html").write_text('<h1 id="there">b</h1>')
    found = program("check_links.py")["check"](tmp_path)
    assert [sentence.rsplit(": ", 1)[-1] for sentence in found] == ([wrong] if wrong else [])


def test_a_style_sheet_that_loads_a_font_from_elsewhere_is_found(
    program: Callable[[str], dict[str, Any]], tmp_path: Path
) -> None:
    (tmp_path / "a.html").write_text("")
    (tmp_path / "a.css").write_text('@font-face { src: url("https://fonts.example.org/x.woff2") } a { color: red }')
    assert program("check_links.py")["check"](tmp_path) == [
        "a.css: https://fonts.example.org/x.woff2: is loaded from elsewhere"
    ]
