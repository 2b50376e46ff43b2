"""The load generators that are programs of ours in C: for rates at which Python, or wrk, would be what is measured."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

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
