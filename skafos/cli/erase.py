"""Erasing, for privacy: a device, or an organization with all it holds."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated

import typer

from skafos.cli import options
from skafos.cli.output import ask, ask_name, note, print_json
from skafos.cli.session import session
from skafos.exceptions import UnavailableError

if TYPE_CHECKING:
    from skafos.client import Client
    from skafos.records import Erasure

app = options.family("Erase a device or an organization, for privacy.")

PAUSE_SECONDS = 0.5
# Deleting from tables of many millions of rows takes minutes; the server goes on by itself.
MAX_WAIT_SECONDS = 600.0

NoWait = Annotated[bool, typer.Option("--no-wait", help="Do not wait until nothing is left.")]


@app.command("device")
def erase_device(
    device_id: Annotated[str, typer.Argument(metavar="DEVICE_ID", help="As events name it.")],
    yes: options.Yes = False,
    no_wait: NoWait = False,
    org: options.Org = None,
    json: options.Json = False,
) -> None:
    """Erase a device and its events. Also its registration and push token."""
    ask(f"Erase device {device_id} with all its events? What it sends later is dropped too.", yes)
    with session(org) as chosen:
        begun = chosen.client.erase_device(chosen.org, device_id)
        _tell(begun if no_wait else _finished(chosen.client, begun), f"device {device_id}", json)


@app.command("organization")
def erase_organization(
    name: Annotated[str, typer.Argument(metavar="NAME")],
    yes: options.Yes = False,
    no_wait: NoWait = False,
    json: options.Json = False,
) -> None:
    """Erase an organization with all it holds. Also all its events."""
    ask_name(f"Erase organization {name} with its apps, models, keys, devices and events?", name, yes)
    with session() as chosen:
        begun = chosen.client.erase_organization(name, name)
        _tell(begun if no_wait else _finished(chosen.client, begun), f"organization {name}", json)


def _finished(client: Client, erasure: Erasure) -> Erasure:
    """Wait until nothing is left, or for as long as one may; the server goes on."""
    deadline = time.monotonic() + MAX_WAIT_SECONDS
    while erasure.finished_at is None and time.monotonic() < deadline:
        time.sleep(PAUSE_SECONDS)
        try:
            erasure = client.get_erasure(erasure.id)
        except UnavailableError as error:
            note(f"{error} The server erases by itself; this waits for it.")
    return erasure


def _tell(erasure: Erasure, what: str, json: bool) -> None:
    if json:
        print_json(erasure)
    elif erasure.finished_at is None:
        print(f"The erasure of {what} is recorded and goes on.")
    else:
        print(f"Erased {what}.")
