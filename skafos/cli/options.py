"""Options that many commands share: each has one name, one meaning and one environment variable."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from skafos.configuration import APP_VARIABLE, MODEL_VARIABLE, ORGANIZATION_VARIABLE

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Org = Annotated[
    str | None,
    typer.Option(
        "--org",
        envvar=ORGANIZATION_VARIABLE,
        metavar="NAME",
        help="The organization; may be left out when the token sees one only.",
    ),
]
App = Annotated[str | None, typer.Option("--app", envvar=APP_VARIABLE, metavar="NAME", help="The app.")]
Model = Annotated[str | None, typer.Option("--model", envvar=MODEL_VARIABLE, metavar="NAME", help="The model.")]
Env = Annotated[str, typer.Option("--env", "--environment", metavar="NAME", help="The environment.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]
Directory = Annotated[Path, typer.Option("--dir", metavar="DIR", help="Where models and the device's state are kept.")]


def family(help_text: str) -> typer.Typer:
    """Return a group of commands; without one of them it shows its help."""
    return typer.Typer(help=help_text, no_args_is_help=True, rich_markup_mode=None)
