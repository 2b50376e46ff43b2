"""Fixtures that tests of several rooms share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.corpus import CorpusError, release_files
from tests.components import require
from tests.flows.running import Running, running
from tests.flows.whole_path import Releases
from tests.servers.smtp import Mailbox, mail_server


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Have whole paths run first: few tests that take longest, so that none is left for one process alone."""
    items.sort(key=lambda item: "tests/flows/" not in item.nodeid)


@pytest.fixture(scope="session")
def mails_of_up() -> Iterator[Mailbox]:
    """What the Skafos that tests share has mailed."""
    with mail_server() as mailbox:
        yield mailbox


@pytest.fixture(scope="session")
def skafos_up(tmp_path_factory: pytest.TempPathFactory, mails_of_up: Mailbox) -> Iterator[Running]:
    """A whole Skafos with embedded engines, where whoever likes signs up; tests keep to apps of their own there."""
    settings = {
        "SKAFOS_SMTP_URL": f"smtp://127.0.0.1:{mails_of_up.port}",
        "SKAFOS_MAIL_FROM": "skafos@example.org",
        "SKAFOS_SIGN_UP": "open",
    }
    with running(tmp_path_factory.mktemp("up") / "data", settings=settings) as skafos:
        yield skafos


@pytest.fixture(scope="session")
def silero() -> Releases:
    """The files of two releases of a real audio model; the second contains a file of the first."""
    return real_release("silero-vad", "5.1.2"), real_release("silero-vad", "6.0.0")


@pytest.fixture(scope="session")
def magika() -> Releases:
    """The files of two releases of a real model that tells what kind of file some bytes are; they share nothing."""
    return real_release("magika", "0.6.1rc1"), real_release("magika", "1.0.3")


def real_release(project: str, version: str) -> list[Path]:
    """Return the fetched model files of a release; without them, fail under ``CI=true`` and skip elsewhere."""
    try:
        return release_files(project, version)
    except CorpusError:
        return [require(f"{project} {version}")]
