"""The order of version texts such as `17.4` or `2.0.1-beta`, the same in every client language.

A version is one to eight decimal numbers separated by dots. Missing numbers count as zero, so `17` equals `17.0`. A
tag after `-` makes a pre-release, which comes before the release of the same numbers; two pre-releases of the same
numbers are equal. Build metadata after `+` says nothing about the order (as in Semantic Versioning, section 10).
Anything else is no version, and compares to nothing.
"""

from __future__ import annotations

import re

# Real version numbers have at most four parts; eight leave room and bound the work.
MAX_VERSION_NUMBERS = 8
# Every number of 18 digits fits a signed 64-bit integer, which is what clients compare with.
MAX_VERSION_DIGITS = 18
# No platform reports versions that are longer than this.
MAX_VERSION_LENGTH = 64

_VERSION = re.compile(
    rf"(?P<numbers>[0-9]{{1,{MAX_VERSION_DIGITS}}}(?:\.[0-9]{{1,{MAX_VERSION_DIGITS}}}){{0,{MAX_VERSION_NUMBERS - 1}}})"
    r"(?P<tag>-[0-9A-Za-z.-]+)?(?:\+[0-9A-Za-z.-]+)?"
)

SortKey = tuple[tuple[int, ...], int]


def compare_versions(left: str, right: str) -> int | None:
    """Compare two version texts.

    Returns:
        -1, 0 or 1 when ``left`` is below, equal to or above ``right``; None when either is no version.
    """
    left_key, right_key = _sort_key(left), _sort_key(right)
    if left_key is None or right_key is None:
        return None
    return (left_key > right_key) - (left_key < right_key)


def is_version(text: str) -> bool:
    """Say whether the text is a version that can be compared."""
    return _sort_key(text) is not None


def _sort_key(text: str) -> SortKey | None:
    if len(text) > MAX_VERSION_LENGTH:
        return None
    match = _VERSION.fullmatch(text)
    if match is None:
        return None
    numbers = [int(number) for number in match["numbers"].split(".")]
    while numbers and numbers[-1] == 0:
        numbers.pop()
    return tuple(numbers), 0 if match["tag"] else 1
