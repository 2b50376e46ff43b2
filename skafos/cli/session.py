"""A client for a command, and the names that it works on: options, then the environment, then the only one there is."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from skafos.configuration import (
    APP_VARIABLE,
    MODEL_VARIABLE,
    resolve_token,
    resolve_url,
)
from skafos.exceptions import InvalidParamError

if TYPE_CHECKING:
    from skafos.client import Client


@dataclass(frozen=True, slots=True)
class Session:
    """A client, and the names that the command was given."""

    client: Client
    org_option: str | None = None
    app_option: str | None = None
    model_option: str | None = None

    @property
    def org(self) -> str:
        """The organization: as given, else the only one that the token sees."""
        from skafos.utilities import only_organization

        return self.org_option or only_organization(self.client, "--org")

    @property
    def app(self) -> str:
        """The app, which must be given."""
        return _required(self.app_option, "app", "--app", APP_VARIABLE)

    @property
    def model(self) -> str:
        """The model, which must be given."""
        return _required(self.model_option, "model", "--model", MODEL_VARIABLE)

    @property
    def of_app(self) -> tuple[str, str]:
        """Organization and app. What must be given is asked for before the server is."""
        app = self.app
        return self.org, app

    @property
    def of_model(self) -> tuple[str, str, str]:
        """Organization, app and model."""
        app, model = self.app, self.model
        return self.org, app, model


@contextmanager
def session(org: str | None = None, app: str | None = None, model: str | None = None) -> Iterator[Session]:
    """Give a session at ``SKAFOS_URL`` with ``SKAFOS_API_TOKEN``."""
    from skafos.client import Client

    with Client(resolve_url(), resolve_token()) as client:
        yield Session(client, org, app, model)


def _required(given: str | None, what: str, option: str, variable: str) -> str:
    if not given:
        raise InvalidParamError(f"Which {what}? Give {option} or set {variable}.")
    return given
