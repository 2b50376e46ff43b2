"""A manifest behind granian, over its own interface (RSGI), which spares what ASGI costs.

Runs in ``.venv-bench`` and imports nothing of ours. ``BENCH_MANIFEST`` names the file, ``BENCH_PATH`` the path.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

_BODY = Path(os.environ["BENCH_MANIFEST"]).read_bytes() if "BENCH_MANIFEST" in os.environ else b""
_PATH = os.environ.get("BENCH_PATH", "")
_ETAG = f'"{hashlib.sha256(_BODY).hexdigest()[:32]}"'
_HEADERS = [("etag", _ETAG), ("cache-control", "public, max-age=30")]
_WITH_TYPE = [*_HEADERS, ("content-type", "application/json")]


async def app(scope: Any, protocol: Any) -> None:
    """Answer one request."""
    if scope.path != _PATH:
        protocol.response_empty(404, [])
    elif scope.headers.get("if-none-match") == _ETAG:
        protocol.response_empty(304, _HEADERS)
    else:
        protocol.response_bytes(200, _WITH_TYPE, _BODY)
