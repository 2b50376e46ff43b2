"""The protocol's document says what the code does: its routes, its codes, its limits."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, cast

import pytest

from edge import body, check, connections, download, errors, intake
from edge.body import MAX_GZIP_MEMBERS, MAX_ZSTD_WINDOW_LOG
from edge.connections import MAX_FIELD_BYTES, MAX_HEADERS
from edge.dictionary import LARGEST_WINDOW, VARY, WINDOW_OF_ALL, prologue
from edge.intake import MAX_DEVICE_BYTES
from edge.manifest_cache import MAX_DOCUMENT_BYTES
from edge.ranges import MAX_RANGES, MERGE_GAP
from edge.routes import device_app
from edge.settings import EdgeSettings
from manifests.model import MAX_ENCODINGS, MAX_RELEASES, Encoding
from manifests.trust import MAX_MANIFEST_BYTES
from telemetry.events import (
    EVENT_TYPES,
    MAX_BATCH_BYTES,
    MAX_ERROR_CHARS,
    MAX_EVENTS_PER_BATCH,
    MAX_NAME_CHARS,
    MAX_REASONS_PER_BATCH,
    Event,
)
from telemetry.registrations import MAX_FACT_CHARS, MAX_FACTS, MAX_PUSH_TOKEN_CHARS

ROOT = Path(__file__).parents[2]
DOCUMENT = (ROOT / "docs" / "protocol.md").read_text()


def section(number: int) -> str:
    """Return the text of one section."""
    return DOCUMENT.split(f"\n## {number}. ")[1].split("\n## ")[0]


def rows(text: str) -> list[list[str]]:
    """Return the cells of every table row, without headings."""
    lines = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line] for line in lines]


def setting(name: str) -> Any:
    return EdgeSettings.model_fields[name].default


def test_every_route_is_told() -> None:
    unused = cast("Any", type("Handlers", (), {"__getattr__": lambda *_: _handler})())
    app = device_app(unused, unused, unused, unused)
    served = {(route.method, route.resource.canonical) for route in app.router.routes() if route.resource}
    told = {(row[0], row[1].strip("`")) for row in rows(section(2)) if row[0] in ("GET", "PUT", "POST")}
    assert {pair for pair in served if pair[0] != "HEAD"} == told
    assert {path for method, path in served if method == "HEAD"} == {path for method, path in told if method == "GET"}


async def _handler(_: object) -> Any:
    raise NotImplementedError


def test_every_code_is_told_and_exists() -> None:
    told = {row[1].strip("`") for row in rows(section(10)) if row[0].isdigit()}
    assert {row[0] for row in rows(section(10)) if row[0].isdigit()} >= {str(n) for n in errors.HTTP_STATUS.values()}
    sources = "".join(path.read_text() for path in (ROOT / "edge").glob("*.py"))
    sources += (ROOT / "telemetry" / "events.py").read_text()
    for code in told:
        assert f'"{code}"' in sources, code
    given = re.findall(r'default_code = "(\w+)"', sources) + re.findall(r'^    code = "(\w+)"', sources, re.MULTILINE)
    unused = {"error", "invalid"}  # of base classes that are never raised without a code of their own
    assert set(given) - unused <= told
    assert {code for _, code in connections._WORDS.values()} <= told
    assert all(module.__doc__ for module in (body, check, download, intake))


@pytest.mark.parametrize(
    ("what", "limit"),
    [
        ("manifest body", MAX_MANIFEST_BYTES),
        ("manifest body", MAX_DOCUMENT_BYTES),
        ("releases in a manifest", MAX_RELEASES),
        ("encodings of a release", MAX_ENCODINGS),
        ("events in a batch", MAX_EVENTS_PER_BATCH),
        ("body of a request, as sent and unpacked", setting("edge_max_body_bytes")),
        ("body of a request, as sent and unpacked", MAX_BATCH_BYTES),
        ("window of a zstd body", 1 << MAX_ZSTD_WINDOW_LOG),
        ("members of a gzip body", MAX_GZIP_MEMBERS),
        ("reasons told for refused events", MAX_REASONS_PER_BATCH),
        ("characters of a name in an event", MAX_NAME_CHARS),
        ("characters of an event's error", MAX_ERROR_CHARS),
        ("facts of a registration", MAX_FACTS),
        ("characters of a fact", MAX_FACT_CHARS),
        ("characters of a push token", MAX_PUSH_TOKEN_CHARS),
        ("body of a registration, as sent and unpacked", MAX_DEVICE_BYTES),
        ("ranges in a request", MAX_RANGES),
        ("window of a patch as `dcz` with a small dictionary, below", WINDOW_OF_ALL),
        ("window of a patch as `dcz`, below", LARGEST_WINDOW),
        ("header fields of a request", MAX_HEADERS),
        ("bytes of a header field or request line", MAX_FIELD_BYTES),
    ],
)
def test_every_limit_is_told_as_it_is(what: str, limit: int) -> None:
    told = {row[0]: row[1] for row in rows(section(11))}
    assert told[what].split()[0] == f"{limit:,}"


def test_the_times_and_the_gap_are_told_as_they_are() -> None:
    assert f"after {setting('edge_keepalive_seconds'):g} seconds" in section(11)
    assert f"a body has {setting('edge_body_seconds'):g} seconds" in section(11)
    assert f"256 KiB of an answer in {setting('edge_stall_seconds'):g} seconds" in section(11)
    assert f"within {MERGE_GAP} bytes" in section(6)


def test_what_standard_clients_get_is_told_as_it_is() -> None:
    route = "/v2/environments/{key}/models/{model}/versions/{version}/artifact"
    assert any(row[1].strip("`") == route for row in rows(section(2)))
    assert f'match="{route.replace("{version}", "*")}"' in section(6)
    assert f"`Vary: {VARY}`" in section(6)
    assert f"`{prologue(Encoding('zstd-prefix', '0' * 64, 1, '0' * 64))[:8].hex(' ')}`" in section(6)


def test_every_field_and_type_of_an_event_is_told() -> None:
    told = {name for row in rows(section(8)) for name in re.findall(r"`(\w+)`", row[0])}
    assert told == set(Event.__struct_fields__)
    assert all(f"`{kind}`" in section(8) for kind in EVENT_TYPES)
