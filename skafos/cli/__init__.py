"""The ``skafos`` command. `skafos.cli.app` has its tree; each file beside it a family of commands.

Heavy libraries are imported where they are used, so that ``skafos --help`` and a completed tab cost little.
"""

from __future__ import annotations

import io
import sys

from skafos.exceptions import SkafosError

# What a shell reports of a program that ended by SIGINT.
INTERRUPTED = 130


def main() -> None:
    """Run the command: exit code 0, 1 with one line on standard error, or 2 when it was used wrongly."""
    # Paths may hold bytes that are no text, and a terminal may lack a sign: neither must end a command half-way.
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        # Inside, because Ctrl-C may come while it is imported.
        from skafos.cli.app import app

        app(prog_name="skafos")
    except SkafosError as error:
        _fail(str(error))
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        _fail(f"{where}{error.strerror or error}")


def _fail(sentence: str) -> None:
    print(f"error: {' '.join(sentence.split())}", file=sys.stderr)
    sys.exit(1)
