"""Addresses of pages and forms: every part is quoted, and where to go on stays within the dashboard."""

from __future__ import annotations

from typing import Final
from urllib.parse import quote

# Longer than the longest page's: names are bounded.
MAX_LENGTH: Final = 2000
HOME: Final = "/"


def address(*parts: object) -> str:
    """Return the path of these parts, each quoted whole."""
    return "/" + "/".join(quote(str(part), safe="") for part in parts)


def local(text: str | None, default: str = HOME) -> str:
    """Return a path on this site that a form or an address names, or the default if it is none.

    A browser takes `//host` and `/\\host` for another host (WHATWG URL, section 4.4), and drops tabs and line ends.
    """
    if text is None or len(text) > MAX_LENGTH or not text.startswith("/") or not text.isprintable():
        return default
    return default if text[1:2] in ("/", "\\") else text
