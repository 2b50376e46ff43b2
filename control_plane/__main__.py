"""`python -m control_plane`: serve; `… bootstrap` and `… token`: what an operator does before there is a token; `…
collect-garbage`: what a control plane does daily, at once; `… add-signing-key`: a key of a KMS or an HSM for the pool;
`… rotate-master-key`: what is sealed is sealed anew; `… second-factor-off`: for who lost phone and codes.

Imports stay inside the functions: the processes that make patches import this file too.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Coroutine, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from control_plane.database import Database
    from control_plane.settings import Settings

# By then every part that is going to answer does; the API answers without the others, and `/readyz` names them.
ALL_ANSWER_SECONDS = 10.0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    options = _parser().parse_args(arguments)
    settings = _settings()
    if settings is None:
        return 2
    from artifacts.errors import ArtifactError
    from control_plane.errors import ControlPlaneError
    from control_plane.migrate import NewerDatabase
    from control_plane.sealing import BadKeyFile, CannotOpen

    try:
        _run(_command(options, settings))
    except (ControlPlaneError, ArtifactError, NewerDatabase, BadKeyFile, CannotOpen, OSError, ValueError) as error:
        print(f"control_plane: {error}", file=sys.stderr)
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("python -m control_plane", description="Skafos' control plane.")
    commands = parser.add_subparsers(dest="command", title="commands (none: serve)")
    first = commands.add_parser("bootstrap", help="make the first user, organization and token; prints JSON")
    first.add_argument("--organization", required=True)
    token = commands.add_parser("token", help="make a token for a user who is a member already; prints JSON")
    garbage = commands.add_parser("collect-garbage", help="free blobs and uploads that nothing names; prints JSON")
    garbage.add_argument("--older-than", type=float, metavar="HOURS", help="leave younger ones alone (24, at least 6)")
    garbage.add_argument("--dry-run", action="store_true", help="only count")
    key = commands.add_parser("add-signing-key", help="put a key of a KMS or an HSM into the pool; prints JSON")
    key.add_argument("--uri", required=True, help="of the private key, as securesystemslib's signers take it")
    key.add_argument("--public", required=True, type=Path, metavar="FILE", help="the public half, as PEM")
    commands.add_parser("rotate-master-key", help="seal what is sealed with a new master key; prints JSON")
    link = commands.add_parser("sign-in-link", help="make a link that signs a user in to the dashboard; prints JSON")
    off = commands.add_parser("second-factor-off", help="let a user sign in without a code; prints JSON")
    for command in (first, token, link, off):
        command.add_argument("--email", required=True)
    for command in (first, token):
        command.add_argument("--token-name", default="bootstrap")
    return parser


def _settings() -> Settings | None:
    """Return the settings, or tell what is wrong with them, without their values: some hold passwords."""
    from pydantic import ValidationError

    from control_plane.settings import Settings

    try:
        return Settings()
    except ValidationError as error:
        for problem in error.errors(include_input=False, include_url=False):
            name = f"SKAFOS_{'_'.join(map(str, problem['loc'])).upper()}: " if problem["loc"] else ""
            print(f"control_plane: {name}{problem['msg']}", file=sys.stderr)
    return None


def _command(options: argparse.Namespace, settings: Settings) -> Coroutine[Any, Any, None]:
    if options.command == "bootstrap":
        return _bootstrap(settings, options.organization, options.email, options.token_name)
    if options.command == "token":
        return _token(settings, options.email, options.token_name)
    if options.command == "sign-in-link":
        return _sign_in_link(settings, options.email)
    if options.command == "second-factor-off":
        return _second_factor_off(settings, options.email)
    if options.command == "add-signing-key":
        return _add_signing_key(settings, options.uri, options.public)
    if options.command == "collect-garbage":
        return _collect_garbage(settings, options.older_than, options.dry_run)
    if options.command == "rotate-master-key":
        return _rotate_master_key(settings)
    return _serve(settings)


def _run(command: Coroutine[Any, Any, None]) -> None:
    import uvloop

    from control_plane.logs import log_as_json

    log_as_json()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(command)


async def _serve(settings: Settings) -> None:
    from control_plane.app import control_plane
    from control_plane.loaded import leave_alone_what_is_loaded

    told_to_end = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, told_to_end.set)
    async with control_plane(settings) as running:
        waiting = asyncio.create_task(running.health.wait_for_all(ALL_ANSWER_SECONDS))
        ending = asyncio.create_task(told_to_end.wait())
        await asyncio.wait({waiting, ending}, return_when=asyncio.FIRST_COMPLETED)
        waiting.cancel()
        leave_alone_what_is_loaded()
        _tell_ready(settings, running.listen, running.metrics)
        await ending


def _tell_ready(settings: Settings, listen: str, metrics: str) -> None:
    """Log where we answer, and write the ready file if one is asked for: whole or not at all."""
    import orjson
    import structlog

    ready = {"pid": os.getpid(), "listen": listen, "metrics": metrics}
    structlog.get_logger("control_plane").info("serving", **ready)
    if settings.control_ready_file is not None:
        fresh = settings.control_ready_file.with_name(settings.control_ready_file.name + ".new")
        fresh.write_bytes(orjson.dumps(ready))
        fresh.rename(settings.control_ready_file)


async def _bootstrap(settings: Settings, organization: str, email: str, token_name: str) -> None:
    from control_plane.bootstrap import bootstrap, sign_in_link

    async with _database(settings) as database:
        token = await bootstrap(database, organization, email, token_name)
        path = await sign_in_link(database, email)
    _print_json({"organization": organization, "api_token": token, "sign_in_path": path})


async def _sign_in_link(settings: Settings, email: str) -> None:
    from control_plane.bootstrap import sign_in_link

    async with _database(settings) as database:
        path = await sign_in_link(database, email)
    address = (settings.control_public_url or f"http://{settings.control_listen}").rstrip("/")
    _print_json({"sign_in_url": f"{address}{path}"})


async def _second_factor_off(settings: Settings, email: str) -> None:
    from control_plane.bootstrap import second_factor_off

    async with _database(settings) as database:
        was_on = await second_factor_off(database, email)
    _print_json({"email": email, "was_on": was_on})


async def _token(settings: Settings, email: str, token_name: str) -> None:
    from control_plane.bootstrap import issue_token

    async with _database(settings) as database:
        token = await issue_token(database, email, token_name)
    _print_json({"email": email, "api_token": token})


async def _collect_garbage(settings: Settings, older_than: float | None, dry_run: bool) -> None:
    from dataclasses import asdict
    from datetime import timedelta

    from artifacts.store import open_store
    from control_plane.garbage import GRACE, MAX_GRACE, MIN_GRACE, GarbageCollector
    from control_plane.tables import utc_now

    least, most = (bound // timedelta(hours=1) for bound in (MIN_GRACE, MAX_GRACE))
    if older_than is not None and not least <= older_than <= most:
        raise ValueError(f"--older-than must be from {least} to {most} hours: uploads take time")
    grace = GRACE if older_than is None else timedelta(hours=older_than)
    async with _database(settings) as database:
        collected = await GarbageCollector(database, open_store(settings.objects)).collect(utc_now(), grace, dry_run)
    _print_json(asdict(collected) | {"dry_run": dry_run})


async def _add_signing_key(settings: Settings, uri: str, public: Path) -> None:
    from manifests.key_pool import MAX_ENTRY_BYTES, KeyPool

    if settings.signing_keys != "pool":
        raise ValueError("SKAFOS_SIGNING_KEYS is not pool, so no key would ever be taken from there")
    with public.open("rb") as file:
        pem = file.read(MAX_ENTRY_BYTES)
    pool = await asyncio.to_thread(KeyPool, settings.keys)
    key_id = await asyncio.to_thread(pool.put, uri, pem)
    _print_json({"key_id": key_id, "left": pool.left()})


async def _rotate_master_key(settings: Settings) -> None:
    from control_plane.push.vault import Vault
    from control_plane.sealing import MasterKeys

    async with _database(settings) as database:
        renewed, forgotten = await Vault(database, MasterKeys(settings.master_keys_file)).rotate()
    _print_json({"renewed": renewed, "forgotten": forgotten})


@asynccontextmanager
async def _database(settings: Settings) -> AsyncIterator[Database]:
    """Open the database, migrated."""
    from control_plane.database import Database
    from control_plane.migrate import migrate

    settings.data.mkdir(parents=True, exist_ok=True, mode=0o700)
    database = Database(settings.database)
    try:
        await migrate(database)
        yield database
    finally:
        await database.close()


def _print_json(answer: Mapping[str, Any]) -> None:
    import json

    print(json.dumps(dict(answer)))


if __name__ == "__main__":
    sys.exit(main())
