"""A whole device: check, download, verify, swap, report."""

from __future__ import annotations

import random
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from skafos.cli import options
from skafos.cli.output import note, print_json, print_json_line, print_table
from skafos.cli.session import session

if TYPE_CHECKING:
    from skafos.device import DeviceClient, SyncResult
    from skafos.records import Device

app = options.family("Devices: be one, or list those of an environment.")

# As `skafos up` listens by default.
DEFAULT_EDGE = "http://127.0.0.1:8801"
EDGE_VARIABLE = "SKAFOS_EDGE_URL"
KEY_VARIABLE = "SKAFOS_KEY"
# A day: what a device knows expires after some, and one that looks more rarely is better started by a timer.
MAX_EVERY_SECONDS = 86_400

Fact = Annotated[
    str | None, typer.Option(metavar="TEXT", help="A fact that rollout rules may ask for; default: of this machine.")
]


@app.command()
def sync(
    key: Annotated[str, typer.Option("--key", envvar=KEY_VARIABLE, metavar="KEY", help="The environment's key.")],
    model: Annotated[str, typer.Option("--model", envvar="SKAFOS_MODEL_NAME", metavar="NAME", help="The model.")],
    directory: options.Directory,
    edge: Annotated[
        str, typer.Option("--edge", envvar=EDGE_VARIABLE, metavar="URL", help="The edge's address.")
    ] = DEFAULT_EDGE,
    bundle: Annotated[
        Path | None, typer.Option("--bundle", metavar="DIR", help="Models that came with the app, for the first start.")
    ] = None,
    every: Annotated[
        float | None,
        typer.Option(
            "--every",
            min=1,
            max=MAX_EVERY_SECONDS,
            metavar="SECONDS",
            help="Go on checking, about this often; with --json, each check is a line.",
        ),
    ] = None,
    os: Fact = None,
    os_version: Fact = None,
    app_version: Fact = None,
    device_model: Fact = None,
    locale: Fact = None,
    interface: Annotated[
        str | None, typer.Option(metavar="HASH", help="Take only versions with this interface.")
    ] = None,
    json: options.Json = False,
) -> None:
    """Bring a model to the version that this device is offered."""
    from skafos.calls import require_utf8
    from skafos.configuration import check_address
    from skafos.device import DeviceClient, Facts, detect_facts

    check_address(edge, f"The edge's address (--edge, {EDGE_VARIABLE})")
    for text in filter(None, (key, model, os, os_version, app_version, device_model, locale, interface)):
        require_utf8(text)
    known = detect_facts(app_version, interface)
    facts = Facts(
        os=os or known.os,
        os_version=os_version or known.os_version,
        app_version=app_version,
        device_model=device_model or known.device_model,
        locale=locale or known.locale,
        interface=interface,
    )
    with DeviceClient(edge, key, directory, facts=facts, bundle=bundle) as device:
        if every is None:
            result = _sync_once(device, model)
            print_json(result.to_json()) if json else _show(result)
        else:
            _sync_for_ever(device, model, every, json)


@app.command("list")
def list_devices(
    env: options.Env = "prod", org: options.Org = None, app: options.App = None, json: options.Json = False
) -> None:
    """List the devices that registered in an environment."""
    with session(org, app) as chosen:
        found = chosen.client.list_devices(*chosen.of_app, env)
    if json:
        print_json(found)
        return
    names = ("os", "os_version", "app_version", "device_model", "locale")
    rows = [
        [each.device_id, *(each.facts.get(name) for name in names), each.updated_at, _last_push(each)] for each in found
    ]
    titles = ["DEVICE", "OS", "OS VERSION", "APP VERSION", "MODEL", "LOCALE", "SEEN", "LAST PUSH"]
    print_table(titles, rows, "no devices")


def _last_push(device: Device) -> str | None:
    push = device.last_push
    if push is None:
        return None
    return f"{push.outcome} {push.sent_at}{f', {push.reason}' if push.reason else ''}"


def _sync_once(device: DeviceClient, model: str) -> SyncResult:
    from skafos.progress import progress_display

    with progress_display() as display:
        return device.sync(model, display.bytes("Downloading", before="Checking", then="Verifying and unpacking"))


def _sync_for_ever(device: DeviceClient, model: str, seconds: float, json: bool) -> None:
    from skafos.device import DeviceError

    while True:
        try:
            result = _sync_once(device, model)
            print_json_line(result.to_json()) if json else _show(result)
        except DeviceError as error:
            note(f"error: {error}")
            if json:
                print_json_line({"model": model, "error": str(error), "code": error.code})
        # Devices that were started together should not stay together.
        time.sleep(seconds * random.uniform(0.9, 1.1))  # noqa: S311 - spreads load, hides nothing


def _show(result: SyncResult) -> None:
    version = f"version {result.version}"
    kept = f"{version} stays in use" if result.version is not None else "and it has no version yet"
    said = {
        "updated": f"updated to {version} ({result.encoding or 'from this device'}, "
        f"{result.bytes} of {result.full_bytes} bytes downloaded)",
        "current": f"{version} is current",
        "offline": f"offline, {kept}: {result.detail}",
        "none": f"nothing is offered to this device, {kept}",
    }
    print(f"{result.model}: {said[result.status]}", flush=True)
    if result.detail and result.status != "offline":
        note(result.detail)
    if result.path:
        print(result.path, flush=True)
