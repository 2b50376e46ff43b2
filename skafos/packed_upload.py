"""Files on the disk become the next version of a model: packed, uploaded, and each step shown."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from skafos.client import Client
from skafos.packing import Naming, packed, zip_name
from skafos.progress import progress_display
from skafos.records import ModelVersion


def upload_packed(
    client: Client,
    names: tuple[str, str, str],
    files: Sequence[str | Path],
    description: str | None = None,
    *,
    shown: bool = True,
) -> ModelVersion:
    """Upload files and folders as the next version of a model, and return it.

    Args:
        client: of the management API.
        names: of the organization, the app and the model, or their ids.
        files: a single zip goes as it is.
        description: up to 255 characters.
        shown: with a progress bar, on a terminal.

    Raises:
        InvalidParamError: a file is not there, or cannot be packed.
        UploadFailedError: the bytes could not be delivered in several attempts.
        SkafosError: the kind for what else the server refused.
    """
    model = names[-1]
    with (
        progress_display(shown=shown) as display,
        packed(files, model, Naming.LAST_PART, display.bytes("Packing")) as archive,
    ):
        return client.upload_version(
            *names,
            archive,
            filename=zip_name(model),
            description=description,
            progress=display.bytes("Uploading", then="The server inspects the model"),
        )
