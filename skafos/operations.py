"""The operations of the management API, each described once; `skafos.client` runs them.

``org``, ``app``, ``model`` and ``env`` are names or ids. All raise the `SkafosError` that the answer's status means:
`InvalidTokenError`, `NotFoundError`, `InvalidParamError`, `ConflictError`, `ForbiddenError`, `UnavailableError`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, TypeVar
from urllib.parse import parse_qsl, urlsplit

from skafos.calls import Answer, Call, Steps, ask, decode, path, require_success
from skafos.exceptions import InvalidAnswerError
from skafos.records import (
    Adoption,
    App,
    AuditEntry,
    Deployed,
    Deployment,
    Device,
    Edge,
    Environment,
    EnvironmentGroup,
    Erasure,
    Identity,
    Invitation,
    Key,
    Me,
    Member,
    Model,
    ModelVersion,
    Organization,
    Patch,
    Session,
    SqlAnswer,
    Token,
)

T = TypeVar("T")
Json = dict[str, Any]

# A listing that goes on after this many pages of 1,000 does not end.
MAX_PAGES = 1_000


def listing(kind: type[T], url: str, query: Mapping[str, str] | None = None) -> Steps[list[T]]:
    """Read a listing page by page, following ``Link: <…>; rel="next"`` (RFC 8288)."""
    found: list[T] = []
    page: dict[str, str] | None = dict(query or {})
    for _ in range(MAX_PAGES):
        answer = yield Call("GET", url, query=page or {})
        found += decode(answer, list[kind])  # type: ignore[valid-type]
        page = next_page(answer)
        if page is None:
            return found
    raise InvalidAnswerError("The server's listing does not end.")


def next_page(answer: Answer) -> dict[str, str] | None:
    """Return the query of the next page that an answer links to, or None on the last page."""
    for link in answer.headers.get("link", "").split(","):
        target, _, parameters = link.strip().partition(">")
        if target.startswith("<") and 'rel="next"' in parameters.replace(" ", ""):
            return dict(parse_qsl(urlsplit(target[1:]).query, keep_blank_values=True))
    return None


def delete(url: str, query: Mapping[str, str] | None = None) -> Steps[None]:
    """Delete what is at ``url``."""
    require_success((yield Call("DELETE", url, query=query or {})))


def of_app(org: str, app: str, *rest: str) -> str:
    """Return a path below an app."""
    return path("organizations", org, "apps", app, *rest)


def of_model(org: str, app: str, model: str, *rest: str) -> str:
    """Return a path below a model."""
    return of_app(org, app, "models", model, *rest)


# --- the API itself, who, and the organizations


def openapi() -> Steps[Json]:
    """Return the OpenAPI document of the API that the server serves."""
    return ask(Call("GET", "/openapi.json"), Json)


def me() -> Steps[Me]:
    """Return whose token it is and which organizations it sees."""
    return ask(Call("GET", "/me"), Me)


def list_organizations() -> Steps[list[Organization]]:
    """List the organizations that the token sees."""
    return listing(Organization, "/organizations")


def create_organization(name: str) -> Steps[Organization]:
    """Create an organization; its creator becomes its owner."""
    return ask(Call("POST", "/organizations", json={"name": name}), Organization)


def get_organization(org: str) -> Steps[Organization]:
    """Return one organization."""
    return ask(Call("GET", path("organizations", org)), Organization)


def rename_organization(org: str, name: str) -> Steps[Organization]:
    """Give an organization another name."""
    return ask(Call("PATCH", path("organizations", org), json={"name": name}), Organization)


def delete_organization(org: str) -> Steps[None]:
    """Delete an organization and everything in it."""
    return delete(path("organizations", org))


def list_members(org: str) -> Steps[list[Member]]:
    """List an organization's members."""
    return listing(Member, path("organizations", org, "members"))


def add_member(org: str, email: str, role: str) -> Steps[Member]:
    """Add a member as ``owner``, ``developer`` or ``viewer``."""
    return ask(Call("POST", path("organizations", org, "members"), json={"email": email, "role": role}), Member)


def change_member(org: str, member: str, role: str) -> Steps[Member]:
    """Give a member (user id or e-mail address) another role."""
    return ask(Call("PATCH", path("organizations", org, "members", member), json={"role": role}), Member)


def remove_member(org: str, member: str) -> Steps[None]:
    """Remove a member (user id or e-mail address)."""
    return delete(path("organizations", org, "members", member))


def list_invitations(org: str) -> Steps[list[Invitation]]:
    """List the open invitations into an organization."""
    return listing(Invitation, path("organizations", org, "invitations"))


def invite(org: str, email: str, role: str) -> Steps[Invitation]:
    """Invite somebody; the ``url`` to hand to them is shown this once."""
    body = {"email": email, "role": role}
    return ask(Call("POST", path("organizations", org, "invitations"), json=body), Invitation)


def take_back_invitation(org: str, invitation_id: str) -> Steps[None]:
    """Take an invitation back; its link works no more."""
    return delete(path("organizations", org, "invitations", invitation_id))


def list_audit(
    org: str, actor: str | None = None, action: str | None = None, since: str | None = None, until: str | None = None
) -> Steps[list[AuditEntry]]:
    """List who changed what in an organization, newest first.

    Args:
        org: name or id.
        actor: the e-mail address of who did it.
        action: what it begins with, as ``token.``.
        since: from this moment on, with its zone, as ``2026-01-31T00:00:00Z``.
        until: before this moment.
    """
    chosen = _chosen(actor=actor, action=action, since=since, until=until)
    return listing(AuditEntry, path("organizations", org, "audit"), chosen)


def export_audit(
    org: str, actor: str | None = None, action: str | None = None, since: str | None = None, until: str | None = None
) -> Steps[str]:
    """Return what `list_audit` lists as CSV, in which no text can be a formula of a spreadsheet."""
    chosen = _chosen(actor=actor, action=action, since=since, until=until)
    answer = yield Call("GET", path("organizations", org, "audit.csv"), query=chosen)
    require_success(answer)
    return answer.body.decode()


def _chosen(**asked: str | None) -> dict[str, str]:
    return {name: value for name, value in asked.items() if value is not None}


def list_edges(org: str) -> Steps[list[Edge]]:
    """List the edges that serve devices, and when each was seen last."""
    return ask(Call("GET", path("organizations", org, "edges")), list[Edge])


# --- erasing


def erase_device(org: str, device_id: str) -> Steps[Erasure]:
    """Begin to erase a device of an organization, in whichever app. It takes a moment: see `get_erasure`."""
    return ask(Call("POST", path("organizations", org, "erasures"), json={"device_id": device_id}), Erasure)


def erase_organization(org: str, name: str) -> Steps[Erasure]:
    """Begin to erase an organization with all it holds; ``name`` is its name once more, as a confirmation."""
    return ask(Call("POST", path("organizations", org, "erasures"), json={"organization": name}), Erasure)


def get_erasure(erasure_id: str) -> Steps[Erasure]:
    """Return how far an erasure is that the token's user asked for."""
    return ask(Call("GET", path("erasures", erasure_id)), Erasure)


# --- tokens


def list_tokens() -> Steps[list[Token]]:
    """List the user's API tokens, without the tokens themselves."""
    return listing(Token, "/tokens")


def create_token(
    name: str, organization: str | None = None, role: str | None = None, expires_days: int | None = None
) -> Steps[Token]:
    """Create an API token; its ``token`` is shown this once.

    Args:
        name: by which to tell it from others.
        organization: the only one that it opens (name or id).
        role: the highest that it has anywhere.
        expires_days: after which it ends.
    """
    bounds = {"organization": organization, "role": role, "expires_days": expires_days}
    body = {"name": name} | {key: value for key, value in bounds.items() if value is not None}
    return ask(Call("POST", "/tokens", json=body), Token)


def revoke_token(token_id: str) -> Steps[None]:
    """Revoke an API token at once."""
    return delete(path("tokens", token_id))


# --- the user's password and browsers


def change_password(password: str, current_password: str | None = None) -> Steps[None]:
    """Set the user's password for the dashboard; the first one can only be set there."""
    body = {"password": password, "current_password": current_password}
    require_success((yield Call("PUT", path("me", "password"), json=body)))


def list_sessions() -> Steps[list[Session]]:
    """List the browsers that the user is signed in with."""
    return listing(Session, path("me", "sessions"))


def end_session(session_id: str) -> Steps[None]:
    """Sign one of the user's browsers out."""
    return delete(path("me", "sessions", session_id))


def end_sessions() -> Steps[None]:
    """Sign the user out of every browser."""
    return delete(path("me", "sessions"))


def list_identities() -> Steps[list[Identity]]:
    """List the providers at which the user signs in."""
    return listing(Identity, path("me", "identities"))


def unlink_identity(identity_id: str) -> Steps[None]:
    """Have a provider let the user in no more, until they sign in there again."""
    return delete(path("me", "identities", identity_id))


# --- apps and models


def list_apps(org: str, *, with_models: bool = False) -> Steps[list[App]]:
    """List an organization's apps, with their models when asked."""
    return listing(App, path("organizations", org, "apps"), {"with_models": "true"} if with_models else None)


def create_app(org: str, name: str, bundle_id: str, platform: str, first_model: str | None = None) -> Steps[App]:
    """Create an app, with its environments ``dev`` and ``prod``, and with a model if one is named."""
    body = {"name": name, "bundle_id": bundle_id, "platform": platform}
    if first_model is not None:
        body["first_model"] = first_model
    return ask(Call("POST", path("organizations", org, "apps"), json=body), App)


def get_app(org: str, app: str, *, with_models: bool = False) -> Steps[App]:
    """Return one app, with its models when asked."""
    return ask(Call("GET", of_app(org, app), query={"with_models": "true"} if with_models else {}), App)


def update_app(
    org: str, app: str, *, name: str | None = None, bundle_id: str | None = None, platform: str | None = None
) -> Steps[App]:
    """Give an app another name, bundle ID or platform; what is None stays."""
    given = {"name": name, "bundle_id": bundle_id, "platform": platform}
    body = {field: value for field, value in given.items() if value is not None}
    return ask(Call("PATCH", of_app(org, app), json=body), App)


def delete_app(org: str, app: str) -> Steps[None]:
    """Delete an app and everything in it."""
    return delete(of_app(org, app))


def list_models(org: str, app: str) -> Steps[list[Model]]:
    """List an app's models."""
    return listing(Model, of_app(org, app, "models"))


def create_model(org: str, app: str, name: str) -> Steps[Model]:
    """Create a model."""
    return ask(Call("POST", of_app(org, app, "models"), json={"name": name}), Model)


def get_model(org: str, app: str, model: str) -> Steps[Model]:
    """Return one model."""
    return ask(Call("GET", of_model(org, app, model)), Model)


def rename_model(org: str, app: str, model: str, name: str) -> Steps[Model]:
    """Give a model another name; refused while a version of it is offered."""
    return ask(Call("PATCH", of_model(org, app, model), json={"name": name}), Model)


def delete_model(org: str, app: str, model: str, *, withdraw: bool = False) -> Steps[None]:
    """Delete a model and its versions; refused while one is offered, unless ``withdraw`` ends that."""
    return delete(of_model(org, app, model), {"withdraw": "true"} if withdraw else {})


# --- environments and keys


def list_environments(org: str, app: str) -> Steps[list[Environment]]:
    """List an app's environments with their keys."""
    return listing(Environment, of_app(org, app, "environments"))


def create_environment(org: str, app: str, name: str) -> Steps[Environment]:
    """Add an environment to an app."""
    return ask(Call("POST", of_app(org, app, "environments"), json={"name": name}), Environment)


def get_environment(org: str, app: str, env: str) -> Steps[Environment]:
    """Return one environment."""
    return ask(Call("GET", of_app(org, app, "environments", env)), Environment)


def rename_environment(org: str, app: str, env: str, name: str) -> Steps[Environment]:
    """Give an environment that was added another name; its keys stay as they are."""
    return ask(Call("PATCH", of_app(org, app, "environments", env), json={"name": name}), Environment)


def delete_environment(org: str, app: str, env: str) -> Steps[None]:
    """Delete an environment; its keys stop working."""
    return delete(of_app(org, app, "environments", env))


def list_keys(org: str, app: str, env: str) -> Steps[list[Key]]:
    """List an environment's valid keys, newest first."""
    return listing(Key, of_app(org, app, "environments", env, "keys"))


def add_key(org: str, app: str, env: str, *, overlap_seconds: int) -> Steps[Key]:
    """Add a key to an environment; the keys before it stay valid for ``overlap_seconds`` more."""
    url = of_app(org, app, "environments", env, "keys")
    return ask(Call("POST", url, json={"overlap_seconds": overlap_seconds}), Key)


def revoke_key(org: str, app: str, env: str, key_id: str) -> Steps[None]:
    """Revoke one of an environment's keys at once."""
    return delete(of_app(org, app, "environments", env, "keys", key_id))


def rotate_root(org: str, app: str, env: str) -> Steps[Environment]:
    """Replace the keys that sign an environment's root metadata."""
    return ask(Call("POST", of_app(org, app, "environments", env, "root", "rotate"), json={}), Environment)


def rotate_online_key(org: str, app: str, env: str) -> Steps[Environment]:
    """Replace the key that signs what an environment offers."""
    return ask(Call("POST", of_app(org, app, "environments", env, "online-key", "rotate"), json={}), Environment)


def list_devices(org: str, app: str, env: str) -> Steps[list[Device]]:
    """List the devices that registered in an environment."""
    return listing(Device, of_app(org, app, "environments", env, "devices"))


def list_environment_groups(org: str, app: str, model: str) -> Steps[list[EnvironmentGroup]]:
    """List a model's environments with what each offers and how many devices it has."""
    return listing(EnvironmentGroup, of_model(org, app, model, "environment_groups"), {"with_device_count": "true"})


# --- versions, deployments, adoption


def list_versions(org: str, app: str, model: str) -> Steps[list[ModelVersion]]:
    """List a model's finished versions, in order."""
    return listing(ModelVersion, of_model(org, app, model, "model_versions"), {"order_by": "version"})


def get_version(org: str, app: str, model: str, version: int | str) -> Steps[ModelVersion]:
    """Return one version, by its number or id."""
    return ask(Call("GET", of_model(org, app, model, "model_versions", str(version))), ModelVersion)


def describe_version(org: str, app: str, model: str, version: int | str, description: str) -> Steps[ModelVersion]:
    """Change a version's description (up to 255 characters)."""
    url = of_model(org, app, model, "model_versions", str(version))
    return ask(Call("PATCH", url, json={"description": description}), ModelVersion)


def rename_version(org: str, app: str, model: str, version: int | str, name: str) -> Steps[ModelVersion]:
    """Call a version's uploaded file otherwise; a zip stays one."""
    return ask(
        Call("PATCH", of_model(org, app, model, "model_versions", str(version)), json={"name": name}), ModelVersion
    )


def delete_version(org: str, app: str, model: str, version: int | str) -> Steps[None]:
    """Delete a version; refused while it is offered anywhere."""
    return delete(of_model(org, app, model, "model_versions", str(version)))


def deploy(
    org: str,
    app: str,
    model: str,
    *,
    version: int | Literal["latest"] = "latest",
    environment: str = "dev",
    percent: float = 100.0,
    conditions: Mapping[str, Any] | None = None,
    push: bool = False,
    apple_sandbox: bool | None = None,
) -> Steps[Deployed]:
    """Offer a version in an environment.

    Args:
        version: a number or "latest".
        environment: its name or id.
        percent: the share of devices that get it, of 100.
        conditions: what a device must be, as in ``{"os_version": {"min": "15"}}``.
        push: tell devices to look now.
        apple_sandbox: tell them through Apple's development server; by default in the environment ``dev`` only.
    """
    body: Json = {"version": version, "environment": environment}
    if percent != 100.0:
        body["percent"] = percent
    if conditions:
        body["conditions"] = dict(conditions)
    if push:
        body["push"] = True
        if apple_sandbox is not None:
            body["apple_sandbox"] = apple_sandbox
    return ask(Call("POST", of_model(org, app, model, "deploy"), json=body), Deployed)


def roll_back(org: str, app: str, model: str, *, environment: str) -> Steps[Deployed]:
    """Bring back what an environment offered before its last deployment."""
    return ask(Call("POST", of_model(org, app, model, "rollback"), json={"environment": environment}), Deployed)


def list_deployments(org: str, app: str, model: str, *, environment: str | None = None) -> Steps[list[Deployment]]:
    """List a model's deployments, newest first."""
    query = {"environment": environment} if environment else None
    return listing(Deployment, of_model(org, app, model, "deployments"), query)


def list_patches(
    org: str,
    app: str,
    model: str,
    *,
    environment: str | None = None,
    from_version: int | None = None,
    to_version: int | None = None,
) -> Steps[list[Patch]]:
    """List the patches between a model's versions, newest first: built, pending or skipped and why, with sizes.

    Args:
        environment: only those that came into question there; its name or id.
        from_version: only those that lead from it.
        to_version: only those that lead to it.
    """
    asked = {"environment": environment, "from_version": from_version, "to_version": to_version}
    query = {name: str(value) for name, value in asked.items() if value is not None}
    return listing(Patch, of_model(org, app, model, "patches"), query)


def adoption(org: str, app: str, model: str, *, environment: str, days: int = 30) -> Steps[Adoption]:
    """Return which versions an environment's devices run, by day, and what failed."""
    query = {"environment": environment, "days": str(days)}
    return ask(Call("GET", of_model(org, app, model, "adoption"), query=query), Adoption)


def sql(query: str, *, organization: str | None = None) -> Steps[SqlAnswer]:
    """Ask ClickHouse one SELECT over the view ``events`` of the organizations that the token sees."""
    body = {"query": query} | ({"organization": organization} if organization else {})
    return ask(Call("POST", "/sql", json=body), SqlAnswer)
