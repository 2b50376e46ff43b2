"""nginx as its documentation tunes it for static files: one worker, sendfile, remembered files, no access log."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench.edge.certificate import Certificate
from bench.edge.servers import Server, started
from bench.edge.site import Site
from bench.edge.waiting import answers
from tests.components import free_port

# `tcp_nopush` waits for full packets: right for a blob, wrong for an answer of one packet. No header is added, so an
# answer of nginx is smaller than one of the edge, which says Cache-Control: that favours nginx.
CONFIGURATION = """
{user}
worker_processes 1;
worker_rlimit_nofile {files};
daemon off;
pid {folder}/nginx.pid;
error_log {folder}/error.log error;
events {{ worker_connections {connections}; use epoll; }}
http {{
  access_log off;
  server_tokens off;
  sendfile on;
  tcp_nodelay on;
  keepalive_timeout 300s;
  keepalive_requests 1000000000;
  open_file_cache max=1000 inactive=300s;
  open_file_cache_valid 300s;
  open_file_cache_min_uses 1;
  default_type application/json;
  client_body_temp_path {folder}/body;
  proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi;
  scgi_temp_path {folder}/scgi;
  server {{
    listen 127.0.0.1:{port} backlog=4096 {ssl};
    {certificate}
    root {www};
    location /v2/artifacts/ {{ tcp_nopush on; default_type application/octet-stream; }}
  }}
}}
"""
TLS = """ssl_certificate {certificate}; ssl_certificate_key {key};
    ssl_protocols TLSv1.2 TLSv1.3; ssl_session_cache shared:TLS:10m;"""
CONNECTIONS = 16_384


def program() -> str | None:
    """Return nginx's path. Debian puts it where an ordinary user's PATH does not look."""
    return shutil.which("nginx", path=os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin"]))


@contextmanager
def nginx(site: Site, folder: Path, certificate: Certificate | None = None) -> Iterator[Server]:
    """Run nginx within the block, with TLS when there is a certificate."""
    port = free_port()
    file = folder / "nginx.conf"
    file.write_text(configuration(site.www, folder, port, certificate))
    found = program()
    assert found is not None, "peers were looked up before"
    with started([found, "-c", str(file), "-e", str(folder / "error.log")], folder / "log", answers(port)) as pid:
        yield Server("nginx", ("127.0.0.1", port), pid, tls=certificate is not None)


def configuration(www: Path, folder: Path, port: int, certificate: Certificate | None) -> str:
    """Return nginx's settings."""
    files = TLS.format(certificate=certificate.certificate, key=certificate.key) if certificate else ""
    return CONFIGURATION.format(
        user="user root root;" if os.geteuid() == 0 else "",  # its workers must be able to read our private folder
        files=2 * CONNECTIONS,
        connections=CONNECTIONS,
        folder=folder,
        www=www,
        port=port,
        ssl="ssl" if certificate else "",
        certificate=files,
    )
