"""Who a device is: a random id for each installation, and the facts that rollout rules and reports use.

Nothing here identifies a person: the id is random, and it goes when the directory goes.
"""

from __future__ import annotations

import os
import platform
import secrets
import uuid
from dataclasses import asdict, dataclass
from pathlib import Path

from artifacts.files import make_directory, sync_directory
from manifests.rollout import DeviceFacts

# The longest that a report may state; rules compare with what is reported.
MAX_FACT_LENGTH = 100


@dataclass(frozen=True, slots=True)
class Facts:
    """What an app knows of itself and its device; None where it does not.

    Attributes:
        os: such as "linux", "ios".
        os_version, app_version: such as "17.4".
        device_model: such as "iPhone16,1".
        locale: a BCP 47 tag such as "de-AT".
        interface: the interface that the app was built for; None takes any.
    """

    os: str | None = None
    os_version: str | None = None
    app_version: str | None = None
    device_model: str | None = None
    locale: str | None = None
    interface: str | None = None

    def of_device(self, device_id: str) -> DeviceFacts:
        """Return the facts as the rollout rule takes them."""
        return DeviceFacts(device_id=device_id, **asdict(self))

    def reported(self) -> dict[str, str]:
        """Return what is known and may be reported, without control characters and cut to what the edge accepts."""
        known = {name: clean_fact(value) for name, value in asdict(self).items() if value and name != "interface"}
        return {name: value for name, value in known.items() if value}


def clean_fact(text: str) -> str:
    """Return ``text`` without what cannot be printed, cut to the longest fact."""
    return "".join(character for character in text if character.isprintable())[:MAX_FACT_LENGTH]


def detect_facts(app_version: str | None = None, interface: str | None = None) -> Facts:
    """Return what Python knows of this machine.

    Args:
        app_version: the app's own.
        interface: the interface that the app was built for.
    """
    language = os.environ.get("LC_ALL") or os.environ.get("LANG") or ""
    return Facts(
        os=platform.system().lower() or None,
        os_version=platform.release() or None,
        app_version=app_version,
        device_model=platform.machine() or None,
        # The C locale is no language.
        locale=None if language.split(".")[0] in ("", "C", "POSIX") else language.split(".")[0].replace("_", "-"),
        interface=interface,
    )


def device_id(directory: Path) -> str:
    """Return this installation's id; made at the first call, the same ever after.

    Args:
        directory: where it is kept.
    """
    kept = directory / "device-id"
    if (found := _read(kept)) is not None:
        return found
    make_directory(directory)
    fresh = directory / f".device-id.{secrets.token_hex(6)}.partial"
    with fresh.open("w", encoding="ascii") as file:
        file.write(str(uuid.uuid4()))
        file.flush()
        os.fsync(file.fileno())
    # Linking fails when another process was first; an unreadable file is replaced.
    try:
        os.link(fresh, kept)
        fresh.unlink()
    except FileExistsError:
        if (found := _read(kept)) is not None:
            fresh.unlink()
            return found
        fresh.replace(kept)
    sync_directory(directory)
    return kept.read_text("ascii")


def _read(path: Path) -> str | None:
    try:
        return str(uuid.UUID(path.read_text("ascii")))
    except (OSError, ValueError):
        return None
