"""The tree of commands."""

from __future__ import annotations

from collections.abc import Callable

import typer

from skafos.cli import administration, adoption, delta, device, erase, insight, keys, push, servers, versions

app = typer.Typer(
    name="skafos",
    help="Deliver machine-learning models to apps over the air.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

COMMANDS: dict[str, Callable[..., None]] = {
    "up": servers.up,
    "control-plane": servers.control_plane,
    "edge": servers.edge,
    "shipper": servers.shipper,
    "upload": versions.upload,
    "versions": versions.versions,
    "patches": versions.patches,
    "fetch": versions.fetch,
    "deploy": versions.deploy,
    "rollback": versions.rollback,
    "environments": versions.environments,
    "sql": insight.sql,
}
FAMILIES: dict[str, typer.Typer] = {
    "adoption": adoption.app,
    "keys": keys.app,
    "push": push.app,
    "tokens": administration.tokens,
    "orgs": administration.organizations,
    "apps": administration.applications,
    "envs": administration.environments,
    "models": administration.models,
    "device": device.app,
    "erase": erase.app,
    "delta": delta.app,
}

for name, run in COMMANDS.items():
    app.command(name)(run)
for name, family in FAMILIES.items():
    app.add_typer(family, name=name)
