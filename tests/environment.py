"""The environment of a process that a test starts."""

from __future__ import annotations

import os
from collections.abc import Mapping


def environment_with(settings: Mapping[str, str]) -> dict[str, str]:
    """This process's environment with these settings of ours, and no others."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("SKAFOS_")}
    return kept | dict(settings)
