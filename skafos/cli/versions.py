"""Model versions: upload, list, fetch, deploy, roll back."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from skafos.cli import options
from skafos.cli.output import note, print_json, print_table
from skafos.cli.session import Session, session
from skafos.exceptions import InvalidParamError

if TYPE_CHECKING:
    from skafos.records import EnvironmentGroup, Patch, PatchCounts

Version = Annotated[str, typer.Argument(metavar="[VERSION]", help="A number or latest.", show_default=True)]
Condition = Annotated[
    list[str] | None,
    typer.Option(
        "--condition",
        metavar="FACT.PART=VALUE",
        help="What a device must be, as in os_version.min=17 or locale.any_of=de,fr; may be given several times.",
    ),
]


def upload(
    files: Annotated[list[str], typer.Argument(metavar="FILES...", help="Files and folders; a single zip goes as is.")],
    description: Annotated[
        str | None, typer.Option("--description", "-d", metavar="TEXT", help="Up to 255 characters.")
    ] = None,
    deploy: Annotated[str | None, typer.Option("--deploy", metavar="ENV", help="Deploy it there at once.")] = None,
    org: options.Org = None,
    app: options.App = None,
    model: options.Model = None,
    json: options.Json = False,
) -> None:
    """Upload files as the next version of a model."""
    from skafos.packed_upload import upload_packed

    with session(org, app, model) as chosen:
        names = chosen.of_model
        version = upload_packed(chosen.client, names, files, description)
        deployed = (
            chosen.client.deploy(*names, version=version.version or "latest", environment=deploy) if deploy else None
        )
    if json:
        print_json(version if deployed is None else {**_as_object(version), "deployment": deployed.deployment})
        return
    count = f"{len(version.files)} file{'s' if len(version.files) != 1 else ''}"
    print(f"Uploaded version {version.version} of {names[-1]} ({version.format}, {count}).")
    if deployed:
        print(f"{deployed.success}.")


def versions(
    org: options.Org = None, app: options.App = None, model: options.Model = None, json: options.Json = False
) -> None:
    """List a model's versions."""
    with session(org, app, model) as chosen:
        found = chosen.client.list_versions(*chosen.of_model)
    if json:
        print_json(found)
        return
    rows = [
        [v.version, v.format, v.artifact_length, v.interface, v.updated_at, _counts_text(v.patches), v.description]
        for v in found
    ]
    columns = ["VERSION", "FORMAT", "BYTES", "INTERFACE", "UPDATED", "PATCHES", "DESCRIPTION"]
    print_table(columns, rows, "no versions yet")


def patches(
    env: Annotated[
        str | None,
        typer.Option("--env", "--environment", metavar="NAME", help="Only those that came into question there."),
    ] = None,
    from_version: Annotated[
        int | None, typer.Option("--from", min=1, metavar="VERSION", help="Only those from this version.")
    ] = None,
    to_version: Annotated[
        int | None, typer.Option("--to", min=1, metavar="VERSION", help="Only those to this version.")
    ] = None,
    org: options.Org = None,
    app: options.App = None,
    model: options.Model = None,
    json: options.Json = False,
) -> None:
    """List the patches between a model's versions. Also why those that are not there are not.

    DEVICES are active ones that hold the version a patch leads from, over all environments, when last counted.
    """
    with session(org, app, model) as chosen:
        found = chosen.client.list_patches(
            *chosen.of_model, environment=env, from_version=from_version, to_version=to_version
        )
    if json:
        print_json(found)
        return
    rows = [
        [p.from_version, p.to_version, p.state, p.code, p.encoding, p.length, p.full_length, _devices(p), p.reason]
        for p in found
    ]
    columns = ["FROM", "TO", "STATE", "WHY", "ENCODING", "BYTES", "FULL", "DEVICES", "REASON"]
    print_table(columns, rows, "no patch came into question yet")


def fetch(
    version: Version = "latest",
    out: Annotated[
        Path | None, typer.Option("--out", "-o", metavar="FILE", help="The file to write; default <model>.zip.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace the file when it exists.")] = False,
    org: options.Org = None,
    app: options.App = None,
    model: options.Model = None,
    json: options.Json = False,
) -> None:
    """Download what was uploaded as a version, byte for byte."""
    from artifacts.hashing import hash_file
    from skafos.packing import zip_name
    from skafos.progress import progress_display

    with session(org, app, model) as chosen:
        names = chosen.of_model
        target = out or Path(zip_name(names[-1]))
        if target.exists() and not force:
            raise InvalidParamError(f"{target} is there already; give --out or --force.")
        number = None if (wanted := _version(version)) == "latest" else wanted
        with progress_display() as display:
            progress = display.bytes("Downloading", then="Comparing the bytes with their hash")
            chosen.client.fetch_version(*names, target, version=number, progress=progress)
            sha256, length = hash_file(target)
    if json:
        print_json({"path": str(target), "bytes": length, "sha256": sha256})
    else:
        print(f"Downloaded {target} ({length} bytes).")


def deploy(
    version: Version = "latest",
    env: options.Env = "dev",
    percent: Annotated[
        float, typer.Option("--percent", min=0.01, max=100, metavar="NUMBER", help="The share of devices.")
    ] = 100.0,
    condition: Condition = None,
    push: Annotated[bool, typer.Option("--push", help="Tell devices to look now.")] = False,
    sandbox: Annotated[
        bool | None,
        typer.Option(
            "--apple-sandbox/--apple-production",
            help="Push through Apple's development server or not; by default in dev only.",
        ),
    ] = None,
    org: options.Org = None,
    app: options.App = None,
    model: options.Model = None,
    json: options.Json = False,
) -> None:
    """Deploy a version to an environment. All devices get it, a share of them, or those that meet conditions."""
    conditions = parse_conditions(condition or [])
    with session(org, app, model) as chosen:
        done = chosen.client.deploy(
            *chosen.of_model,
            version=_version(version),
            environment=env,
            percent=percent,
            conditions=conditions,
            push=push,
            apple_sandbox=sandbox,
        )
    if json:
        print_json(done)
        return
    print(f"{done.success}.")
    if done.deployment.push.status == "not_configured":
        note(f"{env} has no push credentials, so no device was told; see: skafos push credentials set --help")
    elif done.deployment.push.push_id:
        print(f"Devices are told; see: skafos push status {done.deployment.push.push_id}")


def rollback(
    env: options.Env,
    org: options.Org = None,
    app: options.App = None,
    model: options.Model = None,
    json: options.Json = False,
) -> None:
    """Take back the version that was deployed last.

    Every step of its rollout is taken back, at whatever percent it is; a second time, the version before it.
    """
    with session(org, app, model) as chosen:
        done = chosen.client.roll_back(*chosen.of_model, environment=env)
    if json:
        print_json(done)
    else:
        print(f"{done.success}.")


def environments(
    org: options.Org = None, app: options.App = None, model: options.Model = None, json: options.Json = False
) -> None:
    """List an app's environments with their keys. With a model, also what each offers of it."""
    with session(org, app, model) as chosen:
        found = chosen.client.list_environments(*chosen.of_app)
        offered = _offers(chosen) if model else {}
    if json:
        print_json([_as_object(offered[each.name]) | _as_object(each) if offered else each for each in found])
        return
    rows = [[each.name, each.key, _offers_text(offered.get(each.name)), each.revision] for each in found]
    print_table(["ENVIRONMENT", "KEY", "OFFERS", "REVISION"], rows, "no environments")


def parse_conditions(given: list[str]) -> dict[str, dict[str, Any]]:
    """Return conditions from ``fact.part=value`` texts; `any_of` and `none_of` take several values.

    Raises:
        InvalidParamError: a text has another form, or says what no device could be.
    """
    from manifests.model import parse_conditions as check

    found: dict[str, dict[str, Any]] = {}
    for text in given:
        left, equals, value = text.partition("=")
        fact, dot, part = left.partition(".")
        if not (equals and dot and value):
            raise InvalidParamError(f"A condition is written FACT.PART=VALUE, not {text!r}.")
        found.setdefault(fact, {})[part] = value.split(",") if part in ("any_of", "none_of") else value
    try:
        check(found)
    except ValueError as error:
        raise InvalidParamError(f"{error}.") from None
    return found


def _counts_text(counts: PatchCounts) -> str | None:
    told = {"built": counts.built, "waiting": counts.waiting, "failed": counts.failed} | counts.skipped
    return ", ".join(f"{number} {what}" for what, number in told.items() if number) or None


def _devices(patch: Patch) -> int | None:
    counted = [place.devices for place in patch.environments if place.devices is not None]
    return sum(counted) if counted else None


def _version(text: str) -> int | Literal["latest"]:
    if text == "latest":
        return "latest"
    if text.isascii() and text.isdigit() and int(text):
        return int(text)
    raise InvalidParamError(f"A version is a number or latest, not {text!r}.")


def _offers(chosen: Session) -> dict[str, EnvironmentGroup]:
    return {group.name: group for group in chosen.client.list_environment_groups(*chosen.of_model)}


def _offers_text(group: EnvironmentGroup | None) -> str | None:
    return ", ".join(f"{each.version} ({each.percent:g} %)" for each in group.releases) or None if group else None


def _as_object(record: Any) -> dict[str, Any]:
    import msgspec

    return dict(msgspec.to_builtins(record))
