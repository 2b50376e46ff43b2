"""Upload, list, deploy and fetch model versions: the functions of the Skafos SDK since version 0.3.

Every function takes, as keyword arguments or from the environment:

* ``skafos_api_token`` (``SKAFOS_API_TOKEN``), the API token;
* ``org_name`` (``SKAFOS_ORG_NAME``), ``app_name`` (``SKAFOS_APP_NAME``), ``model_name`` (``SKAFOS_MODEL_NAME``).

The server's address is ``SKAFOS_URL``. All raise `InvalidTokenError` for a missing or invalid token and
`InvalidParamError` for missing or wrong names.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

import msgspec

from skafos.client import Client
from skafos.configuration import (
    APP_VARIABLE,
    MODEL_VARIABLE,
    ORGANIZATION_VARIABLE,
    resolve_name,
    resolve_token,
    resolve_url,
)
from skafos.exceptions import (
    ConflictError,
    DeployFailedError,
    DownloadFailedError,
    ForbiddenError,
    InvalidAnswerError,
    InvalidParamError,
    InvalidTokenError,
    NotFoundError,
    SkafosError,
    UnavailableError,
    UploadFailedError,
)
from skafos.packing import Naming, packed, zip_name
from skafos.progress import progress_display
from skafos.uploading import description_field

__all__ = [
    "upload_version",
    "list_versions",
    "list_environments",
    "deploy_version",
    "fetch_version",
    "DeployFailedError",
    "DownloadFailedError",
    "InvalidParamError",
    "InvalidTokenError",
    "UploadFailedError",
]

_CANNOT_CONNECT = "Invalid connection parameters. Check your org name, app name, and model name."
_CANNOT_DOWNLOAD = "Model version download failed. Check parameters and that a version actually exists for this model."


def upload_version(
    files: str | list[str], description: str | None = None, verbose: bool = True, **kwargs: str
) -> dict[str, Any]:
    """Upload files as the next version of a model.

    The files are zipped together, with their paths as given (an absolute one without its leading slash). Only a file
    that is given as exactly ``<model_name>.zip`` is sent as it is.

    Args:
        files: path of a file or folder, or a list of them.
        description: up to 255 characters.
        verbose: print what is being done, with a progress bar on a terminal.
        **kwargs: token and names, see above.

    Returns:
        ``{"version", "name", "model", "description"}`` of the new version.

    Raises:
        InvalidParamError: a name, file or description is missing or wrong.
        UploadFailedError: the network or the server failed.
    """
    target = _Target.from_arguments(kwargs)
    description_field(description)
    filename = zip_name(target.model)
    with (
        progress_display(shown=verbose) as display,
        packed(_file_list(files), target.model, Naming.AS_GIVEN, display.bytes("Packing")) as archive,
    ):
        display.stop()
        _say("Started uploading model version to Skafos.", verbose)
        with _connection(target, UploadFailedError) as client:
            version = client.upload_version(
                *target.names,
                archive,
                filename=filename,
                description=description,
                progress=display.bytes("Uploading", then="The server inspects the model"),
            )
        display.stop()
        _say("Finished uploading model version to Skafos.", verbose)
    _say("\nSuccessful model version upload.\n")
    return {
        "version": version.version,
        "name": version.name,
        "model": version.model,
        "description": version.description,
    }


def fetch_version(version: int | None = None, **kwargs: str) -> None:
    """Download a version into the working directory, as the zip ``<model_name>.zip`` that was uploaded.

    Args:
        version: its number; default the latest.
        **kwargs: token and names, see above.

    Raises:
        InvalidParamError: a file of that name is there already, or the version is no integer.
        DownloadFailedError: there is no such version, or the network or the server failed.
    """
    target = _Target.from_arguments(kwargs)
    out = Path(zip_name(target.model))
    if out.exists():
        raise InvalidParamError(
            f"You are trying to download a file ({out}) that will overwrite an existing file in your current working "
            "directory. Rename or move the file and try again."
        )
    if version and not _is_number(version):
        raise InvalidParamError("If specified, the model version must be an integer.")
    _say("Fetching model version.")
    with _connection(target, DownloadFailedError) as client, progress_display() as display:
        progress = display.bytes("Downloading", then="Comparing the bytes with their hash")
        client.fetch_version(*target.names, out, version=version or None, progress=progress)
    _say(f"Downloaded model file as {out}.")


def list_versions(**kwargs: str) -> list[dict[str, Any]]:
    """List a model's uploaded versions.

    Args:
        **kwargs: token and names, see above.

    Returns:
        ``[{"version", "name", "updated_at", "description"}]`` in order of the version.
    """
    target = _Target.from_arguments(kwargs)
    with _connection(target) as client:
        versions = client.list_versions(*target.names)
    return [
        {"version": each.version, "name": each.name, "updated_at": each.updated_at, "description": each.description}
        for each in versions
    ]


def list_environments(**kwargs: str) -> list[dict[str, Any]]:
    """List the environments that a model can be deployed to, with what each offers.

    Args:
        **kwargs: token and names, see above.

    Returns:
        One dictionary for each environment; ids are left out.
    """
    target = _Target.from_arguments(kwargs)
    with _connection(target) as client:
        groups = client.list_environment_groups(*target.names)
    return [_without_ids(msgspec.to_builtins(group)) for group in groups]


def deploy_version(version: int | str = "latest", environment: str = "dev", **kwargs: str) -> None:
    """Deploy an uploaded version to an environment.

    Args:
        version: its number, or "latest".
        environment: "dev", "prod" or one that was added.
        **kwargs: token and names, see above.

    Raises:
        DeployFailedError: the version or the environment does not exist, or the network or the server failed.
    """
    target = _Target.from_arguments(kwargs)
    if version != "latest" and not _is_number(version):
        raise InvalidParamError('Model version must be an integer or "latest".')
    _require_text(environment, "Environment")
    wanted = cast("int | Literal['latest']", version)
    with _connection(target, DeployFailedError) as client:
        deployed = client.deploy(*target.names, version=wanted, environment=environment)
    _say(f"Successfully deployed model version {deployed.success.rsplit(' ', 1)[-1]}.")


@dataclass(frozen=True, slots=True)
class _Target:
    """The model that a call is about, and the token that allows it."""

    token: str
    org: str
    app: str
    model: str

    @classmethod
    def from_arguments(cls, arguments: dict[str, str]) -> _Target:
        """Take the token and the names from keyword arguments or the environment.

        An argument that is given counts, even an empty one: it does not fall back to the environment.
        """
        if "skafos_api_token" in arguments and not arguments["skafos_api_token"]:
            raise InvalidTokenError("Missing Skafos API Token")
        return cls(
            resolve_token(arguments.get("skafos_api_token")),
            _name("Organization", "org_name", ORGANIZATION_VARIABLE, arguments),
            _name("App", "app_name", APP_VARIABLE, arguments),
            _name("Model", "model_name", MODEL_VARIABLE, arguments),
        )

    @property
    def names(self) -> tuple[str, str, str]:
        """Organization, app and model, as the client takes them."""
        return self.org, self.app, self.model


def _name(kind: str, argument: str, variable: str, arguments: dict[str, str]) -> str:
    if argument in arguments and not arguments[argument]:
        raise InvalidParamError(f"Missing Skafos {kind} Name")
    return resolve_name(kind, variable, arguments.get(argument))


@contextmanager
def _connection(target: _Target, failure: type[SkafosError] | None = None) -> Iterator[Client]:
    """Give a client; turn what the server says into the exceptions that the SDK has always raised.

    Args:
        target: whose token to use.
        failure: the exception of this kind of work, for what the server refuses or the network prevents.
    """
    try:
        with Client(resolve_url(), target.token) as client:
            yield client
    except NotFoundError as error:
        if failure is DownloadFailedError:
            raise DownloadFailedError(_CANNOT_DOWNLOAD) from error
        raise InvalidParamError(_CANNOT_CONNECT) from error
    except (InvalidParamError, ConflictError, ForbiddenError, UnavailableError, InvalidAnswerError) as error:
        if failure is None:
            raise
        raise failure(_failed(failure, error)) from error


def _failed(failure: type[SkafosError], error: SkafosError) -> str:
    what = {UploadFailedError: "Model upload failed.", DeployFailedError: "Deploy model version failed."}
    return f"{what.get(failure, 'Model version download failed.')} {error}"


def _is_number(version: object) -> bool:
    return isinstance(version, int) and not isinstance(version, bool)


def _require_text(value: object, what: str) -> None:
    if not isinstance(value, str):
        raise InvalidParamError(f"{what} must be a string.")


def _file_list(files: object) -> list[str | Path]:
    if isinstance(files, str):
        return [files]
    if isinstance(files, list) and all(isinstance(file, str) for file in files):
        return list(files)
    raise InvalidParamError("Files must be either a list or a string.")


def _without_ids(group: dict[str, Any]) -> dict[str, Any]:
    """Leave out keys that end in ``id``, also in the dictionaries of lists."""
    return {
        key: [_without_ids(each) for each in value if isinstance(each, dict)] if isinstance(value, list) else value
        for key, value in group.items()
        if isinstance(value, list) or not key.endswith("id")
    }


def _say(sentence: str, verbose: bool = True) -> None:
    if verbose:
        print(sentence, flush=True)
