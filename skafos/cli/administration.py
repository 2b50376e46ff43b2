"""Organizations, apps, environments, models and tokens: list, create, rename, delete."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from skafos.cli import options
from skafos.cli.output import ask, print_json, print_table
from skafos.cli.session import session

if TYPE_CHECKING:
    from skafos.records import App, Environment, Model, Organization

organizations = options.family("Organizations: list, create, rename.")
applications = options.family("Apps: list, create, rename, delete.")
environments = options.family("Environments of an app: create, rename, delete. `skafos environments` lists them.")
models = options.family("Models: list, create, rename, delete.")
tokens = options.family("API tokens: list, create, revoke.")

Name = Annotated[str, typer.Argument(metavar="NAME")]
NewName = Annotated[str, typer.Argument(metavar="NEW_NAME")]


@organizations.command("list")
def list_organizations(json: options.Json = False) -> None:
    """List the organizations that the token sees."""
    with session() as chosen:
        found = chosen.client.list_organizations()
    if json:
        print_json(found)
    else:
        print_table(["NAME", "ROLE", "CREATED"], [[o.name, o.role, o.created_at] for o in found], "no organizations")


@organizations.command("create")
def create_organization(name: Name, json: options.Json = False) -> None:
    """Create an organization."""
    with session() as chosen:
        made = chosen.client.create_organization(name)
    if json:
        print_json(made)
    else:
        print(f"Created organization {made.name}.")


@organizations.command("rename")
def rename_organization(name: Name, new_name: NewName, json: options.Json = False) -> None:
    """Give an organization another name."""
    with session() as chosen:
        _renamed(chosen.client.rename_organization(name, new_name), name, json)


@applications.command("list")
def list_applications(org: options.Org = None, json: options.Json = False) -> None:
    """List an organization's apps."""
    with session(org) as chosen:
        found = chosen.client.list_apps(chosen.org, with_models=True)
    if json:
        print_json(found)
        return
    rows = [[a.name, a.bundle_id, a.platform, ", ".join(m.name for m in a.models or [])] for a in found]
    print_table(["NAME", "BUNDLE ID", "PLATFORM", "MODELS"], rows, "no apps")


@applications.command("create")
def create_application(
    name: Name,
    bundle_id: Annotated[str, typer.Option("--bundle-id", metavar="ID", help="Such as com.example.camera.")],
    platform: Annotated[str, typer.Option("--platform", metavar="NAME", help="Such as ios, android or linux.")] = "ios",
    org: options.Org = None,
    json: options.Json = False,
) -> None:
    """Create an app, with its environments dev and prod."""
    with session(org) as chosen:
        organization = chosen.org
        made = chosen.client.create_app(organization, name, bundle_id, platform)
        environments = chosen.client.list_environments(organization, made.name)
    if json:
        print_json({"app": made, "environments": environments})
        return
    print(f"Created app {made.name}. Its environments and their keys:")
    print_table(["ENVIRONMENT", "KEY"], [[each.name, each.key] for each in environments])


@applications.command("rename")
def rename_application(name: Name, new_name: NewName, org: options.Org = None, json: options.Json = False) -> None:
    """Give an app another name."""
    with session(org) as chosen:
        _renamed(chosen.client.update_app(chosen.org, name, name=new_name), name, json)


@applications.command("delete")
def delete_application(
    name: Name, yes: options.Yes = False, org: options.Org = None, json: options.Json = False
) -> None:
    """Delete an app and everything in it."""
    ask(f"Delete app {name} with its models, versions and keys?", yes)
    with session(org) as chosen:
        chosen.client.delete_app(chosen.org, name)
    _deleted("app", name, json)


@environments.command("create")
def create_environment(
    name: Name, org: options.Org = None, app: options.App = None, json: options.Json = False
) -> None:
    """Add an environment to an app, with a key of its own."""
    with session(org, app) as chosen:
        made = chosen.client.create_environment(*chosen.of_app, name)
    if json:
        print_json(made)
    else:
        print(f"Created environment {made.name}. Its key: {made.key}")


@environments.command("rename")
def rename_environment(
    name: Name, new_name: NewName, org: options.Org = None, app: options.App = None, json: options.Json = False
) -> None:
    """Rename an environment that was added. Its keys stay as they are."""
    with session(org, app) as chosen:
        _renamed(chosen.client.rename_environment(*chosen.of_app, name, new_name), name, json)


@environments.command("delete")
def delete_environment(
    name: Name, yes: options.Yes = False, org: options.Org = None, app: options.App = None, json: options.Json = False
) -> None:
    """Delete an environment that was added; its keys stop working."""
    ask(f"Delete environment {name} with its keys?", yes)
    with session(org, app) as chosen:
        chosen.client.delete_environment(*chosen.of_app, name)
    _deleted("environment", name, json)


@models.command("list")
def list_models(org: options.Org = None, app: options.App = None, json: options.Json = False) -> None:
    """List an app's models."""
    with session(org, app) as chosen:
        found = chosen.client.list_models(*chosen.of_app)
    if json:
        print_json(found)
    else:
        rows = [[each.name, each.latest_version, each.updated_at] for each in found]
        print_table(["NAME", "LATEST", "UPDATED"], rows, "no models")


@models.command("create")
def create_model(name: Name, org: options.Org = None, app: options.App = None, json: options.Json = False) -> None:
    """Create a model."""
    with session(org, app) as chosen:
        made = chosen.client.create_model(*chosen.of_app, name)
    if json:
        print_json(made)
    else:
        print(f"Created model {made.name}.")


@models.command("rename")
def rename_model(
    name: Name, new_name: NewName, org: options.Org = None, app: options.App = None, json: options.Json = False
) -> None:
    """Give a model another name. It is refused while a version of it is offered."""
    with session(org, app) as chosen:
        _renamed(chosen.client.rename_model(*chosen.of_app, name, new_name), name, json)


@models.command("delete")
def delete_model(
    name: Name, yes: options.Yes = False, org: options.Org = None, app: options.App = None, json: options.Json = False
) -> None:
    """Delete a model and its versions; refused while one is offered."""
    ask(f"Delete model {name} with its versions?", yes)
    with session(org, app) as chosen:
        chosen.client.delete_model(*chosen.of_app, name)
    _deleted("model", name, json)


@tokens.command("list")
def list_tokens(json: options.Json = False) -> None:
    """List your API tokens, without the tokens themselves."""
    with session() as chosen:
        found = chosen.client.list_tokens()
    if json:
        print_json(found)
    else:
        rows = [
            [each.id, each.name, each.hint, each.organization, each.role, each.expires_at, each.last_used_at]
            for each in found
        ]
        print_table(["ID", "NAME", "HINT", "ORGANIZATION", "ROLE", "ENDS", "LAST USED"], rows, "no tokens")


@tokens.command("create")
def create_token(
    name: Name,
    organization: Annotated[str | None, typer.Option(help="The only organization that it opens.")] = None,
    role: Annotated[str | None, typer.Option(help="The highest that it has: viewer, developer or owner.")] = None,
    days: Annotated[int | None, typer.Option(min=1, help="After how many it ends.")] = None,
    json: options.Json = False,
) -> None:
    """Create an API token; it is shown this once."""
    with session() as chosen:
        made = chosen.client.create_token(name, organization, role, days)
    if json:
        print_json(made)
    else:
        print(made.token)


@tokens.command("revoke")
def revoke_token(
    token_id: Annotated[str, typer.Argument(metavar="ID", help="The token's id, see: skafos tokens list.")],
    json: options.Json = False,
) -> None:
    """Revoke an API token at once."""
    with session() as chosen:
        chosen.client.revoke_token(token_id)
    if json:
        print_json({"revoked": token_id})
    else:
        print(f"Revoked {token_id}.")


def _deleted(kind: str, name: str, json: bool) -> None:
    if json:
        print_json({"deleted": name})
    else:
        print(f"Deleted {kind} {name}.")


def _renamed(now: Organization | App | Environment | Model, was: str, json: bool) -> None:
    if json:
        print_json(now)
    else:
        print(f"Renamed {was} to {now.name}.")
