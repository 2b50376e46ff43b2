"""The ``skafos`` command, run as a process."""

from __future__ import annotations

import subprocess
import sys

from tests.flows.running import PATIENCE_SECONDS, ROOT


def run(*arguments: str, typed: str | None = None, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run the command in an environment of its own, with ``typed`` on its input; bytes that are no text pass."""
    return subprocess.run(
        [sys.executable, "-m", "skafos", *arguments],
        env={"PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT), **variables},
        input=typed or "",
        capture_output=True,
        encoding="utf-8",
        errors="surrogateescape",
        timeout=PATIENCE_SECONDS,
        check=False,
    )
