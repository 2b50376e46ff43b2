"""A device tells the edge what it is: once, and again when that has changed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from artifacts.files import make_directory, whole_file
from skafos.device.edge import Edge
from skafos.device.identity import Facts


class Registration:
    """A device's registration in one environment.

    Args:
        path: the file that remembers what the edge took last.
        facts: of the device.
    """

    def __init__(self, path: Path, facts: Facts) -> None:
        self._path = path
        self._facts = facts

    def renew_if_changed(self, edge: Edge, device_id: str) -> None:
        """Register when the edge never took these facts; a push token that it took before stays.

        Raises:
            EdgeUnavailable: it may be tried later.
        """
        taken = self._taken()
        wanted = {"device_id": device_id, "facts": self._facts.reported()}
        if {name: taken.get(name) for name in wanted} != wanted:
            self.renew(edge, device_id, taken.get("push_token"), taken.get("push_service"))

    def renew(self, edge: Edge, device_id: str, push_token: str | None, push_service: str | None) -> bool:
        """Register; say whether the edge took it. Raises as `renew_if_changed`."""
        stated = {"facts": self._facts.reported(), "push_token": push_token, "push_service": push_service}
        body = {name: value for name, value in stated.items() if value is not None}
        accepted = edge.register(device_id, body)
        if accepted:
            make_directory(self._path.parent)
            with whole_file(self._path) as file:
                file.write(json.dumps({"device_id": device_id, **body}).encode())
        return accepted

    def _taken(self) -> dict[str, Any]:
        try:
            found = json.loads(self._path.read_bytes())
        except (OSError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}
