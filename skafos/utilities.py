"""The SDK's version, and what a token gives access to: a summary, and its only organization."""

from __future__ import annotations

from importlib import metadata
from typing import Any

from skafos.client import Client
from skafos.configuration import ORGANIZATION_VARIABLE, resolve_token, resolve_url
from skafos.exceptions import InvalidParamError

DISTRIBUTION = "skafos"
# Used when the package runs from a source tree that was never installed.
UNINSTALLED_VERSION = "1.0.0.dev0"
# Organizations that a message names before it says "…".
MAX_NAMED = 10


def get_version() -> str:
    """Return the version of the SDK in use.

    Usage::

        import skafos

        skafos.get_version()
    """
    try:
        return metadata.version(DISTRIBUTION)
    except metadata.PackageNotFoundError:
        return UNINSTALLED_VERSION


def summary(
    skafos_api_token: str | None = None, compact: bool = False
) -> list[dict[str, Any]] | dict[str, dict[str, list[dict[str, Any]]]]:
    """Return all organizations, apps and models that the token gives access to.

    Args:
        skafos_api_token: the API token; default ``SKAFOS_API_TOKEN``.
        compact: return a nested dictionary instead of a flat list.

    Returns:
        ``[{"org_name", "app_name", "model_name"}]``, or, compact, ``{organization: {app: [{"name", "updated_at"}]}}``.

    Raises:
        InvalidTokenError: the token is missing or invalid.
    """
    with Client(resolve_url(), resolve_token(skafos_api_token)) as client:
        tree = {
            organization.display_name: client.list_apps(organization.display_name, with_models=True)
            for organization in client.list_organizations()
        }
    if compact:
        return {
            organization: {
                app.name: [{"name": model.name, "updated_at": model.updated_at} for model in app.models or []]
                for app in apps
            }
            for organization, apps in tree.items()
        }
    return [
        {"org_name": organization, "app_name": app.name, "model_name": model.name}
        for organization, apps in tree.items()
        for app in apps
        for model in app.models or []
    ]


def only_organization(client: Client, argument: str) -> str:
    """Return the one organization that the token sees.

    Args:
        argument: how another one is named where this is asked from, for the message.

    Raises:
        InvalidParamError: there is none, or more than one.
    """
    names = [organization.name for organization in client.list_organizations()]
    if len(names) == 1:
        return names[0]
    if not names:
        raise InvalidParamError("This token sees no organization; create one with: skafos orgs create NAME")
    shown = ", ".join(names[:MAX_NAMED]) + (", …" if len(names) > MAX_NAMED else "")
    raise InvalidParamError(f"Which organization? Give {argument} or {ORGANIZATION_VARIABLE}: {shown}.")
