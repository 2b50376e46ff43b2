"""What the devices of the examples have in common: which environment they belong to, and one check for an update."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import onnxruntime

from skafos.device import DeviceClient


def updated(model: str, file: str, description: str | None) -> tuple[onnxruntime.InferenceSession, Path]:
    """Bring the model up to date on this device, and open it.

    Args:
        model: its name.
        file: which of its files is the network.
        description: of the program, for its help.

    Returns:
        The opened network, and the folder that holds all files of its version.
    """
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--edge", default=os.environ.get("SKAFOS_EDGE_URL", "http://127.0.0.1:8801"))
    parser.add_argument("--key", default=os.environ.get("SKAFOS_KEY"), help="the environment's key")
    parser.add_argument("--dir", type=Path, default=Path("device"), help="where the device keeps its models")
    options = parser.parse_args()
    if not options.key:
        parser.error("give --key, or set SKAFOS_KEY; `skafos environments` lists the keys")

    # An app would name its own version and locale here, which rollouts may ask for.
    with DeviceClient(options.edge, options.key, options.dir) as device:
        # Check, download, verify, swap and report, all in one. Without the edge, the version in use serves on.
        result = device.sync(model)
    if result.path is None:
        raise SystemExit(f"{model}: nothing is offered yet; deploy a version first")
    cost = f"{result.bytes} of {result.full_bytes} bytes by {result.encoding or 'what was there'}"
    print(f"{model}: version {result.version} ({result.status}{f', {cost}' if result.status == 'updated' else ''})")
    return onnxruntime.InferenceSession(result.path / file, providers=["CPUExecutionProvider"]), result.path
