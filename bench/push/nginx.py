"""nginx as a push service that says yes to everything: with it the worker is the limit, and not the server."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec

from bench.edge.certificate import make_certificate
from bench.edge.nginx import common_configuration, running_nginx
from bench.push.told import tell
from tests.components import free_port

MAIN = "events { worker_connections 256; }"
HTTP = """  http2_max_concurrent_streams 1000;
  server {{
    listen 127.0.0.1:{port} ssl http2;
    ssl_certificate {certificate};
    ssl_certificate_key {key};
    location /3/device/ {{ return 200; }}
  }}"""


@contextmanager
def nginx(folder: Path) -> Iterator[None]:
    """Run nginx within the block, and write what a worker is told of the server."""
    port, made = free_port(), make_certificate(folder)
    tell(folder, port, made.certificate.read_bytes(), ec.generate_private_key(ec.SECP256R1()))
    http = HTTP.format(port=port, certificate=made.certificate, key=made.key)
    with running_nginx(folder, port, common_configuration(folder, MAIN, http)):
        yield
