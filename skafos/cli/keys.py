"""Keys of environments: what apps ship, and what signs."""

from __future__ import annotations

from typing import Annotated

import typer

from manifests.keys import DEFAULT_OVERLAP, MAX_OVERLAP
from skafos.cli import options
from skafos.cli.output import ask, print_json, print_table
from skafos.cli.session import session

app = options.family("Keys of environments: list, add, revoke, rotate.")

SECONDS_PER_DAY = 86_400


@app.command("list")
def list_keys(
    env: options.Env = "prod", org: options.Org = None, app: options.App = None, json: options.Json = False
) -> None:
    """List an environment's valid keys."""
    with session(org, app) as chosen:
        environment = chosen.client.get_environment(*chosen.of_app, env)
    if json:
        print_json(environment.keys)
        return
    rows = [[key.id, key.key, key.created_at, key.expires_at or "never"] for key in environment.keys]
    print_table(["ID", "KEY", "CREATED", "EXPIRES"], rows, "no keys")


@app.command("add")
def add_key(
    env: options.Env,
    overlap_days: Annotated[
        float,
        typer.Option(
            "--overlap-days",
            min=0,
            max=MAX_OVERLAP.days,
            metavar="DAYS",
            help="How long those before it stay valid.",
        ),
    ] = DEFAULT_OVERLAP.days,
    org: options.Org = None,
    app: options.App = None,
    json: options.Json = False,
) -> None:
    """Add a key to an environment. The keys before it stay valid for a while."""
    with session(org, app) as chosen:
        key = chosen.client.add_key(*chosen.of_app, env, overlap_seconds=round(overlap_days * SECONDS_PER_DAY))
    if json:
        print_json(key)
    else:
        print(key.key)


@app.command("revoke")
def revoke_key(
    key_id: Annotated[str, typer.Argument(metavar="ID", help="The key's id, see: skafos keys list.")],
    env: options.Env,
    yes: options.Yes = False,
    org: options.Org = None,
    app: options.App = None,
    json: options.Json = False,
) -> None:
    """Revoke a key at once. Apps that ship it get no more updates."""
    ask(f"Apps with key {key_id} will get no more updates. Revoke it?", yes)
    with session(org, app) as chosen:
        chosen.client.revoke_key(*chosen.of_app, env, key_id)
    if json:
        print_json({"revoked": key_id})
    else:
        print(f"Revoked {key_id}.")


@app.command("rotate-root")
def rotate_root(env: options.Env, org: options.Org = None, app: options.App = None, json: options.Json = False) -> None:
    """Replace the keys that sign an environment's root metadata. Apps need no new key."""
    with session(org, app) as chosen:
        environment = chosen.client.rotate_root(*chosen.of_app, env)
    if json:
        print_json(environment)
    else:
        print(f"{env} has root {environment.root} now.")


@app.command("rotate-online")
def rotate_online(
    env: options.Env, org: options.Org = None, app: options.App = None, json: options.Json = False
) -> None:
    """Replace the key that signs manifests. Do so after it was exposed; apps need no new key."""
    with session(org, app) as chosen:
        environment = chosen.client.rotate_online_key(*chosen.of_app, env)
    if json:
        print_json(environment)
    else:
        print(f"{env} has root {environment.root} and revision {environment.revision} now.")
