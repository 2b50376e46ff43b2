"""nginx as a push service that says yes to everything: with it the worker is the limit, and not the server."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec

from bench.edge.certificate import make_certificate
from bench.edge.nginx import common_configuration, running_nginx
from bench.edge.servers import started
from bench.push.told import tell
from tests.components import free_port

MAIN = "events { worker_connections 4096; }"
HTTP = """  http2_max_concurrent_streams 1000;
  upstream answering {{ server unix:{socket}; keepalive 1000; keepalive_requests 1000000000; }}
  server {{
    listen 127.0.0.1:{port} ssl http2;
    ssl_certificate {certificate};
    ssl_certificate_key {key};
    location /3/device/ {{ {answer} }}
  }}"""
AT_ONCE = "return 200;"
LATER = """proxy_pass http://answering; proxy_http_version 1.1; proxy_set_header Connection "";
      proxy_pass_request_body off; proxy_set_header Content-Length "";"""


@contextmanager
def nginx(folder: Path) -> Iterator[None]:
    """Run nginx that answers at once within the block, and write what a worker is told of the server."""
    with _running(folder, AT_ONCE):
        yield


@contextmanager
def nginx_later(folder: Path, delay: float) -> Iterator[None]:
    """Run nginx that answers after ``delay`` seconds within the block."""
    socket = folder / "answering.sock"
    command = [sys.executable, "-m", "bench.push.answering", str(socket), str(delay)]
    with started(command, folder / "answering.log", lambda _: socket.exists()), _running(folder, LATER):
        yield


@contextmanager
def _running(folder: Path, answer: str) -> Iterator[None]:
    port, made = free_port(), make_certificate(folder)
    tell(folder, port, made.certificate.read_bytes(), ec.generate_private_key(ec.SECP256R1()))
    socket = folder / "answering.sock"
    http = HTTP.format(port=port, certificate=made.certificate, key=made.key, socket=socket, answer=answer)
    with running_nginx(folder, port, common_configuration(folder, MAIN, http)):
        yield
