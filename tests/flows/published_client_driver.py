"""Runs calls of the published client 0.3.0 inside its own environment; `test_published_client` starts it.

Standard input has one JSON object: ``api`` and ``download``, the two base addresses, and ``calls``, each with the
dotted ``function`` below the package and its ``arguments``. Nothing of the client is changed but its two base-address
constants, which its modules import by name. The last line of standard output is a JSON list with one outcome a call:
``{"result": …}`` or ``{"error": <class>, "message": …}``.
"""

from __future__ import annotations

import functools
import importlib
import json
import sys
from typing import Any

CONSTANTS = ("API_BASE_URL", "DOWNLOAD_BASE_URL")
MODULES = ("skafos.http", "skafos.models", "skafos.utilities")


def point_at(addresses: dict[str, str]) -> None:
    """Set the two constants in every module that holds them."""
    for module in map(importlib.import_module, MODULES):
        for constant in CONSTANTS:
            if hasattr(module, constant):
                setattr(module, constant, addresses[constant])


def run(function: str, arguments: dict[str, Any]) -> dict[str, Any]:
    """Call the client's ``function`` and return the outcome."""
    client: Any = importlib.import_module("skafos")
    target = functools.reduce(getattr, function.split("."), client)
    try:
        return {"result": target(**arguments)}
    except Exception as error:
        return {"error": type(error).__name__, "message": str(error)}


order = json.load(sys.stdin)
point_at(dict(zip(CONSTANTS, (order["api"], order["download"]), strict=True)))
outcomes = [run(call["function"], call["arguments"]) for call in order["calls"]]
print("\n" + json.dumps(outcomes))
