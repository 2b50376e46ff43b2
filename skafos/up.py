"""`skafos up`: the whole of Skafos on one machine, with embedded engines, as one command.

The story, from top to bottom of ``serve``: one `up` a data directory → ports are free → Redis → control plane and edge
workers → all of them answer → a token that works → ``connection.json`` → (the demonstration) → until told to stop.
What dies is started again; at the end everything ends in reverse order. Nothing here is needed again by hand: the same
data directory continues where it was, also after everything was killed.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import json
import os
import shutil
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from skafos.announce import Announcer
from skafos.demo_models import ModelsMissing, models_folder
from skafos.installation import MOST_WORKERS, Address, Installation, python
from skafos.supervise import Child, Supervisor, last_lines

ORGANIZATION = "example"
OWNER = "owner@example.org"
TOKEN_NAME = "skafos up"  # noqa: S105  its name, not the token

# A cold start takes a few seconds; a disk that is asleep or a busy machine may need several times that.
START_SECONDS = 90
# The demonstration uploads 12 MB of models and deploys four versions.
DEMONSTRATION_SECONDS = 180
# Edges finish running requests and flush their spools; then the rest is killed.
STOP_SECONDS = 25
# A child that died this often before it ever answered will not answer at all.
MOST_STARTS = 5
# After a `kill -9` of everything, the kernel may need a moment to free ports and locks.
RELEASE_SECONDS = 3
POLL_SECONDS = 0.02
REQUEST_SECONDS = 10
LOG_LINES_SHOWN = 15
# An empty installation starts in 3 MB. More than a little is not asked for, because one that is there already still
# serves what it has; what comes in and finds no room is refused by the part that it comes to.
LEAST_FREE_BYTES = 16_000_000
MB = 1_000_000


class UpError(Exception):
    """Skafos could not be started; the sentence says why."""


def run(data: Path, control: str, edge: str, workers: int, demo: bool, announcer: Announcer) -> int:
    """Run everything until SIGINT or SIGTERM, and return the exit code.

    Args:
        data: the directory of everything that is kept; created when it is missing.
        control: ``HOST:PORT`` of the control plane; port 0 picks a free one.
        edge: ``HOST:PORT`` that the edge workers share; port 0 picks a free one.
        workers: how many edge workers.
        demo: whether to set up and play the demonstration.
        announcer: tells the user.
    """
    try:
        installation = plan(data, control, edge, workers, os.environ)
        if demo:
            models_folder(os.environ)
        with only_one(installation):
            return asyncio.run(serve(installation, demo, announcer))
    except (UpError, ModelsMissing) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


def plan(data: Path, control: str, edge: str, workers: int, settings: Mapping[str, str]) -> Installation:
    """Return what to run, and make its directories.

    Raises:
        UpError: an address or the number of workers makes no sense, or the directory cannot be used.
    """
    if not 1 <= workers <= MOST_WORKERS:
        raise UpError(f"the number of workers is between 1 and {MOST_WORKERS}, not {workers}")
    try:
        addresses = with_ports([Address.parse(text) for text in (control, edge)])
    except ValueError as error:
        raise UpError(str(error)) from error
    if addresses[0] == addresses[1]:
        raise UpError(f"control plane and edge cannot both listen on {addresses[0]}")
    installation = Installation(data.expanduser().resolve(), addresses[0], addresses[1], workers, settings)
    make_directories(installation)
    return installation


def make_directories(installation: Installation) -> None:
    """Make the data directory, readable by its owner only because it holds signing keys and a token."""
    try:
        for path in (installation.data, installation.run, installation.logs, installation.data / "redis"):
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
        folder = installation.socket_directory
        folder.mkdir(mode=0o700, exist_ok=True)
    except FileExistsError as error:
        raise UpError(f"the data directory {installation.data} cannot be used: {error.filename} is a file") from error
    except OSError as error:
        raise unusable(installation, error) from error
    # A directory of somebody else's under the shared temporary one could hold a socket of somebody else's.
    if folder.stat().st_uid != os.getuid():
        raise UpError(f"{folder} belongs to another user; choose a shorter --data")


def unusable(installation: Installation, error: OSError) -> UpError:
    """Return the error that says why the data directory cannot be used."""
    return UpError(f"the data directory {installation.data} cannot be used: {error.strerror}")


def ensure_room(directory: Path, least_bytes: int) -> None:
    """Refuse to start on a full disk: the engines would die one after the other, without room to log why.

    Raises:
        UpError: fewer than ``least_bytes`` are free where ``directory`` is.
    """
    free = shutil.disk_usage(directory).free
    if free < least_bytes:
        raise UpError(
            f"the disk of {directory} is nearly full: {free // MB} MB are free and {least_bytes // MB} MB are needed; "
            "make room, or choose another --data"
        )


@contextlib.contextmanager
def only_one(installation: Installation) -> Iterator[None]:
    """Hold the lock of the data directory. The kernel drops it when this process ends, however it ends.

    Raises:
        UpError: another `skafos up` holds it, or it cannot be written.
    """
    with contextlib.ExitStack() as stack:
        try:
            file = stack.enter_context(installation.lock.open("a+"))
        except OSError as error:
            raise unusable(installation, error) from error
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.seek(0)
            holder = file.read(20).strip() or "unknown"
            raise UpError(
                f"another `skafos up` is running on {installation.data} (process {holder}); "
                "stop it, or choose another --data"
            ) from error
        file.truncate(0)
        ensure_room(installation.data, LEAST_FREE_BYTES)
        file.write(str(os.getpid()))
        file.flush()
        yield


async def serve(installation: Installation, demo: bool, announcer: Announcer) -> int:
    """Start everything, tell the user, wait for the signal to stop, and end everything."""
    stop = stop_signal()
    supervisor = Supervisor(report=announcer.say)
    try:
        if not await or_stopped(start(installation, supervisor, demo, announcer), stop):
            return 0
        await stop.wait()
        return 0
    finally:
        if supervisor.children:
            announcer.say("stopping …")
            await supervisor.stop(STOP_SECONDS)
            announcer.say("stopped")


async def start(installation: Installation, supervisor: Supervisor, demo: bool, announcer: Announcer) -> None:
    """Bring everything up in order, and print how to reach it once all of it answers.

    Raises:
        UpError: a port is taken, or a process never answers.
    """
    began = time.monotonic()
    for address in (installation.control, installation.edge):
        await until_free(address)
    ensure_apart(installation.control, installation.edge)
    if installation.redis_socket:
        await start_redis(installation, supervisor, installation.redis_socket)
    servers = [supervisor.start(installation.control_plane())]
    servers += [supervisor.start(installation.edge_worker(number)) for number in range(installation.workers)]
    for server in servers:
        await until_answering(server, time.monotonic() + START_SECONDS)
    connection, sign_in = await connect(installation)
    write_connection(installation.connection, connection)
    announcer.running(installation, connection, time.monotonic() - began, sign_in)
    if demo:
        await start_demonstration(installation, supervisor, connection, announcer)
    announcer.started()


async def start_demonstration(
    installation: Installation, supervisor: Supervisor, connection: Mapping[str, str], announcer: Announcer
) -> None:
    """Start the demonstration and print what to try. When it cannot start, say so: Skafos itself runs on."""
    announcer.say("setting up the demonstration …")
    child = supervisor.start(installation.demonstration())
    try:
        made = await until_ready(child, time.monotonic() + DEMONSTRATION_SECONDS)
    except UpError as error:
        await child.stop(STOP_SECONDS)
        announcer.say(str(error))
    else:
        announcer.demonstration(connection, made)


async def start_redis(installation: Installation, supervisor: Supervisor, path: Path) -> None:
    """Start the embedded Redis, and wait until it has read its data and answers.

    Raises:
        UpError: no server is found, or it never answers.
    """
    from manifests.redis_server import find_redis_server

    try:
        server = find_redis_server()
    except FileNotFoundError as error:
        raise UpError(str(error)) from error
    child = supervisor.start(installation.redis(server))
    deadline = time.monotonic() + START_SECONDS
    while not await redis_answers(path):
        give_up_on(child, deadline)
        await asyncio.sleep(POLL_SECONDS)


async def redis_answers(path: Path) -> bool:
    """Tell whether the server on the socket ``path`` answers PING; while it loads its data it answers with an error."""
    try:
        reader, writer = await asyncio.open_unix_connection(str(path))
    except OSError:
        return False
    try:
        writer.write(b"PING\r\n")
        # Not `wait_for`: on Python 3.11 it swallows a cancellation that comes together with the answer (CPython 86296).
        async with asyncio.timeout(REQUEST_SECONDS):
            return await reader.readline() == b"+PONG\r\n"
    except (OSError, TimeoutError):
        return False
    finally:
        writer.close()


async def until_answering(server: Child, deadline: float) -> None:
    """Wait until ``server`` has written its ready file and says that it is ready, on its port for operators.

    Raises:
        UpError: it keeps dying, or is not ready at the ``deadline`` (of the monotonic clock).
    """
    while True:
        ready = await until_ready(server, deadline)
        if await asyncio.to_thread(says_ready, f"http://{ready['metrics']}/readyz"):
            return
        give_up_on(server, deadline)
        await asyncio.sleep(POLL_SECONDS)


def says_ready(url: str) -> bool:
    """Tell whether ``url`` answers with status 200."""
    try:
        with urlopen(url, timeout=REQUEST_SECONDS):  # noqa: S310  our own http address
            return True
    except OSError:
        return False


async def until_ready(child: Child, deadline: float) -> dict[str, Any]:
    """Wait until ``child`` has written its ready file, and return what it says.

    Raises:
        UpError: it keeps dying, or is not ready at the ``deadline`` (of the monotonic clock).
    """
    ready_file = child.program.ready_file
    assert ready_file is not None
    while not ready_file.exists():
        give_up_on(child, deadline)
        await asyncio.sleep(POLL_SECONDS)
    ready: dict[str, Any] = json.loads(ready_file.read_bytes())
    return ready


def give_up_on(child: Child, deadline: float) -> None:
    """Raise ``UpError`` with the end of the child's log if it cannot be expected to answer any more."""
    if child.starts <= MOST_STARTS and time.monotonic() < deadline:
        return
    shown = last_lines(child.program.log, LOG_LINES_SHOWN)
    raise UpError(f"{child.program.name} does not start; its log {child.program.log} ends with:\n{shown}")


async def connect(installation: Installation) -> tuple[dict[str, str], str | None]:
    """Return what clients need to know, with the token of the last time if it still works, else with a new one.

    Returns:
        The content of ``connection.json``; and, the first time, the address that signs the owner in to the dashboard.
    """
    sign_in = None
    known = read_connection(installation.connection)
    url = installation.control.url
    token, organization = known.get("api_token", ""), known.get("organization", ORGANIZATION)
    organizations = await asyncio.to_thread(organizations_of, url, token) if token else None
    if organizations is None:
        token, sign_in_path = await new_token(installation)
        sign_in = sign_in_path and f"{url}{sign_in_path}"
        organizations = await asyncio.to_thread(organizations_of, url, token)
    # It may have been renamed since.
    if organizations and organization not in organizations:
        organization = organizations[0]
    return {
        "control_url": url,
        "edge_url": installation.edge_url,
        "dashboard_url": f"{url}/",
        "api_token": token,
        "organization": organization,
    }, sign_in


def organizations_of(url: str, token: str) -> list[str] | None:
    """Ask the control plane at ``url`` which organizations ``token`` sees; None when it does not know the token.

    Raises:
        UpError: it does not answer, or not as it should.
    """
    request = Request(f"{url}/v2/me", headers={"X-API-TOKEN": token})  # noqa: S310  our own http address
    try:
        with urlopen(request, timeout=REQUEST_SECONDS) as answer:  # noqa: S310
            return [organization["name"] for organization in json.load(answer)["organizations"]]
    except HTTPError as error:
        if error.code in (401, 403):
            return None
        raise UpError(f"the control plane at {url} answers with status {error.code}") from error
    except OSError as error:
        raise UpError(f"the control plane at {url} does not answer: {error}") from error


async def new_token(installation: Installation) -> tuple[str, str | None]:
    """Make one more token of the owner; the first time, also the owner and the first organization.

    Returns:
        The token; and, the first time, the path that signs the owner in to the dashboard once.

    Raises:
        UpError: neither can be done; the command's own message is shown.
    """
    whose = ("--email", OWNER, "--token-name", TOKEN_NAME)
    made, _ = await administer(installation, "token", *whose)
    if made is None:
        made, complaint = await administer(installation, "bootstrap", "--organization", ORGANIZATION, *whose)
        if made is None:
            raise UpError(f"the first organization could not be created: {complaint}")
    return made["api_token"], made.get("sign_in_path")


async def administer(installation: Installation, *command: str) -> tuple[dict[str, str] | None, str]:
    """Run a command of the control plane beside it; return its JSON, or None when it failed, and what it complained."""
    process = await asyncio.create_subprocess_exec(
        *python("control_plane", *command),
        env=installation.control_plane().environment,
        cwd=installation.run,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(START_SECONDS):
            output, complaint = await process.communicate()
    except TimeoutError as error:
        raise UpError(f"`control_plane {command[0]}` did not end within {START_SECONDS} s") from error
    finally:
        if process.returncode is None:
            process.kill()
    made: dict[str, str] | None = None if process.returncode else json.loads(output)
    return made, complaint.decode(errors="replace").strip()


def read_connection(path: Path) -> dict[str, str]:
    """Return what ``connection.json`` says, or nothing when it is missing or broken."""
    try:
        known = json.loads(path.read_bytes())
    except (FileNotFoundError, ValueError):
        return {}
    return known if isinstance(known, dict) else {}


def write_connection(path: Path, connection: Mapping[str, str]) -> None:
    """Write ``connection.json`` whole or not at all, readable by its owner only because it holds a token."""
    descriptor, part = tempfile.mkstemp(dir=path.parent, prefix=".connection-")
    with os.fdopen(descriptor, "w") as file:
        json.dump(connection, file, indent=2)
        file.write("\n")
        file.flush()
        os.fsync(file.fileno())
    Path(part).replace(path)


def with_ports(addresses: Sequence[Address]) -> list[Address]:
    """Return ``addresses`` with free ports in place of port 0, another one for each.

    Raises:
        UpError: this machine has no such address.
    """
    with ExitStack() as held:  # a port that was let go of could be given once more

        def picked(address: Address) -> Address:
            if address.port:
                return address
            return Address(address.host, int(held.enter_context(listening_socket(address)).getsockname()[1]))

        return [picked(address) for address in addresses]


async def until_free(address: Address) -> None:
    """Wait a moment for a killed predecessor to let go of ``address``.

    Raises:
        UpError: somebody else listens there, or it is not ours to listen on.
    """
    deadline = time.monotonic() + RELEASE_SECONDS
    while True:
        try:
            listening_socket(address).close()
            return
        except UpError:
            if time.monotonic() > deadline:
                raise
            await asyncio.sleep(POLL_SECONDS)


def ensure_apart(control: Address, edge: Address) -> None:
    """Refuse two addresses that are free one by one and not together, as 0.0.0.0:8800 and localhost:8800 are.

    Raises:
        UpError: one of them includes the other.
    """
    with listening_socket(control) as first:
        first.listen()
        try:
            listening_socket(edge).close()
        except UpError as error:
            raise UpError(
                f"control plane and edge cannot listen on {control} and {edge}: the port is the same"
            ) from error


def listening_socket(address: Address) -> socket.socket:
    """Return a socket that is bound to ``address``.

    Raises:
        UpError: somebody else listens there, or it is not ours to listen on.
    """
    probe = socket.socket(socket.AF_INET6 if ":" in address.host else socket.AF_INET)
    probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        probe.bind((address.host, address.port))
    except OSError as error:
        probe.close()
        if error.errno == errno.EADDRINUSE:
            raise UpError(f"{address} is in use by another program; choose another with --control or --edge") from error
        raise UpError(f"cannot listen on {address}: {error.strerror or error}") from error
    return probe


def stop_signal() -> asyncio.Event:
    """Return an event that is set by SIGINT (Ctrl-C) or SIGTERM."""
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    return stop


async def or_stopped(work: Any, stop: asyncio.Event) -> bool:
    """Run ``work`` unless ``stop`` is set first; return whether it was done."""
    working, stopping = asyncio.ensure_future(work), asyncio.ensure_future(stop.wait())
    try:
        await asyncio.wait({working, stopping}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            return False
        await working
        return True
    finally:
        for task in (working, stopping):
            task.cancel()
        await asyncio.gather(working, stopping, return_exceptions=True)
