"""The dashboard, added to the control plane's application: its pages, the door for its forms, its files."""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import shlex
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Final

import aiohttp_jinja2
import jinja2
from aiohttp import web

from control_plane.api.route import for_router
from control_plane.api.table import ROUTES
from control_plane.dashboard import monitor
from control_plane.dashboard.addresses import address
from control_plane.dashboard.by_mail import add_by_mail
from control_plane.dashboard.door import add_door
from control_plane.dashboard.entrance import add_entrance
from control_plane.dashboard.live import Live, look_at_model
from control_plane.dashboard.openid import add_openid
from control_plane.dashboard.page import add_pages
from control_plane.dashboard.render import show_count, show_moment, show_size, show_text, swift_literal
from control_plane.dashboard.second_factor import add_second_factor
from control_plane.dashboard.table import FILES, MODEL, PAGES
from control_plane.status_page import TEMPLATES as STATUS_TEMPLATES

_HERE: Final = Path(__file__).parent
STATIC: Final = "/assets"
# Names of files hold their hash, so a file never changes.
_FOR_EVER: Final = "public, max-age=31536000, immutable"
_TYPES: Final = {".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}


def add_dashboard(app: web.Application) -> None:
    """Add the dashboard."""
    files = _Files(_HERE / "static", {"bokeh.js": _bokeh_script})
    loader = jinja2.FileSystemLoader([_HERE / "templates", STATUS_TEMPLATES])
    environment = aiohttp_jinja2.setup(app, loader=loader, autoescape=True, finalize=show_text)
    environment.trim_blocks = environment.lstrip_blocks = True
    environment.undefined = jinja2.StrictUndefined
    environment.globals.update(address=address, asset=files.address_of, count=show_count)
    environment.filters.update(moment=show_moment, size=show_size, shell=shlex.quote, swift=swift_literal)
    app.router.add_get(f"{STATIC}/{{hash}}/{{name}}", files.serve)
    live = Live()
    app.router.add_get(for_router(f"{MODEL}/live"), live.telling(look_at_model))
    app.router.add_get(for_router(f"{MODEL}/monitor/live"), live.telling(monitor.look))
    app.on_shutdown.append(live.close)
    add_entrance(app)
    add_by_mail(app)
    add_openid(app)
    add_second_factor(app)
    add_pages(app, PAGES, FILES)
    add_door(app, ROUTES)


def _bokeh_script() -> Path:
    """Return Bokeh's script, which draws the charts, as the package has it; finding it does not import the package."""
    found = find_spec("bokeh")
    assert found is not None, "the package bokeh is not installed"
    assert found.origin is not None, "the package bokeh is no folder"
    return Path(found.origin).parent / "server" / "static" / "js" / "bokeh.min.js"


class _Files:
    """Scripts and style sheets, read once, the small ones of ours at the start.

    Args:
        folder: of ours.
        later: by name, what says where a large one is that is read when a page needs it.
    """

    def __init__(self, folder: Path, later: Mapping[str, Callable[[], Path]]) -> None:
        self._later = later
        self._contents = {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.suffix in _TYPES}
        self._hashes = {name: _hash_of(content) for name, content in self._contents.items()}
        self._packed: dict[str, bytes] = {}

    def address_of(self, name: str) -> str:
        """Return where a file is."""
        if name not in self._hashes:
            self._contents[name] = self._later[name]().read_bytes()
            self._hashes[name] = _hash_of(self._contents[name])
        return f"{STATIC}/{self._hashes[name]}/{name}"

    async def serve(self, request: web.Request) -> web.Response:
        """Answer with a file."""
        name = request.match_info["name"]
        if self._hashes.get(name) != request.match_info["hash"]:
            raise web.HTTPNotFound
        headers = {"Cache-Control": _FOR_EVER, "X-Content-Type-Options": "nosniff", "Vary": "Accept-Encoding"}
        body = self._contents[name]
        if "gzip" in request.headers.get("Accept-Encoding", ""):
            headers["Content-Encoding"] = "gzip"
            if name not in self._packed:  # in a thread: the largest takes some 100 ms
                self._packed[name] = await asyncio.to_thread(gzip.compress, body, mtime=0)
            body = self._packed[name]
        return web.Response(body=body, content_type=_TYPES[Path(name).suffix], headers=headers)


def _hash_of(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]
