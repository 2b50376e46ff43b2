"""Lists of the dashboard that go over several pages, by the management API's cursors."""

from __future__ import annotations

from control_plane.api.call import Call


def cursor_of(call: Call) -> str | None:
    """Return where the list goes on, or None at its beginning."""
    return call.request.query.get("after") or None
