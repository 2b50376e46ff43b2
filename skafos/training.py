"""What a trainer calls when it is done: upload what was trained, then deploy it to dev or prod.

`publish` does both, with one token. `publishing` makes a function of it that a trainer can call with whatever it gives
its callbacks; so no framework is imported here, and every one of them fits (docs/training.md has the line for each)::

    from skafos.training import publish, publishing

    publish("vision.mlpackage", app="Camera", model="vision", environment="dev")
    trainer.add_callback("on_train_end", publishing(lambda trainer: export(trainer.best), environment="dev"))
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from skafos.client import Client
from skafos.configuration import (
    APP_VARIABLE,
    MODEL_VARIABLE,
    ORGANIZATION_VARIABLE,
    resolve_name,
    resolve_token,
    resolve_url,
)
from skafos.exceptions import DeployFailedError, SkafosError
from skafos.packed_upload import upload_packed
from skafos.uploading import description_field
from skafos.utilities import only_organization

__all__ = ["Published", "publish", "publishing", "is_main_process"]

ENVIRONMENT_VARIABLE = "SKAFOS_ENVIRONMENT"
DEFAULT_ENVIRONMENT = "dev"

# The number of a process among those that train together, as torchrun, Slurm and Open MPI tell it; and on its machine
# alone, as PyTorch Lightning tells the processes that it starts itself, beside the number of the machine.
GLOBAL_RANK_VARIABLES = ("RANK", "SLURM_PROCID", "OMPI_COMM_WORLD_RANK")
LOCAL_RANK_VARIABLES = ("LOCAL_RANK", "NODE_RANK")

Files = str | Path | Iterable[str | Path]


@dataclass(frozen=True, slots=True)
class Published:
    """What became of trained files.

    Attributes:
        version: the number that they got.
        environment: where that version is offered now; None where it was only uploaded.
        deployment: the deployment's id, or None.
        format: what the server took them for: "onnx", "tflite", "coreml" and so on.
    """

    version: int
    environment: str | None
    deployment: str | None
    format: str


def publish(
    files: Files,
    *,
    app: str | None = None,
    model: str | None = None,
    org: str | None = None,
    environment: str | None = None,
    deploy: bool = True,
    percent: float = 100.0,
    conditions: Mapping[str, Any] | None = None,
    push: bool = False,
    description: str | None = None,
    token: str | None = None,
    url: str | None = None,
    verbose: bool = True,
) -> Published:
    """Upload files as the next version of a model, and deploy it.

    What is not given comes from the environment: ``SKAFOS_URL``, ``SKAFOS_API_TOKEN``, ``SKAFOS_APP_NAME``,
    ``SKAFOS_MODEL_NAME`` and ``SKAFOS_ENVIRONMENT`` (else "dev"); ``SKAFOS_ORG_NAME`` may be left out where the token
    sees one organization only.

    Args:
        files: a file or folder, or several; a single zip goes as it is.
        app, model, org: names or ids.
        environment: where to deploy it: "dev", "prod" or one that was added.
        deploy: False uploads only, for somebody else to deploy.
        percent: the share of devices that get it, of 100.
        conditions: what a device must be, as in ``{"os_version": {"min": "17"}}``.
        push: wake devices up.
        description: up to 255 characters.
        token: an API token, of a developer at least.
        url: the control plane's address.
        verbose: tell what is done, with a progress bar on a terminal.

    Raises:
        InvalidTokenError: the token is missing, unknown, expired or revoked. Nothing was sent.
        InvalidParamError: a name is missing or wrong, or a file is not there.
        UploadFailedError: the bytes could not be delivered in several attempts.
        DeployFailedError: the version is uploaded, as its message says, and could not be deployed.
        SkafosError: the kind for what else the server refused.
    """
    place = environment or os.environ.get(ENVIRONMENT_VARIABLE) or DEFAULT_ENVIRONMENT
    app, model = resolve_name("App", APP_VARIABLE, app), resolve_name("Model", MODEL_VARIABLE, model)
    description_field(description)
    with Client(resolve_url(url), resolve_token(token)) as client:
        names = (org or os.environ.get(ORGANIZATION_VARIABLE) or only_organization(client, "org"), app, model)
        uploaded = upload_packed(client, names, _several(files), description, shown=verbose)
        number, deployment = uploaded.version or 0, None
        try:
            if deploy:
                deployment = client.deploy(
                    *names, version=number, environment=place, percent=percent, conditions=conditions, push=push
                ).deployment
        except SkafosError as error:
            raise DeployFailedError(f"Version {number} of {model} is uploaded, but not deployed. {error}") from error
    if verbose:
        done = (
            f"Published version {number} of {model} to {place}"
            if deployment
            else f"Uploaded version {number} of {model}"
        )
        print(f"{done}.", flush=True)
    return Published(
        number, place if deployment else None, deployment.id if deployment else None, uploaded.format or ""
    )


def publishing(
    export: Callable[..., Files], *, when: Callable[..., bool] | None = None, **options: Any
) -> Callable[..., Published | None]:
    """Return a function that a trainer calls at its end: it exports the model and publishes what it got.

    Where several processes train together, only the first exports and publishes.

    Args:
        export: is called with whatever the trainer gives; returns the file or files.
        when: is called with the same; False publishes nothing, for a model that is no better than the last.
        **options: those of `publish`.

    Returns:
        A function of any arguments, which returns what was published, or None.
    """

    def publish_trained(*arguments: Any, **named: Any) -> Published | None:
        if not is_main_process() or (when is not None and not when(*arguments, **named)):
            return None
        return publish(export(*arguments, **named), **options)

    return publish_trained


def is_main_process(environ: Mapping[str, str] = os.environ) -> bool:
    """Say whether this process is the first of those that train together, or the only one."""
    for variable in GLOBAL_RANK_VARIABLES:
        if variable in environ:
            return environ[variable] == "0"
    return all(environ.get(variable, "0") == "0" for variable in LOCAL_RANK_VARIABLES)


def _several(files: Files) -> list[str | Path]:
    return [files] if isinstance(files, str | Path) else list(files)
