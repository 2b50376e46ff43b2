"""What a team is given by Apple or Google to send notifications with, read and checked when it is uploaded.

A credential that cannot work is refused at once with a sentence that says what to do, not on the day of a release.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from cryptography.hazmat.primitives.serialization import pkcs12
from cryptography.x509.oid import NameOID, ObjectIdentifier

# A .p12 with a chain has some 8 KB; nothing that is asked for is larger.
MAX_CREDENTIAL_BYTES: Final = 64 * 1024
# Google's files have some 2.4 KB. Twice the bits in the key fit; four times, which take ten seconds to check, do not.
MAX_ACCOUNT_BYTES: Final = 5 * 1024
# Google makes keys of 2,048 bits; shorter ones are not safe any more (NIST SP 800-131A).
MIN_RSA_BITS: Final = 2048
# The one address that access tokens are asked of. A file that names another one would have this server send requests
# to wherever whoever uploads it likes.
GOOGLE_TOKEN_URL: Final = "https://oauth2.googleapis.com/token"  # noqa: S105 - an address
# "Creating and managing projects": a letter, then letters, digits, hyphens; old ones may belong to a domain.
_PROJECT = re.compile(r"(?:[a-z0-9.-]{1,64}:)?[a-z][a-z0-9-]{4,28}[a-z0-9]")
_ACCOUNT_EMAIL = re.compile(r"[a-zA-Z0-9._-]{1,64}@[a-zA-Z0-9.-]{1,189}")
_ACCOUNT_KEY_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")
# Ten upper-case letters and digits, as Apple's developer pages show both.
_APPLE_ID = re.compile(r"[A-Z0-9]{10}")

# Apple's own extensions of push certificates: which servers they are for, and further topics
# ("Apple Worldwide Developer Relations Certification Practice Statement", section 4.11).
_FOR_SANDBOX: Final = ObjectIdentifier("1.2.840.113635.100.6.3.1")
_FOR_PRODUCTION: Final = ObjectIdentifier("1.2.840.113635.100.6.3.2")
_TOPICS: Final = ObjectIdentifier("1.2.840.113635.100.6.3.6")
# Topics of one certificate beside the app itself: VoIP and complications.
_SUFFIXES: Final = (".voip", ".complication")


class CredentialUnusable(ValueError):
    """A credential is refused: the sentence says why and what to do, and holds nothing of it."""


@dataclass(frozen=True, slots=True)
class AppleKey:
    """A key for provider tokens (a .p8 file): good for every app of a team, on both servers, until it is revoked.

    Args:
        key: on P-256.
        key_id, team_id: as Apple's developer pages show them.
    """

    key: ec.EllipticCurvePrivateKey = field(repr=False)
    key_id: str
    team_id: str


@dataclass(frozen=True, slots=True)
class AppleCertificate:
    """A certificate of one app with its key (a .p12 or PEM file), good for a year.

    Args:
        pem: the certificate and its key, not encrypted.
        topics: bundle identifiers that it may send to.
        sandbox, production: servers that it is for.
        expires_at: its end.
    """

    pem: bytes = field(repr=False)
    topics: frozenset[str]
    sandbox: bool
    production: bool
    expires_at: datetime


@dataclass(frozen=True, slots=True)
class GoogleAccount:
    """A service account that may send through Firebase Cloud Messaging (a JSON file).

    Args:
        key: RSA.
        key_id, email, project: as the file names them.
    """

    key: rsa.RSAPrivateKey = field(repr=False)
    key_id: str
    email: str
    project: str


def read_apple_key(content: bytes, key_id: str, team_id: str) -> AppleKey:
    """Return the key of a .p8 file.

    Raises:
        CredentialUnusable: it is none, or an id has another form.
    """
    _check_size(content)
    if not _APPLE_ID.fullmatch(key_id):
        raise CredentialUnusable("The key id is ten letters and digits; it is in the name of the file AuthKey_….p8.")
    if not _APPLE_ID.fullmatch(team_id):
        raise CredentialUnusable("The team id is ten letters and digits; Apple's developer account shows it.")
    if content.lstrip().startswith(b"-----BEGIN CERTIFICATE"):
        raise CredentialUnusable("This is a certificate. Upload the .p8 file, or choose certificate instead of key.")
    key = _read_pem_key(content, None)
    if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, ec.SECP256R1):
        raise CredentialUnusable("This is none of Apple's keys, which are on the curve P-256. Download the .p8 again.")
    return AppleKey(key, key_id, team_id)


def read_apple_certificate(
    content: bytes, password: str | None, bundle_id: str, *, sandbox: bool, now: datetime
) -> AppleCertificate:
    """Return the certificate of a .p12 or PEM file, checked for an app and a server.

    Args:
        content: of the file.
        password: of the file or of the key in it; None when it has none.
        bundle_id: of the app that is sent to.
        sandbox: whether Apple's development server is used, and not the production one.
        now: with its zone.

    Raises:
        CredentialUnusable: the password is wrong, it has expired, it is another app's or another server's, and so on.
    """
    _check_size(content)
    key, certificate = _read_pair(content, password)
    if certificate.public_key().public_bytes(*_PUBLIC) != key.public_key().public_bytes(*_PUBLIC):
        raise CredentialUnusable("The key in the file is not that of the certificate. Export both together.")
    if certificate.not_valid_after_utc <= now:
        ended = certificate.not_valid_after_utc.date().isoformat()
        raise CredentialUnusable(f"The certificate expired on {ended}. Create a new one with Apple.")
    if certificate.not_valid_before_utc > now:
        raise CredentialUnusable("The certificate is not valid yet. Is the clock of this server right?")
    topics = _topics_of(certificate)
    if bundle_id not in topics:
        named = ", ".join(sorted(topics)) or "no app"
        raise CredentialUnusable(f"The certificate is for {named}, and this application is {bundle_id}.")
    for_sandbox, for_production = _servers_of(certificate)
    if sandbox and not for_sandbox:
        raise CredentialUnusable("The certificate is for Apple's production server only. Use it there, or a key (.p8).")
    if not sandbox and not for_production:
        raise CredentialUnusable("The certificate is for Apple's development server only. Create one for production.")
    pem = certificate.public_bytes(serialization.Encoding.PEM) + key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return AppleCertificate(pem, topics, for_sandbox, for_production, certificate.not_valid_after_utc)


def read_google_account(content: bytes) -> GoogleAccount:
    """Return the service account of a JSON file.

    Raises:
        CredentialUnusable: it is none.
    """
    _check_size(content, MAX_ACCOUNT_BYTES)
    told = _read_json(content)
    if told.get("type") != "service_account":
        raise CredentialUnusable(_NO_ACCOUNT + _what_instead(told))
    names = ("private_key_id", "client_email", "project_id", "token_uri", "private_key")
    for name in names:
        if not isinstance(told.get(name), str) or not told[name]:
            raise CredentialUnusable(f"The service account has no {name}. Download the file again.")
    key_id, email, project, token_url, private = (str(told[name]) for name in names)
    for name, value, form in (
        ("private_key_id", key_id, _ACCOUNT_KEY_ID),
        ("client_email", email, _ACCOUNT_EMAIL),
        ("project_id", project, _PROJECT),
    ):
        if not form.fullmatch(value):
            raise CredentialUnusable(f"The {name} of the service account is none of Google's. Download the file again.")
    if token_url != GOOGLE_TOKEN_URL:
        raise CredentialUnusable(
            f"The token_uri of the service account is not {GOOGLE_TOKEN_URL}. Create a new key in Google Cloud."
        )
    try:
        key = _read_pem_key(private.encode("ascii", "replace"), None)
    except CredentialUnusable:
        raise CredentialUnusable("The private_key of the service account cannot be read. Download it again.") from None
    if not isinstance(key, rsa.RSAPrivateKey):
        raise CredentialUnusable("The key of the service account is not an RSA key. Download the file again.")
    if key.key_size < MIN_RSA_BITS:
        raise CredentialUnusable(
            f"The key of the service account is shorter than {MIN_RSA_BITS} bits. Create a new one."
        )
    return GoogleAccount(key, key_id, email, project)


_NO_ACCOUNT = "This is no service account. Create a key for one in Google Cloud, as JSON."


def _read_json(content: bytes) -> dict[str, Any]:
    try:
        told = json.loads(content)
    except (ValueError, RecursionError):
        told = None
    if not isinstance(told, dict):
        raise CredentialUnusable(_NO_ACCOUNT)
    return told


def _what_instead(told: Mapping[str, Any]) -> str:
    """Return what else of Google's a file is that people take for a service account: it is beside it in the console."""
    if "project_info" in told:
        return " This is google-services.json, which belongs into the app."
    if "web" in told or "installed" in told:
        return " This is an OAuth client."
    return ""


_PUBLIC = (serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
_Signing = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey


def _check_size(content: bytes, most: int = MAX_CREDENTIAL_BYTES) -> None:
    if not content.strip():
        raise CredentialUnusable("The file is empty.")
    if len(content) > most:
        raise CredentialUnusable(f"The file is larger than {most // 1024} KiB: it is no credential.")


def _read_pair(content: bytes, password: str | None) -> tuple[_Signing, x509.Certificate]:
    key: PrivateKeyTypes | None
    certificate: x509.Certificate | None
    secret = password.encode() if password else None
    if b"-----BEGIN" in content:
        if b"-----BEGIN CERTIFICATE" not in content:
            raise CredentialUnusable("There is no certificate in the file. Choose key instead if it is a .p8.")
        if b"PRIVATE KEY-----" not in content:
            raise CredentialUnusable("There is no key in the file. Export the certificate together with its key.")
        key = _read_pem_key(content[content.index(b"-----BEGIN", _start_of_key(content)) :], secret)
        try:
            certificate = x509.load_pem_x509_certificate(content[content.index(b"-----BEGIN CERTIFICATE") :])
        except ValueError:
            raise CredentialUnusable("The certificate in the file cannot be read. Export it again.") from None
    else:
        try:
            key, certificate, _ = pkcs12.load_key_and_certificates(content, secret)
        except ValueError:
            raise CredentialUnusable("The file cannot be opened: it is no .p12, or the password is wrong.") from None
        except UnsupportedAlgorithm:
            raise CredentialUnusable("The file is encrypted in an unknown way. Export it as PEM.") from None
    if certificate is None or not isinstance(key, (ec.EllipticCurvePrivateKey, rsa.RSAPrivateKey)):
        raise CredentialUnusable("The file does not hold both a certificate and its key. Export them together.")
    return key, certificate


def _start_of_key(content: bytes) -> int:
    return content.rindex(b"-----BEGIN", 0, content.index(b"PRIVATE KEY-----"))


def _read_pem_key(content: bytes, password: bytes | None) -> PrivateKeyTypes:
    try:
        return serialization.load_pem_private_key(content, password)
    except TypeError:
        if password is None:
            raise CredentialUnusable("The key is encrypted. Give its password as well.") from None
        return _read_pem_key(content, None)  # a password that is not needed
    except (ValueError, UnsupportedAlgorithm):
        raise CredentialUnusable("The key cannot be read: it is damaged, or the password is wrong.") from None


def _topics_of(certificate: x509.Certificate) -> frozenset[str]:
    """Return the bundle identifiers: the subject's user id, and those that the topics extension lists."""
    topics = {str(name.value) for name in certificate.subject.get_attributes_for_oid(NameOID.USER_ID)}
    for extension in certificate.extensions:
        if extension.oid == _TOPICS and isinstance(extension.value, x509.UnrecognizedExtension):
            # A sequence of texts; every readable run of the right form in it is a topic.
            texts = re.findall(rb"[A-Za-z0-9-]+(?:\.[A-Za-z0-9-]+)+", extension.value.value)
            topics |= {text.decode() for text in texts}
    return frozenset(topic for topic in topics if not topic.endswith(_SUFFIXES))


def _servers_of(certificate: x509.Certificate) -> tuple[bool, bool]:
    """Return whether it is for the development and for the production server; one without either word is for both."""
    present = {extension.oid for extension in certificate.extensions}
    sandbox, production = _FOR_SANDBOX in present, _FOR_PRODUCTION in present
    return (sandbox, production) if sandbox or production else (True, True)
