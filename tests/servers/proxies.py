"""nginx and HAProxy with the configurations in ``deploy/``: only ports, paths, users and certificates are replaced."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from bench.edge.certificate import Certificate
from tests.components import free_port, require

DEPLOY = Path(__file__).parents[2] / "deploy"
START_SECONDS = 20.0
# What Debian's nginx.conf has around the files in conf.d, as far as it matters, with every path in a folder of ours.
AROUND_NGINX = """
{user}
worker_processes 2;
daemon off;
pid {folder}/nginx.pid;
error_log {folder}/error.log;
events {{ worker_connections 768; }}
http {{
  sendfile on;
  tcp_nopush on;
  default_type application/octet-stream;
  access_log {folder}/access.log;
  gzip on;
  client_body_temp_path {folder}/body;
  proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi;
  scgi_temp_path {folder}/scgi;
  include {included};
}}
"""
# The edge workers in the configurations: device API and metrics.
WORKERS = (("127.0.0.1:8821", "8921"), ("127.0.0.1:8822", "8922"))


def adapted(file: Path, replacements: Mapping[str, str]) -> str:
    """Return a configuration with these texts replaced; each must stand in it."""
    text = file.read_text()
    for old, new in replacements.items():
        assert old in text, f"{file.name} has no {old!r}"
        text = text.replace(old, new)
    return text


@contextmanager
def running_nginx(folder: Path, edges: Sequence[str], certificate: Certificate) -> Iterator[str]:
    """Run nginx within the block; give its ``host:port``.

    Args:
        folder: for its caches, logs and configuration.
        edges: ``host:port`` of the device API of two workers.
        certificate: for TLS.
    """
    address = f"127.0.0.1:{free_port()}"
    more = {"/var/lib/nginx/": f"{folder}/", **{old: new for (old, _), new in zip(WORKERS, edges, strict=True)}}
    with _running_nginx(folder, "skafos-edge.conf", address, certificate, more):
        yield address


@contextmanager
def running_nginx_for_people(folder: Path, control: str, certificate: Certificate, address: str) -> Iterator[None]:
    """Run nginx in front of a control plane within the block.

    Args:
        folder: for its logs and configuration.
        control: ``host:port`` of the control plane.
        certificate: for TLS.
        address: ``host:port`` where nginx is to listen, which the control plane has to know.
    """
    with _running_nginx(folder, "skafos-control.conf", address, certificate, {"127.0.0.1:8800": control}):
        yield


@contextmanager
def _running_nginx(
    folder: Path, name: str, address: str, certificate: Certificate, more: Mapping[str, str]
) -> Iterator[None]:
    program = require("nginx")
    configuration = adapted(
        DEPLOY / "nginx" / name,
        {
            "listen 443 ": f"listen {address} ",
            "    listen [::]:443 ssl http2;\n": "",
            "/etc/ssl/skafos/certificate.pem": str(certificate.certificate),
            "/etc/ssl/skafos/key.pem": str(certificate.key),
            **more,
        },
    )
    (folder / name).write_text(configuration)
    user = "user root root;" if os.geteuid() == 0 else ""  # its workers must be able to read our private folder
    around = AROUND_NGINX.format(folder=folder, included=folder / name, user=user)
    (folder / "nginx.conf").write_text(around)
    command = [str(program), "-c", str(folder / "nginx.conf"), "-e", str(folder / "error.log")]
    with _running(command, folder, address):
        yield


@contextmanager
def running_haproxy(
    folder: Path, name: str, edges: Sequence[tuple[str, str]], certificate: Certificate | None
) -> Iterator[str]:
    """Run HAProxy within the block; give its ``host:port``.

    Args:
        folder: for its log and configuration.
        name: of the file in ``deploy/haproxy/``.
        edges: ``host:port`` of the device API, and of the metrics, of two workers.
        certificate: for TLS, if it ends there.
    """
    program = require("haproxy")
    address = f"127.0.0.1:{free_port()}"
    replacements = {
        "bind :443": f"bind {address}",
        "    user haproxy\n    group haproxy\n": "",
        "maxconn 20000": "maxconn 200",  # two files for each must be allowed to whoever runs the tests
    }
    if certificate is not None:
        both = folder / "haproxy.pem"
        both.touch(mode=0o600)
        both.write_bytes(certificate.certificate.read_bytes() + certificate.key.read_bytes())
        replacements["/etc/haproxy/skafos.pem"] = str(both)
    for (device, metrics), (edge, operations) in zip(WORKERS, edges, strict=True):
        replacements |= {device: edge, f"port {metrics}": f"port {operations.rpartition(':')[2]}"}
    (folder / "haproxy.cfg").write_text(adapted(DEPLOY / "haproxy" / name, replacements))
    with _running([str(program), "-db", "-f", str(folder / "haproxy.cfg")], folder, address):
        yield address


@contextmanager
def _running(command: Sequence[str], folder: Path, address: str) -> Iterator[None]:
    log = folder / "output.log"
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, stdin=subprocess.DEVNULL)
    try:
        _wait(process, address, log)
        yield
    finally:
        process.terminate()
        try:
            process.wait(START_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait(process: subprocess.Popen[bytes], address: str, log: Path) -> None:
    """Return when the process itself listens: a look at the kernel's table, so that no connection is made for it."""
    port = int(address.rpartition(":")[2])
    deadline = time.monotonic() + START_SECONDS
    while not _listens(port):
        if process.poll() is not None or time.monotonic() > deadline:
            pytest.fail(f"{process.args!r} did not start: {log.read_text()[-2000:]}")
        time.sleep(0.02)


def _listens(port: int) -> bool:
    """Tell whether somebody listens on the port; state 0A in /proc/net/tcp (proc(5))."""
    lines = Path("/proc/net/tcp").read_text().splitlines()[1:]
    return any(fields[1].endswith(f":{port:04X}") and fields[3] == "0A" for fields in map(str.split, lines))
