"""Credentials for tests: authorities, server and push certificates, keys and accounts, made anew for each run."""

from __future__ import annotations

import ipaddress
import json
import ssl
import tempfile
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import pkcs12
from cryptography.x509.oid import NameOID, ObjectIdentifier

SANDBOX = ObjectIdentifier("1.2.840.113635.100.6.3.1")
PRODUCTION = ObjectIdentifier("1.2.840.113635.100.6.3.2")
TOPICS = ObjectIdentifier("1.2.840.113635.100.6.3.6")
BUNDLE_ID = "com.example.camera"
PROJECT, EMAIL, ACCOUNT_KEY_ID = "camera-1", "push@camera-1.iam.gserviceaccount.com", "0a1b2c"


@dataclass(frozen=True)
class Pair:
    """A certificate and its key."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey

    @property
    def certificate_pem(self) -> bytes:
        return self.certificate.public_bytes(serialization.Encoding.PEM)

    def key_pem(self, password: str | None = None) -> bytes:
        how = serialization.BestAvailableEncryption(password.encode()) if password else serialization.NoEncryption()
        return self.key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, how)

    def p12(self, password: str) -> bytes:
        how = serialization.BestAvailableEncryption(password.encode())
        return pkcs12.serialize_key_and_certificates(b"push", self.key, self.certificate, None, how)


def make_pair(
    topic: str | None = BUNDLE_ID,
    servers: tuple[ObjectIdentifier, ...] = (SANDBOX, PRODUCTION),
    topics: tuple[str, ...] = (),
    begins: timedelta = timedelta(days=-1),
    ends: timedelta = timedelta(days=365),
    address: str | None = None,
    authority: Pair | None = None,
    issues: bool = False,
) -> Pair:
    """Return a certificate as Apple issues it for an app, or for a server when an address is given."""
    key = ec.generate_private_key(ec.SECP256R1())
    names = [x509.NameAttribute(NameOID.COMMON_NAME, f"Apple Push Services: {topic}")]
    if topic is not None:
        names.insert(0, x509.NameAttribute(NameOID.USER_ID, topic))
    subject = x509.Name(names)
    now = datetime.now(UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(authority.certificate.subject if authority else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now + begins)
        .not_valid_after(now + ends)
    )
    if issues:
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    for server in servers:
        builder = builder.add_extension(x509.UnrecognizedExtension(server, b"\x05\x00"), critical=False)
    if topics:
        content = b"".join(b"\x0c" + bytes([len(text)]) + text.encode() for text in topics)
        value = b"\x30" + bytes([len(content)]) + content
        builder = builder.add_extension(x509.UnrecognizedExtension(TOPICS, value), critical=False)
    if address is not None:
        alternative = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(address))])
        builder = builder.add_extension(alternative, critical=False)
    return Pair(builder.sign((authority.key if authority else key), hashes.SHA256()), key)


def service_account(key: rsa.RSAPrivateKey, **changes: object) -> bytes:
    """Return the JSON file of a service account, as Google Cloud gives it, with changes."""
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    told = {
        "type": "service_account",
        "project_id": PROJECT,
        "private_key_id": ACCOUNT_KEY_ID,
        "private_key": pem.decode(),
        "client_email": EMAIL,
        "client_id": "100000000000000000001",
        "auth_uri": "https://accounts.google.com/o/oauth2/auth",
        "token_uri": "https://oauth2.googleapis.com/token",
        "universe_domain": "googleapis.com",
    }
    return json.dumps({**told, **changes}).encode()


def server_context(pair: Pair, clients: Pair | None = None) -> ssl.SSLContext:
    """Return the settings of a server with this certificate, which asks for a client's when there is an authority."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "server.pem"
        file.write_bytes(pair.certificate_pem + pair.key_pem())
        context.load_cert_chain(file)
    if clients is not None:
        context.verify_mode = ssl.CERT_OPTIONAL
        context.load_verify_locations(cadata=clients.certificate_pem.decode())
    return context


def trusting(context: ssl.SSLContext, pair: Pair) -> ssl.SSLContext:
    """Have a client's settings trust a server's certificate."""
    context.load_verify_locations(cadata=pair.certificate_pem.decode())
    return context
