"""Credentials are read and checked when they come: what cannot work is refused with a sentence that says what to do."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from control_plane.push.credentials import (
    MAX_ACCOUNT_BYTES,
    MAX_CREDENTIAL_BYTES,
    AppleCertificate,
    CredentialUnusable,
    read_apple_certificate,
    read_apple_key,
    read_google_account,
)
from control_plane.push.expiry import expires_soon
from tests.control_plane.push.certificates import (
    ACCOUNT_KEY_ID,
    BUNDLE_ID,
    EMAIL,
    PRODUCTION,
    PROJECT,
    SANDBOX,
    Pair,
    make_pair,
    service_account,
)
from tests.control_plane.push.conftest import KEY_ID, TEAM_ID

NOW = datetime.now(UTC)
PASSWORD = "correct horse"
# A server that asked any of these for access would do what an uploader wants in the network that it is in.
NOT_GOOGLES = (
    "http://oauth2.googleapis.com/token",
    "https://oauth2.googleapis.com.example.org/token",
    "https://oauth2.googleapis.com@127.0.0.1/token",
    "https://oauth2.googleapis.com:444/token",
    "https://oauth2.googleapis.com/token/../other",
    "https://169.254.169.254/token",
    "file:///etc/passwd",
)


def pem_of(key: Any, password: str | None = None) -> bytes:
    how = serialization.BestAvailableEncryption(password.encode()) if password else serialization.NoEncryption()
    made: bytes = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, how)
    return made


def read(
    content: bytes, password: str | None = None, bundle_id: str = BUNDLE_ID, sandbox: bool = False
) -> AppleCertificate:
    return read_apple_certificate(content, password, bundle_id, sandbox=sandbox, now=NOW)


@pytest.fixture(scope="module")
def pair() -> Pair:
    return make_pair()


def test_a_key_is_read() -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    found = read_apple_key(pem_of(key), KEY_ID, TEAM_ID)
    assert (found.key_id, found.team_id) == (KEY_ID, TEAM_ID)
    assert found.key.private_numbers() == key.private_numbers()


@pytest.mark.parametrize(
    ("content", "key_id", "team_id", "sentence"),
    [
        (b"", KEY_ID, TEAM_ID, "empty"),
        (b"x" * (MAX_CREDENTIAL_BYTES + 1), KEY_ID, TEAM_ID, "larger"),
        (b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n", KEY_ID, TEAM_ID, "cannot be read"),
        (b"something else", KEY_ID, TEAM_ID, "cannot be read"),
        (pem_of(ec.generate_private_key(ec.SECP384R1())), KEY_ID, TEAM_ID, "P-256"),
        (pem_of(ec.generate_private_key(ec.SECP256R1())), "abc", TEAM_ID, "key id"),
        (pem_of(ec.generate_private_key(ec.SECP256R1())), KEY_ID, "team", "team id"),
        (pem_of(ec.generate_private_key(ec.SECP256R1()), "secret"), KEY_ID, TEAM_ID, "encrypted"),
        (make_pair().certificate_pem, KEY_ID, TEAM_ID, "certificate"),
    ],
)
def test_what_is_no_key_is_refused(content: bytes, key_id: str, team_id: str, sentence: str) -> None:
    with pytest.raises(CredentialUnusable, match=sentence):
        read_apple_key(content, key_id, team_id)


def test_a_certificate_is_read_from_every_form(pair: Pair) -> None:
    forms = [
        (pair.p12(PASSWORD), PASSWORD),
        (pair.certificate_pem + pair.key_pem(), None),
        (pair.key_pem() + pair.certificate_pem, None),
        (pair.certificate_pem + pair.key_pem(PASSWORD), PASSWORD),
        (pair.certificate_pem + pair.key_pem(), "not needed"),
        (
            b"Bag Attributes\n    friendlyName: push\n" + pair.certificate_pem + b"Key Attributes\n" + pair.key_pem(),
            None,
        ),
    ]
    found = {read(content, password) for content, password in forms}
    assert len(found) == 1
    (certificate,) = found
    assert certificate.topics == {BUNDLE_ID}
    assert certificate.sandbox
    assert certificate.production
    assert certificate.expires_at == pair.certificate.not_valid_after_utc
    assert b"PRIVATE KEY" not in repr(certificate).encode()


def test_more_topics_are_read_from_apples_extension() -> None:
    topics = (BUNDLE_ID, f"{BUNDLE_ID}.voip", "com.example.other")
    found = make_pair(topic="com.example.first", topics=topics)
    assert read(found.p12(PASSWORD), PASSWORD).topics == {"com.example.first", BUNDLE_ID, "com.example.other"}


@pytest.mark.parametrize(
    ("content", "password", "options", "sentence"),
    [
        (make_pair().p12(PASSWORD), "wrong", {}, "password is wrong"),
        (make_pair().p12(PASSWORD), None, {}, "password is wrong"),
        (make_pair().p12(PASSWORD)[:-9], PASSWORD, {}, "no .p12"),
        (b"\x00\x01", None, {}, "no .p12"),
        (make_pair(ends=timedelta(hours=-1)).p12(PASSWORD), PASSWORD, {}, "expired on"),
        (make_pair(begins=timedelta(days=1)).p12(PASSWORD), PASSWORD, {}, "not valid yet"),
        (make_pair(topic="com.example.other").p12(PASSWORD), PASSWORD, {}, "is for com.example.other"),
        (make_pair(topic=None).p12(PASSWORD), PASSWORD, {}, "is for no app"),
        (make_pair(servers=(PRODUCTION,)).p12(PASSWORD), PASSWORD, {"sandbox": True}, "production server only"),
        (make_pair(servers=(SANDBOX,)).p12(PASSWORD), PASSWORD, {}, "development server only"),
        (make_pair().certificate_pem, None, {}, "no key"),
        (make_pair().key_pem(), None, {}, "no certificate"),
        (make_pair().certificate_pem + make_pair().key_pem(), None, {}, "not that of the certificate"),
        (make_pair().certificate_pem + make_pair().key_pem(PASSWORD), None, {}, "Give its password"),
        (make_pair().certificate_pem + make_pair().key_pem(PASSWORD), "wrong", {}, "password is wrong"),
        (make_pair().certificate_pem[:-60] + make_pair().key_pem(), None, {}, "cannot be read"),
        (b"", None, {}, "empty"),
    ],
)
def test_what_is_no_certificate_for_this_is_refused(
    content: bytes, password: str | None, options: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(CredentialUnusable, match=sentence):
        read(content, password, **options)


def test_the_end_of_a_certificate_is_told_in_time() -> None:
    certificate = read(make_pair(ends=timedelta(days=20)).p12(PASSWORD), PASSWORD)
    assert expires_soon(certificate.expires_at, datetime.now(UTC), timedelta(days=30))
    assert not expires_soon(certificate.expires_at, datetime.now(UTC), timedelta(days=10))


def test_a_service_account_is_read(rsa_key: rsa.RSAPrivateKey) -> None:
    found = read_google_account(service_account(rsa_key))
    assert (found.project, found.key_id, found.email) == (PROJECT, ACCOUNT_KEY_ID, EMAIL)
    assert (
        read_google_account(service_account(rsa_key, project_id="example.com:camera-1")).project
        == "example.com:camera-1"
    )
    assert "BEGIN" not in repr(found)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"type": "authorized_user"}, "no service account"),
        ({"type": None, "project_info": {}}, "google-services.json"),
        ({"type": None, "installed": {}}, "OAuth client"),
        ({"project_id": ""}, "no project_id"),
        ({"project_id": "camera-1/../other"}, "project_id of the service account is none"),
        ({"client_email": "a b@example.com"}, "client_email of the service account is none"),
        ({"private_key_id": "a\r\nb"}, "private_key_id of the service account is none"),
        ({"project_id": None}, "no project_id"),
        ({"client_email": 7}, "no client_email"),
        *(({"token_uri": url}, "token_uri of the service account is not") for url in NOT_GOOGLES),
        ({"private_key": "nonsense"}, "cannot be read"),
        ({"private_key": "grö\0ßer"}, "cannot be read"),
        ({"private_key": pem_of(rsa.generate_private_key(65537, 1024)).decode()}, "shorter than 2048"),
        ({"client_id": "1" * MAX_ACCOUNT_BYTES}, "larger than 5 KiB"),
        ({"private_key": pem_of(ec.generate_private_key(ec.SECP256R1())).decode()}, "not an RSA key"),
    ],
)
def test_what_is_no_service_account_is_refused(
    rsa_key: rsa.RSAPrivateKey, changes: dict[str, object], sentence: str
) -> None:
    with pytest.raises(CredentialUnusable, match=sentence):
        read_google_account(service_account(rsa_key, **changes))


@pytest.mark.parametrize("content", [b"[]", b"{", b"\xff", b"[" * 5_000])
def test_what_is_no_json_is_refused(content: bytes) -> None:
    with pytest.raises(CredentialUnusable, match="no service account"):
        read_google_account(content)
