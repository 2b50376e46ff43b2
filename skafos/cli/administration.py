"""Organizations, apps, models and tokens: list, create, delete."""

from __future__ import annotations

from typing import Annotated

import typer

from skafos.cli import options
from skafos.cli.output import ask, print_json, print_table
from skafos.cli.session import session

organizations = options.family("Organizations: list, create.")
applications = options.family("Apps: list, create, delete.")
models = options.family("Models: list, create, delete.")
tokens = options.family("API tokens: list, create, revoke.")

Name = Annotated[str, typer.Argument(metavar="NAME")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]


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


@applications.command("delete")
def delete_application(name: Name, yes: Yes = False, org: options.Org = None, json: options.Json = False) -> None:
    """Delete an app and everything in it."""
    ask(f"Delete app {name} with its models, versions and keys?", yes)
    with session(org) as chosen:
        chosen.client.delete_app(chosen.org, name)
    if json:
        print_json({"deleted": name})
    else:
        print(f"Deleted app {name}.")


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


@models.command("delete")
def delete_model(
    name: Name, yes: Yes = False, org: options.Org = None, app: options.App = None, json: options.Json = False
) -> None:
    """Delete a model and its versions; refused while one is offered."""
    ask(f"Delete model {name} with its versions?", yes)
    with session(org, app) as chosen:
        chosen.client.delete_model(*chosen.of_app, name)
    if json:
        print_json({"deleted": name})
    else:
        print(f"Deleted model {name}.")


@tokens.command("list")
def list_tokens(json: options.Json = False) -> None:
    """List your API tokens, without the tokens themselves."""
    with session() as chosen:
        found = chosen.client.list_tokens()
    if json:
        print_json(found)
    else:
        rows = [[each.id, each.name, each.hint, each.created_at, each.last_used_at] for each in found]
        print_table(["ID", "NAME", "HINT", "CREATED", "LAST USED"], rows, "no tokens")


@tokens.command("create")
def create_token(name: Name, json: options.Json = False) -> None:
    """Create an API token; it is shown this once."""
    with session() as chosen:
        made = chosen.client.create_token(name)
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
