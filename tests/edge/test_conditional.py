"""Preconditions by RFC 9110 section 13."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from multidict import CIMultiDict

from edge.conditional import Validators, Verdict, evaluate, parse_entity_tags, parse_http_date, range_applies

ETAG = '"5f3c"'
CHANGED = datetime(2020, 1, 1, tzinfo=UTC)
THEN = "Wed, 01 Jan 2020 00:00:00 GMT"
BEFORE = "Tue, 31 Dec 2019 23:59:59 GMT"
VALIDATORS = Validators(ETAG, CHANGED)


def verdict(*fields: tuple[str, str], validators: Validators = VALIDATORS) -> Verdict:
    return evaluate(CIMultiDict(fields), validators)


@pytest.mark.parametrize(
    "value",
    [
        '"5f3c"',
        'W/"5f3c"',
        '"a", "5f3c"',
        '"a","5f3c","b"',
        ' ,, "a" , W/"5f3c" , ',
        '"a,b", "5f3c"',
        "*",
        " * ",
    ],
)
def test_if_none_match_compares_weakly_over_lists_and_the_star(value: str) -> None:
    assert verdict(("If-None-Match", value)) is Verdict.NOT_MODIFIED


@pytest.mark.parametrize(
    "value",
    [
        "",
        '"5F3C"',
        "5f3c",
        '"5f3c',
        'w/"5f3c"',
        '"a" "5f3c"',
        '"5f3c" "a"',
        '"x5f3c"',
        '"a,"5f3c""',
        '*, "a"',
        '"\x7f"',
    ],
)
def test_another_tag_or_no_list_of_tags_gets_the_whole_answer(value: str) -> None:
    assert verdict(("If-None-Match", value)) is Verdict.PROCEED


def test_a_field_on_several_lines_is_one_list() -> None:
    assert verdict(("If-None-Match", '"a"'), ("if-none-match", ETAG)) is Verdict.NOT_MODIFIED


@pytest.mark.parametrize(("value", "expected"), [(ETAG, Verdict.PROCEED), ("*", Verdict.PROCEED)])
def test_if_match_holds(value: str, expected: Verdict) -> None:
    assert verdict(("If-Match", value)) is expected


@pytest.mark.parametrize("value", ['W/"5f3c"', '"other"', "broken"])
def test_if_match_compares_strongly(value: str) -> None:
    assert verdict(("If-Match", value)) is Verdict.FAILED


def test_dates_count_only_without_tags() -> None:
    assert verdict(("If-Modified-Since", THEN)) is Verdict.NOT_MODIFIED
    assert verdict(("If-Modified-Since", BEFORE)) is Verdict.PROCEED
    assert verdict(("If-Modified-Since", THEN), ("If-None-Match", '"other"')) is Verdict.PROCEED
    assert verdict(("If-Unmodified-Since", BEFORE)) is Verdict.FAILED
    assert verdict(("If-Unmodified-Since", THEN)) is Verdict.PROCEED
    assert verdict(("If-Unmodified-Since", BEFORE), ("If-Match", ETAG)) is Verdict.PROCEED


def test_a_failed_precondition_goes_before_one_that_is_met() -> None:
    assert verdict(("If-Match", '"other"'), ("If-None-Match", ETAG)) is Verdict.FAILED


def test_dates_mean_nothing_to_a_resource_without_one() -> None:
    undated = Validators(ETAG)
    assert verdict(("If-Modified-Since", THEN), validators=undated) is Verdict.PROCEED
    assert verdict(("If-Unmodified-Since", BEFORE), validators=undated) is Verdict.PROCEED


@pytest.mark.parametrize(
    "value", ["", "yesterday", "0", "Wed, 99 Jan 2020 00:00:00 GMT", "Wed, 01 Jan 99999 00:00:00 GMT"]
)
def test_what_is_no_date_is_ignored(value: str) -> None:
    assert parse_http_date(value) is None
    assert verdict(("If-Modified-Since", value)) is Verdict.PROCEED


@pytest.mark.parametrize(
    "value", ["Sun, 06 Nov 1994 08:49:37 GMT", "Sunday, 06-Nov-94 08:49:37 GMT", "Sun Nov  6 08:49:37 1994"]
)
def test_all_three_forms_of_a_date_are_read(value: str) -> None:
    assert parse_http_date(value) == datetime(1994, 11, 6, 8, 49, 37, tzinfo=UTC)


@pytest.mark.parametrize(
    ("value", "applies"),
    [(None, True), (ETAG, True), (THEN, True), ('W/"5f3c"', False), ('"other"', False), (BEFORE, False), ("x", False)],
)
def test_if_range_needs_the_very_same_bytes(value: str | None, applies: bool) -> None:
    assert range_applies(value, VALIDATORS) is applies


tags = st.text(st.characters(codec="latin-1", exclude_characters='"', min_codepoint=0x21), max_size=8).filter(
    lambda text: "\x7f" not in text
)


@given(st.lists(st.tuples(tags, st.booleans()), min_size=1, max_size=6), st.sampled_from([",", ", ", " ,\t", ", ,"]))
@settings(max_examples=100, deadline=None)
def test_any_list_of_tags_is_read_as_it_was_written(written: list[tuple[str, bool]], separator: str) -> None:
    value = separator.join(f'{"W/" if weak else ""}"{opaque}"' for opaque, weak in written)
    read = parse_entity_tags(value)
    assert read is not None
    assert [(tag.opaque, tag.weak) for tag in read] == [(f'"{opaque}"', weak) for opaque, weak in written]


@given(st.text(max_size=80))
@settings(max_examples=200, deadline=None)
def test_no_text_breaks_the_parsers(value: str) -> None:
    parse_entity_tags(value)
    parse_http_date(value)
