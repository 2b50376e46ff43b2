"""What `skafos up` tells its user: sentences for people, or one line of JSON for programs."""

from __future__ import annotations

import json
import shutil
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TextIO

from skafos.installation import Installation


class Announcer:
    """Tells people, on standard output."""

    def say(self, sentence: str) -> None:
        """Print one line about what happens, with the time."""
        self._print(f"{time.strftime('%H:%M:%S')}  {sentence}")

    def running(
        self, installation: Installation, connection: Mapping[str, str], seconds: float, sign_in: str | None
    ) -> None:
        """Print where everything is.

        Args:
            installation: what runs.
            connection: the content of ``connection.json``.
            seconds: how long the start took.
            sign_in: the address that signs the owner in to the dashboard once, the first time.
        """
        lines = [
            ("dashboard", connection["dashboard_url"]),
            *([] if sign_in is None else [("sign in once", sign_in)]),
            ("control plane", connection["control_url"]),
            ("edge", connection["edge_url"]),
            ("organization", connection["organization"]),
            ("API token", connection["api_token"]),
            ("data", str(installation.data)),
            ("logs", str(installation.logs)),
            ("for scripts", str(installation.connection)),
        ]
        self._print(f"\n{heading('Skafos is running')} (after {seconds:.1f} s)\n")
        for name, value in lines:
            self._print(f"  {name:<14} {value}")
        self._print("")

    def demonstration(self, connection: Mapping[str, str], demonstration: Mapping[str, Any]) -> None:
        """Print what the demonstration has made, and what to try with it.

        Args:
            connection: the content of ``connection.json``.
            demonstration: its ``summary``, and ``commands`` to try.
        """
        title = heading("The demonstration is running")
        self._print(f"\n{title}: {demonstration['summary']}\n\nTry, in another terminal:\n")
        for line in [*exports(connection), *demonstration["commands"]]:
            self._print(f"  {line}")
        self._print("")

    def started(self) -> None:
        """Say that all is done that begins by itself."""
        self._print("Press Ctrl-C to stop.")

    def _print(self, line: str) -> None:
        print(line, flush=True)


class JsonAnnouncer(Announcer):
    """Tells programs: one line of JSON on standard output when everything answers. Sentences go to standard error."""

    def __init__(self) -> None:
        self._known: dict[str, Any] = {"demonstration": None}

    def running(
        self, installation: Installation, connection: Mapping[str, str], seconds: float, sign_in: str | None
    ) -> None:
        """Remember where everything is."""
        self._known |= connection
        if sign_in is not None:
            self._known["sign_in_url"] = sign_in
        self._known |= {
            "data": str(installation.data),
            "logs": str(installation.logs),
            "connection_file": str(installation.connection),
            "seconds": round(seconds, 3),
        }

    def demonstration(self, connection: Mapping[str, str], demonstration: Mapping[str, Any]) -> None:
        """Remember what the demonstration has made."""
        commands = [*exports(connection), *demonstration["commands"]]
        self._known["demonstration"] = {"summary": demonstration["summary"], "commands": commands}

    def started(self) -> None:
        """Print the line."""
        print(json.dumps(self._known, ensure_ascii=False), flush=True)

    def _print(self, line: str) -> None:
        print(line, file=sys.stderr, flush=True)


def exports(connection: Mapping[str, str]) -> list[str]:
    """Return the lines for a shell after which the ``skafos`` command is found and finds its server."""
    commands = Path(sys.executable).parent
    hidden = shutil.which("skafos") is None and (commands / "skafos").exists()
    path = [f'export PATH="{commands}:$PATH"'] if hidden else []
    return [*path, f"export SKAFOS_URL={connection['control_url']} SKAFOS_API_TOKEN={connection['api_token']}"]


def heading(text: str, output: TextIO = sys.stdout) -> str:
    """Return ``text`` in bold on a terminal, as it is elsewhere."""
    return f"\033[1m{text}\033[0m" if output.isatty() else text
