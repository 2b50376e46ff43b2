"""Waking devices up: what to push with, pushes and their history."""

from __future__ import annotations

import codecs
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from skafos.cli import options
from skafos.cli.export import Column, Table, print_csv, print_rows
from skafos.cli.output import ask, note, print_json, print_table
from skafos.cli.session import session
from skafos.exceptions import InvalidParamError

if TYPE_CHECKING:
    from skafos.records import PushCredential, PushedDevice, PushEffect, PushJob

app = options.family("Wake devices up: credentials, send, history, pause.")
credentials = options.family("What an environment pushes with: list, set, delete.")
app.add_typer(credentials, name="credentials")

APPLE, GOOGLE = "apns", "fcm"
FOLLOW_SECONDS = 1.0
KINDS = {"account": "service account"}
ENDED = ("finished", "cancelled", "failed")
COLUMNS = (
    Column("version", "integer"),
    Column("environment", "text"),
    Column("sent", "text"),
    Column("devices", "integer"),
    Column("accepted", "integer"),
    Column("gone", "integer"),
    Column("refused", "integer"),
    Column("apple_dev", "text"),
    Column("state", "text"),
    Column("counted", "integer", optional=True),
    Column("checked_in", "integer", optional=True),
    Column("activated", "integer", optional=True),
    Column("by", "text"),
    Column("id", "text"),
)

DEVICE_COLUMNS = (
    Column("device_id", "text"),
    Column("outcome", "text"),
    Column("reason", "text", optional=True),
    Column("sent_at", "moment"),
)

PushId = Annotated[str, typer.Argument(metavar="ID", help="The push's id, see: skafos push history.")]


@app.command("send")
def send(
    env: options.Env = "prod",
    sandbox: Annotated[
        bool | None,
        typer.Option(
            "--apple-sandbox/--apple-production",
            help="Through Apple's development server or not; by default in dev only.",
        ),
    ] = None,
    follow: Annotated[bool, typer.Option("--follow", help="Show progress until it ends.")] = False,
    org: options.Org = None,
    app: options.App = None,
    model: options.Model = None,
    json: options.Json = False,
) -> None:
    """Wake an environment's devices. They fetch what it offers; users see nothing."""
    with session(org, app, model) as chosen:
        names = chosen.of_model
        job = chosen.client.send_push(*names, environment=env, apple_sandbox=sandbox)
        while follow and job.state not in ENDED:
            time.sleep(FOLLOW_SECONDS)
            job = chosen.client.get_push(*names, job.id)
            if not json:
                print(f"{job.state}: {job.targeted} devices, {job.accepted} accepted", file=sys.stderr)
    if json:
        print_json(job)
    else:
        _print_job(job)


@app.command("status")
def status(
    push_id: PushId,
    org: options.Org = None,
    app: options.App = None,
    model: options.Model = None,
    json: options.Json = False,
) -> None:
    """Show a push with what became of it so far."""
    with session(org, app, model) as chosen:
        job = chosen.client.get_push(*chosen.of_model, push_id)
    if json:
        print_json(job)
    else:
        _print_job(job)


@app.command("history")
def history(
    env: Annotated[
        str | None, typer.Option("--env", "--environment", metavar="NAME", help="Of this environment only.")
    ] = None,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV.")] = False,
    org: options.Org = None,
    app: options.App = None,
    model: options.Model = None,
    json: options.Json = False,
) -> None:
    """List a model's pushes, newest first."""
    with session(org, app, model) as chosen:
        pushes = chosen.client.list_pushes(*chosen.of_model, environment=env)
    table = Table(COLUMNS, [_row(job) for job in pushes])
    if json:
        print_json(pushes)
    elif as_csv:
        print_csv(table)
    else:
        titles = [name.upper().replace("_", " ") for name in table.names]
        print_table(titles, table.rows, "nothing was pushed")


@app.command("devices")
def devices(
    push_id: PushId,
    outcome: Annotated[
        str | None,
        typer.Option("--outcome", metavar="OUTCOME", help="Only accepted, gone, refused or unknown ones."),
    ] = None,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV.")] = False,
    org: options.Org = None,
    app: options.App = None,
    model: options.Model = None,
    json: options.Json = False,
) -> None:
    """List a push's devices, and what became of each.

    Without --csv or --json the first thousand.
    """
    with session(org, app, model) as chosen:
        names = chosen.of_model
        page = chosen.client.list_pushed_devices(*names, push_id, outcome=outcome)

        def all_devices() -> Iterator[PushedDevice]:
            shown = page
            yield from shown.devices
            while shown.next is not None:
                shown = chosen.client.list_pushed_devices(*names, push_id, page=shown.next)
                yield from shown.devices

        if json:
            print_json(list(all_devices()))
        elif as_csv:
            print_rows(DEVICE_COLUMNS, map(_device_row, all_devices()))
        else:
            titles = ["DEVICE", "OUTCOME", "REASON", "SENT"]
            print_table(titles, [_device_row(each) for each in page.devices], "no devices")
            if page.next is not None:
                note("There are more: --csv lists all.")


@app.command("effect")
def effect(
    push_id: PushId,
    org: options.Org = None,
    app: options.App = None,
    model: options.Model = None,
    json: options.Json = False,
) -> None:
    """Show what devices did within an hour after a push, and before."""
    with session(org, app, model) as chosen:
        found = chosen.client.push_effect(*chosen.of_model, push_id)
    if json:
        print_json(found)
    else:
        _print_effect(found)


@app.command("pause")
def pause(
    push_id: PushId,
    org: options.Org = None,
    app: options.App = None,
    model: options.Model = None,
    json: options.Json = False,
) -> None:
    """Have a push send no more for now."""
    with session(org, app, model) as chosen:
        job = chosen.client.pause_push(*chosen.of_model, push_id)
    _print_changed(job, json)


@app.command("resume")
def resume(
    push_id: PushId,
    org: options.Org = None,
    app: options.App = None,
    model: options.Model = None,
    json: options.Json = False,
) -> None:
    """Go on with a push that was paused."""
    with session(org, app, model) as chosen:
        job = chosen.client.resume_push(*chosen.of_model, push_id)
    _print_changed(job, json)


@app.command("cancel")
def cancel(
    push_id: PushId,
    yes: options.Yes = False,
    org: options.Org = None,
    app: options.App = None,
    model: options.Model = None,
    json: options.Json = False,
) -> None:
    """End a push for good. Devices that were not sent to look by themselves."""
    ask(f"Push {push_id} cannot be resumed afterwards. Cancel it?", yes)
    with session(org, app, model) as chosen:
        job = chosen.client.cancel_push(*chosen.of_model, push_id)
    _print_changed(job, json)


@credentials.command("list")
def list_credentials(
    env: options.Env = "prod", org: options.Org = None, app: options.App = None, json: options.Json = False
) -> None:
    """List what an environment can push with."""
    with session(org, app) as chosen:
        found = chosen.client.list_push_credentials(*chosen.of_app, env)
    if json:
        print_json(found)
        return
    rows = [[each.service, each.kind, _facts(each), each.expires_at or "never", each.actor] for each in found]
    print_table(["SERVICE", "KIND", "WHOSE", "EXPIRES", "BY"], rows, f"{env} has no push credentials")
    _warn(found)


@credentials.command("set")
def set_credential(
    file: Annotated[
        Path,
        typer.Argument(
            metavar="FILE", help="A .p8, .p12 or PEM file from Apple, or a service account's JSON file from Google."
        ),
    ],
    env: options.Env,
    key_id: Annotated[str, typer.Option("--key-id", metavar="ID", help="Of a key (.p8).")] = "",
    team_id: Annotated[str, typer.Option("--team-id", metavar="ID", help="Of a key (.p8).")] = "",
    password_file: Annotated[
        Path | None,
        typer.Option("--password-file", metavar="FILE", help="Holds the password of a certificate's file; - asks."),
    ] = None,
    org: options.Org = None,
    app: options.App = None,
    json: options.Json = False,
) -> None:
    """Give an environment a key, a certificate or a service account to push with.

    It takes the place of the one before for the same service.
    """
    try:
        content = file.read_bytes()
        password = _password(password_file)
    except OSError as error:
        raise InvalidParamError(f"{error.filename} cannot be read: {error.strerror}.") from None
    service, kind = _recognize(file, content, ids=bool(key_id or team_id))
    with session(org, app) as chosen:
        stored = chosen.client.set_push_credential(
            *chosen.of_app,
            env,
            service,
            content,
            kind=kind,
            key_id=key_id,
            team_id=team_id,
            password=password,
        )
    if json:
        print_json(stored)
        return
    print(f"{env} pushes with this {KINDS.get(stored.kind, stored.kind)} now ({_facts(stored)}).")
    _warn([stored])


@credentials.command("delete")
def delete_credential(
    env: options.Env,
    service: Annotated[
        str | None, typer.Option("--service", metavar="NAME", help="apns or fcm, when it has credentials for both.")
    ] = None,
    yes: options.Yes = False,
    org: options.Org = None,
    app: options.App = None,
    json: options.Json = False,
) -> None:
    """Have an environment forget what it pushes with."""
    with session(org, app) as chosen:
        service = service or _only_service(
            [each.service for each in chosen.client.list_push_credentials(*chosen.of_app, env)]
        )
        ask(f"{env} will not be able to push through {service}. Delete its credential?", yes)
        chosen.client.delete_push_credential(*chosen.of_app, env, service)
    if json:
        print_json({"deleted": service, "environment": env})
    else:
        print(f"{env} has no push credential for {service} any more.")


def _recognize(file: Path, content: bytes, ids: bool) -> tuple[str, Literal["key", "certificate", "account"]]:
    """Return the service that a file is for, and what it is."""
    if content.removeprefix(codecs.BOM_UTF8).lstrip().startswith(b"{"):
        return GOOGLE, "account"
    return APPLE, "key" if ids or file.suffix == ".p8" else "certificate"


def _only_service(found: list[str]) -> str:
    if len(found) > 1:
        raise InvalidParamError(f"There are credentials for {' and '.join(found)}: say which with --service.")
    return found[0] if found else APPLE


def _password(file: Path | None) -> str | None:
    if file is None:
        return None
    if str(file) == "-":
        return str(typer.prompt("Password", hide_input=True, err=True))
    return file.read_text().rstrip("\r\n")


def _facts(credential: PushCredential) -> str:
    facts = credential.facts
    if credential.kind == "account":
        return f"{facts.get('client_email')} of project {facts.get('project')}"
    if credential.kind == "key":
        return f"key {facts.get('key_id')} of team {facts.get('team_id')}"
    servers = [name for name in ("production", "sandbox") if facts.get(name)]
    return f"{', '.join(facts.get('topics', []))} on {' and '.join(servers)}"


def _warn(found: list[PushCredential]) -> None:
    for each in found:
        if each.expires_soon:
            note(f"The {each.kind} expires on {(each.expires_at or '')[:10]}: get a new one and set it.")


def _row(job: PushJob) -> tuple[object, ...]:
    done = job.effect
    return (
        *(job.version, job.environment, job.started_at or "not yet", job.targeted, job.accepted, job.gone),
        *(job.refused, "yes" if job.apple_sandbox else "no", job.state),
        *((None, None, None) if done is None else (done.counted, done.after.checked, done.after.activated)),
        *(job.actor, job.id),
    )


def _device_row(device: PushedDevice) -> tuple[object, ...]:
    return device.device_id, device.outcome, device.reason, device.sent_at


def _print_effect(found: PushEffect) -> None:
    if not found.devices:
        print("It was accepted for no device." if found.complete else "It was accepted for no device yet.")
        return
    print(f"Accepted for {found.devices:,} devices")
    if found.counted < found.devices:
        sample = f"{found.counted:,} of them were looked at, evenly chosen"
        print(f"{sample}; shares are right within {100 * found.margin:.1f} points")
    if not found.complete:
        when = "The push goes on" if found.until is None else f"Their hour is not over until {found.until}"
        print(f"{when}; so far:")
    steps = (("checked in", "checked"), ("downloaded", "downloaded"), ("activated", "activated"))
    rows = []
    for title, step in steps:
        counts = [getattr(each, step) for each in (found.after, found.before)]
        rows.append([title, *(cell for count in counts for cell in (count, f"{100 * count / found.counted:.1f} %"))])
    print_table(["WITHIN AN HOUR", "AFTER", "", "BEFORE", ""], rows)


def _print_changed(job: PushJob, json: bool) -> None:
    if json:
        print_json(job)
    else:
        print(f"Push {job.id} is {job.state}.")


def _print_job(job: PushJob) -> None:
    server = "Apple's development server" if job.apple_sandbox else "the production servers"
    print(f"Push {job.id}: version {job.version} to {job.environment} through {server}")
    print(f"{job.state}{f', {job.reason}' if job.reason else ''}")
    counts = [
        (job.accepted, "accepted"),
        (job.gone, "gone, their tokens were taken away"),
        (job.refused, "refused"),
        (job.unknown, "without an answer"),
        (job.spared, "spared, woken a short while ago"),
    ]
    told = [f"{count} {word}" for count, word in counts if count or word == "accepted"]
    print(f"{job.targeted} devices: {', '.join(told)}")
    if job.reasons:
        rows = sorted(job.reasons.items(), key=lambda pair: -pair[1])
        print_table(["REASON", "DEVICES"], [list(row) for row in rows])
