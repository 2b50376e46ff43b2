"""What tests of the benchmarks share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from bench.edge.site import Site, running_site


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """What an edge serves."""
    with running_site(tmp_path_factory.mktemp("site")) as made:
        yield made


def row(text: str, *words: str) -> str:
    """Return the one line of a table that has all of some words."""
    (found,) = [line for line in text.splitlines() if all(word in line for word in words)]
    return found
