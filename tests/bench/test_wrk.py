"""What wrk prints becomes a load, or a reason why it is none."""

from __future__ import annotations

import json

import pytest

from bench.edge.load import LoadFailed
from bench.edge.wrk import LUA, MARK, parse

COUNTED = {
    "requests": 300_000,
    "bytes": 54_000_000,
    "duration_us": 3_000_000,
    "cpu_us": 1_500_000,
    "connect_errors": 0,
    "read_errors": 0,
    "write_errors": 0,
    "status_errors": 0,
    "timeouts": 0,
}


def printed(**changes: int) -> str:
    return f"Running 3s test\n  300000 requests in 3.00s, 51.50MB read\n{MARK}{json.dumps(COUNTED | changes)}\n"


def test_the_line_of_our_script_is_read_and_the_rest_is_not() -> None:
    load = parse(printed())
    assert (load.requests, load.received, load.seconds, load.cpu_seconds) == (300_000, 54_000_000, 3.0, 1.5)
    assert load.rate == 100_000


@pytest.mark.parametrize("error", ["connect_errors", "read_errors", "write_errors", "status_errors", "timeouts"])
def test_a_load_with_errors_is_none(error: str) -> None:
    with pytest.raises(LoadFailed, match=f"7 {error}"):
        parse(printed(**{error: 7}))


def test_a_load_without_an_answer_is_none() -> None:
    with pytest.raises(LoadFailed, match="nothing was answered"):
        parse(printed(requests=0))


def test_output_without_our_line_is_shown() -> None:
    with pytest.raises(LoadFailed, match="unable to connect"):
        parse("unable to connect to 127.0.0.1:1 Connection refused")


def test_every_script_reports_and_says_when_it_is_prepared() -> None:
    scripts = {path.name: path.read_text() for path in LUA.glob("*.lua")}
    assert "report.lua" in scripts
    for name, text in scripts.items():
        assert "prepared = os.clock()" in text, name
        assert name == "report.lua" or 'dofile("report.lua")' in text, name
