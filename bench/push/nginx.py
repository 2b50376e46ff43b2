"""nginx as a push service that says yes to everything: with it the worker is the limit, and not the server."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from bench.edge.certificate import make_certificate
from bench.edge.nginx import program
from bench.edge.servers import started
from bench.edge.waiting import answers
from tests.components import free_port
from tests.control_plane.push.certificates import BUNDLE_ID
from tests.control_plane.push.conftest import KEY_ID, TEAM_ID

CONFIGURATION = """
{user}
worker_processes 1;
daemon off;
pid {folder}/nginx.pid;
error_log {folder}/error.log error;
events {{ worker_connections 256; }}
http {{
  access_log off;
  keepalive_requests 1000000000;
  http2_max_concurrent_streams 1000;
  client_body_temp_path {folder}/body;
  proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi;
  scgi_temp_path {folder}/scgi;
  server {{
    listen 127.0.0.1:{port} ssl http2;
    ssl_certificate {certificate};
    ssl_certificate_key {key};
    location /3/device/ {{ return 200; }}
  }}
}}
"""


@contextmanager
def nginx(folder: Path) -> Iterator[None]:
    """Run nginx within the block, and write what a worker is told of the server."""
    found = program()
    assert found is not None, "it was looked for before"
    port, made = free_port(), make_certificate(folder)
    file = folder / "nginx.conf"
    user = "user root root;" if os.geteuid() == 0 else ""
    file.write_text(
        CONFIGURATION.format(user=user, folder=folder, port=port, certificate=made.certificate, key=made.key)
    )
    (folder / "authority.pem").write_bytes(made.certificate.read_bytes())
    pem = ec.generate_private_key(ec.SECP256R1()).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    told = {"port": port, "key": pem.decode(), "key_id": KEY_ID, "team_id": TEAM_ID, "bundle_id": BUNDLE_ID}
    (folder / "server.json").write_text(json.dumps(told))
    with started([found, "-c", str(file), "-e", str(folder / "error.log")], folder / "log", answers(port)):
        yield
