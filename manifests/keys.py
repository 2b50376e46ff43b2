"""Environment keys that certify themselves.

An app ships one text, such as `prod-aaaqeayeauda-u3ffomhceava4wj23ukyhhco3q`: the environment's name, an id that is
random, and a fingerprint of the root keys that the key vouches for. With nothing else the app can verify the first
root it is given, and TUF carries the trust from there to every later root.
"""

from __future__ import annotations

import base64
import hashlib
import re
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

# 60 random bits: no guessing which keys exist, and no collision among any number of environments.
ID_LENGTH = 12
# Random bytes that `make_key` needs to fill the id.
RANDOM_BYTES = 8
# 128 bits of SHA-256: finding other root keys with the same fingerprint is out of reach.
FINGERPRINT_BYTES = 16
FINGERPRINT_LENGTH = 26

# How long a key may stay valid beside the one that replaces it. A month is enough for a build of the app to reach most
# devices; a year for all. Never for ever: a key that is to stay is simply not replaced.
DEFAULT_OVERLAP = timedelta(days=30)
MAX_OVERLAP = timedelta(days=366)

_KEY = re.compile(
    r"(?P<name>[a-z][a-z0-9-]{0,30})"
    rf"-(?P<id>[a-z2-7]{{{ID_LENGTH}}})"
    rf"-(?P<fingerprint>[a-z2-7]{{{FINGERPRINT_LENGTH}}})"
)
_ENVIRONMENT_NAME = re.compile(r"[a-z][a-z0-9-]{0,30}")


class InvalidKey(ValueError):
    """The text is no environment key."""


class UncertifiedRoot(ValueError):
    """The root is not the one that the environment key vouches for."""


@dataclass(frozen=True, slots=True)
class EnvironmentKey:
    """An environment key taken apart. `str()` puts it together again."""

    name: str
    id: str
    fingerprint: str

    def __str__(self) -> str:
        return f"{self.name}-{self.id}-{self.fingerprint}"


def make_key(environment_name: str, root_bytes: bytes, random_bytes: bytes) -> str:
    """Return a new key of an environment.

    Args:
        root_bytes: the root that apps with this key start from.
        random_bytes: at least RANDOM_BYTES fresh random bytes.

    Raises:
        ValueError: the name is no environment name, or there are too few random bytes.
    """
    if _ENVIRONMENT_NAME.fullmatch(environment_name) is None:
        raise ValueError("An environment's name has 1 to 31 of a-z, 0-9 and -, and starts with a letter")
    if len(random_bytes) < RANDOM_BYTES:
        raise ValueError(f"A key's id needs {RANDOM_BYTES} random bytes")
    key_id = _base32(random_bytes[:RANDOM_BYTES])[:ID_LENGTH]
    return str(EnvironmentKey(environment_name, key_id, fingerprint(root_bytes)))


def parse_key(text: str) -> EnvironmentKey:
    """Take a key apart, from the right: the name may hold hyphens itself.

    Raises:
        InvalidKey: the text is no environment key.
    """
    match = _KEY.fullmatch(text)
    if match is None:
        raise InvalidKey("This is no environment key")
    return EnvironmentKey(match["name"], match["id"], match["fingerprint"])


def fingerprint(root_bytes: bytes) -> str:
    """Return the fingerprint of a root's keys: 26 characters of lower-case base32 (RFC 4648, section 6).

    It is the first 16 bytes of the SHA-256 of the canonical JSON of `{"keys": [{"keytype", "public", "scheme"}, …],
    "threshold": n}`, where the keys are those of the root role, each once, sorted by keytype, scheme and public
    value. So it names the keys themselves, whatever ids the metadata gives them.

    Raises:
        UncertifiedRoot: the bytes are no root metadata.
    """
    return _fingerprint_of(_read_root(root_bytes).signed)


def certify(key: EnvironmentKey, root_bytes: bytes) -> None:
    """Check that a root is the one that the key vouches for, and that its own keys signed it.

    Raises:
        UncertifiedRoot: the fingerprint is another, or the signatures do not reach the root's own threshold.
    """
    from tuf.api.exceptions import RepositoryError

    metadata = _read_root(root_bytes)
    if _fingerprint_of(metadata.signed) != key.fingerprint:
        raise UncertifiedRoot("The root has other keys than the environment key names")
    try:
        metadata.signed.verify_delegate("root", metadata.signed_bytes, metadata.signatures)
    except (RepositoryError, ValueError) as error:
        raise UncertifiedRoot("The root is not signed by enough of its own keys") from error


def _fingerprint_of(root: Any) -> str:
    from securesystemslib.formats import encode_canonical

    role = root.roles["root"]
    members = {_key_members(root.keys[key_id]) for key_id in role.keyids}
    keys = [{"keytype": keytype, "public": public, "scheme": scheme} for keytype, scheme, public in sorted(members)]
    text = str(encode_canonical({"keys": keys, "threshold": role.threshold}))
    return _base32(hashlib.sha256(text.encode()).digest()[:FINGERPRINT_BYTES])


def _key_members(key: Any) -> tuple[str, str, str]:
    return key.keytype, key.scheme, str(key.keyval["public"])


def _read_root(root_bytes: bytes) -> Any:
    # Imported here, because a process that only takes keys apart needs none of TUF's 17 MB.
    from tuf.api.metadata import Metadata, Root  # type: ignore[attr-defined]
    from tuf.api.serialization import DeserializationError

    try:
        metadata = Metadata[Root].from_bytes(root_bytes)
    except DeserializationError as error:
        raise UncertifiedRoot("This is no root metadata") from error
    if not isinstance(metadata.signed, Root):
        raise UncertifiedRoot("This is no root metadata")
    return metadata


def _base32(data: bytes) -> str:
    return base64.b32encode(data).decode().rstrip("=").lower()
