"""Skafos: deliver machine-learning models to apps over the air.

`skafos.models` uploads, lists, fetches and deploys model versions; `skafos.client` has typed clients for the whole
management API; `skafos.device` is the device's side. Everything is imported when it is first used, so that
``import skafos`` costs nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import skafos.exceptions as exceptions
    import skafos.models as models
    from skafos.utilities import get_version, summary

__all__ = ["get_version", "summary", "models", "exceptions"]


def __getattr__(name: str) -> Any:
    """Import a public name when it is first asked for."""
    import importlib

    if name in ("get_version", "summary"):
        return getattr(importlib.import_module("skafos.utilities"), name)
    if name in ("models", "exceptions"):
        return importlib.import_module(f"skafos.{name}")
    raise AttributeError(f"module 'skafos' has no attribute {name!r}")
