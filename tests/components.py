"""Components that tests talk to: found on the machine, or the test says what is missing.

Under ``CI=true`` a missing component fails the test: a suite that skips what it cannot reach proves nothing.
"""

from __future__ import annotations

import os
import shutil
import socket
from pathlib import Path

import pytest

# Debian puts servers where an ordinary user's PATH does not look.
SERVER_DIRECTORIES = ("/usr/sbin", "/usr/local/sbin", "/usr/lib/postgresql/15/bin")


def find_program(name: str) -> Path | None:
    """Return the path of the program ``name``, or None."""
    found = shutil.which(name, path=os.pathsep.join([os.environ["PATH"], *SERVER_DIRECTORIES]))
    return Path(found) if found else None


def require(name: str, found: Path | None = None) -> Path:
    """Return the component's path; without it, fail under ``CI=true`` and skip elsewhere.

    Args:
        name: the program's name, for the message and for the search when ``found`` is None.
        found: where it was already found.
    """
    path = found or find_program(name)
    if path is None:
        if os.environ.get("CI") == "true":
            pytest.fail(f"{name} is not installed, and CI must not skip")
        pytest.skip(f"{name} is not installed")
    return path


def free_port() -> int:
    """Return a TCP port of the loopback interface that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
