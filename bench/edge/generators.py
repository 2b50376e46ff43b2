"""The load generators that are programs of ours in C: for rates at which Python, or wrk, would be what is measured."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.edge.load import LoadFailed

GRACE_SECONDS = 30
SOURCES = {"openloop": ("openloop.c", "flood.c"), "closedloop": ("closedloop.c",)}


def compiler() -> str | None:
    """Return the C compiler, or None."""
    return shutil.which("cc") or shutil.which("gcc")


def build(name: str, folder: Path) -> Path:
    """Compile a generator into ``folder`` and return the program."""
    program = folder / name
    found = compiler()
    assert found is not None, "the case was looked at before"
    here = Path(__file__).resolve().parent
    subprocess.run([found, "-O2", "-o", str(program), *(str(here / source) for source in SOURCES[name])], check=True)
    return program


def run_generator(program: Path, words: Sequence[object], request: bytes, seconds: float) -> dict[str, Any]:
    """Run a generator and return what it tells.

    Args:
        program: from `build`.
        words: its arguments.
        request: that it sends, the same each time.
        seconds: that it should take.

    Raises:
        LoadFailed: it says why.
    """
    done = subprocess.run(
        [str(program), *map(str, words)],
        input=request,
        capture_output=True,
        timeout=seconds + GRACE_SECONDS,
        check=False,
    )
    if done.returncode:
        raise LoadFailed(done.stderr.decode(errors="replace").strip())
    told: dict[str, Any] = json.loads(done.stdout)
    return told
