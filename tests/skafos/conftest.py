"""Fixtures of the device client's and the SDK's tests."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from skafos.device import DeviceClient, Retry
from tests.skafos.repository import Repository, Served

MakeDevice = Callable[..., DeviceClient]


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    """An environment that offers nothing yet."""
    return Repository(tmp_path / "repository")


@pytest.fixture
def served(repository: Repository) -> Iterator[Served]:
    """The environment, served over HTTP."""
    with Served(repository) as server:
        yield server


@pytest.fixture
def make_device(served: Served, tmp_path: Path) -> Iterator[MakeDevice]:
    """Make devices of the environment; they wait for nothing between two attempts."""
    with ExitStack() as stack:

        def make(name: str = "device", **options: Any) -> DeviceClient:
            options.setdefault("retry", Retry(attempts=2, sleep=lambda seconds: None))
            return stack.enter_context(DeviceClient(served.url, served.repository.key, tmp_path / name, **options))

        yield make
