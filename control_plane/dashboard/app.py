"""The dashboard, added to the control plane's application: its pages, the door for its forms, its files."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any, Final

import aiohttp_jinja2
import jinja2
from aiohttp import web

from control_plane.api.table import ROUTES
from control_plane.dashboard.addresses import address
from control_plane.dashboard.door import add_door
from control_plane.dashboard.entrance import add_entrance
from control_plane.dashboard.live import Live
from control_plane.dashboard.page import add_pages
from control_plane.dashboard.render import show_count, show_moment, show_size
from control_plane.dashboard.table import MODEL, PAGES
from control_plane.status_page import TEMPLATES as STATUS_TEMPLATES

_HERE: Final = Path(__file__).parent
STATIC: Final = "/assets"
# Names of files hold their hash, so a file never changes.
_FOR_EVER: Final = "public, max-age=31536000, immutable"
_TYPES: Final = {".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}


def add_dashboard(app: web.Application) -> None:
    """Add the dashboard."""
    files = _Files(_HERE / "static")
    environment = aiohttp_jinja2.setup(
        app, loader=jinja2.FileSystemLoader([_HERE / "templates", STATUS_TEMPLATES]), autoescape=True
    )
    environment.trim_blocks = environment.lstrip_blocks = True
    environment.undefined = jinja2.StrictUndefined
    environment.globals.update(address=address, asset=files.address_of, count=show_count)
    environment.filters.update(moment=show_moment, size=show_size)
    app.router.add_get(f"{STATIC}/{{hash}}/{{name}}", files.serve)
    live = Live()
    app.router.add_get(f"{MODEL}/live", live.stream)
    app.on_shutdown.append(live.close)
    add_entrance(app)
    add_pages(app, PAGES)
    add_door(app, ROUTES)


class _Files:
    """Scripts and style sheets, read once: there are few, and they are small."""

    def __init__(self, folder: Path) -> None:
        self._contents = {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.suffix in _TYPES}
        self._hashes = {name: hashlib.sha256(content).hexdigest()[:16] for name, content in self._contents.items()}

    def address_of(self, name: str) -> str:
        """Return where a file is."""
        return f"{STATIC}/{self._hashes[name]}/{name}"

    async def serve(self, request: web.Request) -> web.Response:
        """Answer with a file."""
        name = request.match_info["name"]
        if self._hashes.get(name) != request.match_info["hash"]:
            raise web.HTTPNotFound
        headers: dict[str, Any] = {"Cache-Control": _FOR_EVER, "X-Content-Type-Options": "nosniff"}
        response = web.Response(body=self._contents[name], content_type=_TYPES[Path(name).suffix], headers=headers)
        response.enable_compression()
        return response
