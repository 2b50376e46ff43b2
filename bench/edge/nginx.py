"""nginx as its documentation tunes it for static files: one worker, sendfile, remembered files, no access log."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench.edge.certificate import Certificate
from bench.edge.servers import Server, started
from bench.edge.site import Site
from bench.edge.waiting import answers
from tests.components import find_program, free_port

# What every nginx here has: one worker in the foreground, and all its files in a folder of its own.
CONFIGURATION = """
{user}
worker_processes 1;
daemon off;
pid {folder}/nginx.pid;
error_log {folder}/error.log error;
{main}
http {{
  access_log off;
  keepalive_requests 1000000000;
  client_body_temp_path {folder}/body;
  proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi;
  scgi_temp_path {folder}/scgi;
{http}
}}
"""
# `tcp_nopush` waits for full packets: right for a blob, wrong for an answer of one packet. No header is added, so an
# answer of nginx is smaller than one of the edge, which says Cache-Control: that favours nginx.
MAIN = """worker_rlimit_nofile {files};
events {{ worker_connections {connections}; use epoll; }}"""
HTTP = """  server_tokens off;
  sendfile on;
  tcp_nodelay on;
  keepalive_timeout 300s;
  open_file_cache max=1000 inactive=300s;
  open_file_cache_valid 300s;
  open_file_cache_min_uses 1;
  default_type application/json;
  server {{
    listen 127.0.0.1:{port} backlog=4096 {ssl};
    {certificate}
    root {www};
    location /v2/artifacts/ {{ tcp_nopush on; default_type application/octet-stream; }}
  }}"""
TLS = """ssl_certificate {certificate}; ssl_certificate_key {key};
    ssl_protocols TLSv1.2 TLSv1.3; ssl_session_cache shared:TLS:10m;"""
CONNECTIONS = 16_384


def program() -> str | None:
    """Return nginx's path, or None."""
    found = find_program("nginx")
    return str(found) if found else None


@contextmanager
def nginx(site: Site, folder: Path, certificate: Certificate | None = None) -> Iterator[Server]:
    """Run nginx within the block, with TLS when there is a certificate."""
    port = free_port()
    with running_nginx(folder, port, configuration(site.www, folder, port, certificate)) as pid:
        yield Server("nginx", ("127.0.0.1", port), pid, tls=certificate is not None)


def configuration(www: Path, folder: Path, port: int, certificate: Certificate | None) -> str:
    """Return nginx's settings."""
    files = TLS.format(certificate=certificate.certificate, key=certificate.key) if certificate else ""
    main = MAIN.format(files=2 * CONNECTIONS, connections=CONNECTIONS)
    http = HTTP.format(www=www, port=port, ssl="ssl" if certificate else "", certificate=files)
    return common_configuration(folder, main, http)


def common_configuration(folder: Path, main: str, http: str) -> str:
    """Return the settings of any nginx here: what all have, and what one adds of its own."""
    user = "user root root;" if os.geteuid() == 0 else ""  # its workers must be able to read our private folder
    return CONFIGURATION.format(user=user, folder=folder, main=main, http=http)


@contextmanager
def running_nginx(folder: Path, port: int, settings: str) -> Iterator[int]:
    """Run an nginx within the block, with all its files in ``folder``; give its process id once it answers."""
    found = program()
    assert found is not None, "it was looked for before"
    file = folder / "nginx.conf"
    file.write_text(settings)
    with started([found, "-c", str(file), "-e", str(folder / "error.log")], folder / "log", answers(port)) as pid:
        yield pid
