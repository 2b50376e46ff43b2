"""The page on operating the edge says what the code does."""

from __future__ import annotations

import re
from pathlib import Path

from pydantic.fields import FieldInfo

from edge import certificates, refusals
from edge.settings import EdgeSettings

PAGE = (Path(__file__).parents[2] / "docs" / "edge.md").read_text()


def default_of(info: FieldInfo) -> str:
    if info.is_required():
        return "required"
    return "–" if info.default in (None, ()) else f"`{info.default}`"  # noqa: RUF001 - as the page writes it


def test_the_page_on_the_edge_lists_every_setting_with_its_default() -> None:
    listed = re.findall(r"^\| `(SKAFOS_\w+)` \| (.+?) \| (.+) \|$", PAGE, re.MULTILINE)
    assert listed == [
        (f"SKAFOS_{name.upper()}", default_of(info), info.description)
        for name, info in EdgeSettings.model_fields.items()
    ]


def test_the_page_on_the_edge_tells_its_numbers_as_they_are() -> None:
    assert f"looked at every {certificates.LOOK_SECONDS:g} seconds" in PAGE
    assert f"has {certificates.EXPIRES_SOON.days} days or less" in PAGE
    assert f"at most {refusals.LINES_A_MINUTE} lines a minute" in PAGE
    assert f"A handshake has {EdgeSettings.model_fields['edge_handshake_seconds'].default} seconds" in PAGE
