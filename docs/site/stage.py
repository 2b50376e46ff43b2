"""Lay out what the documentation site is built from: `python docs/site/stage.py FOLDER`.

The site's pages are the repository's own documents, in the places where they stand, so that a link means the same in
the site and on a code host. Links to folders lead to the page that stands for the folder, and files that are linked to
come along. Three pages are made: the list of decisions, and the API's routes and types (`reference.py`).
"""

from __future__ import annotations

import os
import re
import shutil
import sys
from fnmatch import fnmatch
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SITE = ROOT / "docs" / "site"
PAGES = (
    *("README.md", "ARCHITECTURE.md", "CHANGELOG.md", "CONTRIBUTING.md"),
    *("docs/*.md", "docs/adr/*.md", "deploy/README.md"),
    *("examples/README.md", "examples/*/README.md", "integrations/*/README.md"),
)
DECISIONS = "docs/adr/README.md"
# Which pages stand below another one in the table of contents.
BELOW = {"examples/README.md": "examples/*/README.md", "docs/training.md": "integrations/*/README.md"}

_LINK = re.compile(r"(?<=\]\()([^)\s#:]+)(#[^)\s]*)?(?=\))")
_FENCE = re.compile(r"^(```|~~~).*?^\1", re.MULTILINE | re.DOTALL)
_TITLE = re.compile(r"^# (.+)$", re.MULTILINE)


def pages() -> list[str]:
    """Return the documents that become pages, by their paths in the repository."""
    return sorted({path.relative_to(ROOT).as_posix() for pattern in PAGES for path in ROOT.glob(pattern)})


def decisions(titles: dict[str, str]) -> str:
    """Return the page that lists the decisions.

    Args:
        titles: of each record, by its file's name.
    """
    listed = "\n".join(f"- [{title}]({name})" for name, title in sorted(titles.items()))
    return f"# Decisions\n\nWhat was decided, with what was rejected and why.\n\n{listed}\n{tree(sorted(titles))}"


def tree(names: list[str]) -> str:
    """Return what puts pages below a page in the table of contents."""
    return "\n```{toctree}\n:hidden:\n\n" + "\n".join(name.removesuffix(".md") for name in names) + "\n```\n"


def linked(text: str, page: str, known: set[str]) -> tuple[str, set[str]]:
    """Return a page with links to folders led to pages, and the files beside pages that it links to.

    Args:
        text: of the page.
        page: its path in the repository.
        known: the paths of all pages.
    """
    files: set[str] = set()

    def led(found: re.Match[str]) -> str:
        target = os.path.normpath(os.path.join(os.path.dirname(page), found[1]))  # noqa: PTH118, PTH120 - no file is meant
        anchor = found[2] or ""
        if (ROOT / target).is_dir():
            target = _page_of(target, known)
            return os.path.relpath(target, os.path.dirname(page) or ".") + anchor  # noqa: PTH120
        if target not in known and (ROOT / target).is_file():
            files.add(target)
        return found[0]

    # What looks like a link inside of code is none.
    parts, end = [], 0
    for fence in _FENCE.finditer(text):
        parts += [_LINK.sub(led, text[end : fence.start()]), fence[0]]
        end = fence.end()
    return "".join([*parts, _LINK.sub(led, text[end:])]), files


def _page_of(folder: str, known: set[str]) -> str:
    """Return the page that stands for a folder: its own, else that of the nearest folder around it."""
    while (candidate := f"{folder}/README.md".removeprefix("./")) not in known:
        folder = os.path.dirname(folder) or "."  # noqa: PTH120
    return candidate


def stage(target: Path) -> None:
    """Write everything that the site is built from into a folder, which is emptied before."""
    from reference import routes_page, types_page

    shutil.rmtree(target, ignore_errors=True)
    texts = {page: (ROOT / page).read_text("utf-8") for page in pages()}
    titles = {Path(page).name: title[1] for page, text in texts.items() if (title := _TITLE.search(text))}
    texts["index.md"] = (SITE / "index.md").read_text("utf-8")
    texts[DECISIONS] = decisions({name: title for name, title in titles.items() if re.match(r"\d{4}-", name)})
    texts["docs/api-reference.md"], texts["docs/api-types.md"] = routes_page(), types_page()
    files: set[str] = set()
    for page, text in texts.items():
        staged, wanted = linked(text, page, set(texts))
        files |= wanted
        _write(target / page, staged + _below(page, texts))
    for file in files:
        (target / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / file, target / file)


def _below(page: str, texts: dict[str, str]) -> str:
    """Return the table of contents of a page that has others below it."""
    names = [f"/{other}" for other in sorted(texts) if page in BELOW and fnmatch(other, BELOW[page])]
    return tree(names) if names else ""


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, "utf-8")


if __name__ == "__main__":
    stage(Path(sys.argv[1]).resolve())
