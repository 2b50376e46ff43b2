"""What a worker is told of a push server: where it listens, whom to trust, and what to sign with."""

from __future__ import annotations

import json
from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from tests.control_plane.push.certificates import BUNDLE_ID
from tests.control_plane.push.conftest import KEY_ID, TEAM_ID

AUTHORITY, SERVER = "authority.pem", "server.json"


def tell(folder: Path, port: int, authority: bytes, key: ec.EllipticCurvePrivateKey) -> None:
    """Write it into ``folder``; the server's file comes last, and whole."""
    (folder / AUTHORITY).write_bytes(authority)
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    told = {"port": port, "key": pem.decode(), "key_id": KEY_ID, "team_id": TEAM_ID, "bundle_id": BUNDLE_ID}
    fresh = folder / f"{SERVER}.new"
    fresh.write_text(json.dumps(told))
    fresh.rename(folder / SERVER)
