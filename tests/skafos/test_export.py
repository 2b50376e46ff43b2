"""Rows as CSV: whatever a text holds, a row is one line of the file and is read back as it was."""

from __future__ import annotations

import csv
import io

import pytest

from skafos.cli.export import Column, print_rows


@pytest.mark.parametrize("text", ["plain", "a,b", 'a "quoted" word', "a\nb", "a\rb", "a\r\nb", ""])
def test_a_text_is_read_back_as_it_was(capsys: pytest.CaptureFixture[str], text: str) -> None:
    print_rows([Column("reason", "text"), Column("count", "integer")], [(text, 1), ("after", 2)])
    printed = capsys.readouterr().out
    assert printed.endswith("after,2\n")
    assert list(csv.reader(io.StringIO(printed, newline=""))) == [["reason", "count"], [text, "1"], ["after", "2"]]
