"""The reference of all commands, as Markdown, from the commands themselves.

``python -m skafos.cli.reference docs/cli.md`` writes it to the end of that document, in the place of the last one.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from typer.main import get_command

from skafos.cli.app import app

HEADING = "## Reference\n\n"


def reference() -> str:
    """Return one section for each command: what it does, and its arguments and options."""
    return "\n".join(_section(path, command) for path, command in commands())


def commands() -> Iterator[tuple[str, Any]]:
    """Yield every command there is, in order: how it is called, such as ``skafos keys add``, and what it takes."""
    return _commands("skafos", get_command(app))


def _commands(path: str, command: Any) -> Iterator[tuple[str, Any]]:
    for name, child in sorted(command.commands.items()):
        if hasattr(child, "commands"):
            if child.invoke_without_command:  # a command too
                yield f"{path} {name}", child
            yield from _commands(f"{path} {name}", child)
        else:
            yield f"{path} {name}", child


def _section(path: str, command: Any) -> str:
    rows = [_row(parameter) for parameter in command.params if parameter.name != "help"]
    lines = [f"### `{path}`", "", command.help or "", "", "| | |", "|---|---|", *rows]
    return "\n".join(lines) + "\n"


def _row(parameter: Any) -> str:
    shown = _option(parameter) if parameter.param_type_name == "option" else f"`{parameter.metavar or parameter.name}`"
    facts = [parameter.help or ""]
    if parameter.default not in (None, False, ()) and not callable(parameter.default) and not parameter.required:
        facts.append(f"Default: `{parameter.default}`.")
    if parameter.envvar:
        facts.append(f"Variable: `{parameter.envvar}`.")
    if parameter.required:
        facts.append("Required.")
    return f"| {shown} | {' '.join(filter(None, facts))} |"


def _option(parameter: Any) -> str:
    value = "" if parameter.is_flag else f" {parameter.metavar}"
    return ", ".join(f"`{name}{value}`" for name in parameter.opts)


def main() -> None:
    """Write the reference into the document that is named."""
    document = Path(sys.argv[1])
    before = document.read_text("utf-8").partition(HEADING)[0]
    document.write_text(before + HEADING + reference(), "utf-8")


if __name__ == "__main__":
    main()
