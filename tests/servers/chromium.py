"""Debian's Chromium without a window: it opens one page, with a profile of its own."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.components import find_program, require

END_SECONDS = 20.0
# Without a window, a sandbox (which root cannot have), a graphics card and all that would ask its maker's servers.
OPTIONS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


@contextmanager
def running_chromium(folder: Path, url: str) -> Iterator[Path]:
    """Run Chromium within the block; give the file with what it says.

    Args:
        folder: for its profile, which is empty unless it ran there before, and for its log.
        url: of the page.
    """
    program = require("chromium", find_program("chromium") or find_program("chromium-headless-shell"))
    log = folder / "chromium.log"
    with log.open("ab") as output:
        process = subprocess.Popen(
            [program, *OPTIONS, f"--user-data-dir={folder / 'profile'}", url],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,  # the program is a shell script that waits for the browser
        )
    try:
        yield log
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
