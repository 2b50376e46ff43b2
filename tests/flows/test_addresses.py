"""Of a device that reports and registers, no file of a whole Skafos holds the address: no table, no log, no cache."""

from __future__ import annotations

import os
import uuid
from pathlib import Path

import httpx

from tests.flows.running import Running, until

# Every address of 127.0.0.0/8 is this machine's own, and nobody else here is called so.
PEER = "127.0.0.77"
DEVICE = "device-of-the-hunt"
APP, MODEL = "Hunt", "hunted"


def holding(folder: Path, text: str) -> list[str]:
    """Return the files below a folder that hold a text; those that vanish meanwhile hold nothing."""
    found = []
    for within, _, names in os.walk(folder):  # which passes by what is removed meanwhile
        for path in (Path(within, name) for name in names):
            try:
                if path.is_file() and text.encode() in path.read_bytes():
                    found.append(str(path.relative_to(folder)))
            except FileNotFoundError:
                continue
    return found


def test_no_file_holds_the_address_of_a_device(skafos_up: Running) -> None:
    skafos, organization = skafos_up, skafos_up.organization
    event = {"event_id": str(uuid.uuid4()), "type": "check", "occurred_at": 0, "device_id": DEVICE, "model": MODEL}
    with skafos.client() as client, httpx.Client(transport=httpx.HTTPTransport(local_address=PEER)) as device:
        client.create_app(organization, APP, "org.example.hunt", "ios")
        environment = f"{skafos.edge_url}/v2/environments/{client.get_environment(organization, APP, 'prod').key}"
        until(lambda: device.get(f"{environment}/manifest").status_code == 200, "the edge knows the environment")
        assert device.post(f"{environment}/events", json=[event, "one that is refused"]).status_code == 202
        assert device.put(f"{environment}/devices/{DEVICE}", json={"facts": {"os": "ios"}}).status_code == 202
        until(lambda: client.list_devices(organization, APP, "prod"), "the registration")
        count = f"SELECT count() AS n FROM events WHERE device_id = '{DEVICE}'"
        until(lambda: client.sql(count).rows[0]["n"] == 1, "the event")
    assert holding(skafos.data, DEVICE), "the hunt sees what there is"
    assert holding(skafos.data, PEER) == []
