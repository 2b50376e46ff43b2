"""The page that tells anybody whether everything works, and where to go on. It shows nobody's things."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import aiohttp_jinja2
from aiohttp import web

from control_plane.health import Health

_HERE = Path(__file__).parent
TEMPLATES = _HERE / "templates"
# Nothing but our own style sheet: no script, no frame, no other host.
_POLICY = "default-src 'none'; style-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
_TITLES = {"database": "Database", "redis": "Redis", "objects": "Object store", "clickhouse": "ClickHouse"}

HEALTH: web.AppKey[Health] = web.AppKey("health", Health)


def add_status_page(app: web.Application, health: Health) -> None:
    """Add the page at `/status` and its style sheet."""
    app[HEALTH] = health
    app.router.add_get("/status", show_status)
    app.router.add_static("/static", _HERE / "static")


@aiohttp_jinja2.template("status.html")
async def _render(request: web.Request) -> dict[str, Any]:
    latest = request.app[HEALTH].latest
    parts = [(_TITLES[part], answers) for part, answers in latest.items()]
    return {"parts": parts, "all_answer": all(latest.values())}


async def show_status(request: web.Request) -> web.StreamResponse:
    """Answer with the page."""
    response = await _render(request)
    response.headers["Content-Security-Policy"] = _POLICY
    response.headers["Cache-Control"] = "no-store"
    response.headers["X-Content-Type-Options"] = "nosniff"
    response.headers["Referrer-Policy"] = "no-referrer"
    return response
