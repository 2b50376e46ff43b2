"""Signed claims with which a provider shows a push service who it is: a JSON Web Signature in compact form (RFC 7515).

Signing is deterministic (RFC 6979 for ECDSA; RSA's PKCS #1 v1.5 is by itself): the same claims give the same bytes, so
processes that share a key and agree on the time of issue send one token, not many.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

# ES256 signatures are two numbers of this size, one behind the other (RFC 7518 section 3.4).
_P256_BYTES = 32


def sign_claims(
    key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey, header: Mapping[str, str], claims: Mapping[str, object]
) -> str:
    """Return a token.

    Args:
        key: on P-256 for ES256, or RSA for RS256.
        header: further members of the protected header, such as ``kid``.
        claims: what is said (RFC 7519).
    """
    algorithm = "ES256" if isinstance(key, ec.EllipticCurvePrivateKey) else "RS256"
    signed = f"{_encoded({'alg': algorithm, 'typ': 'JWT', **header})}.{_encoded(claims)}"
    return f"{signed}.{_base64(_signature(key, signed.encode()))}"


def _signature(key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey, signed: bytes) -> bytes:
    if isinstance(key, rsa.RSAPrivateKey):
        return key.sign(signed, padding.PKCS1v15(), hashes.SHA256())
    pair = decode_dss_signature(key.sign(signed, ec.ECDSA(hashes.SHA256(), deterministic_signing=True)))
    return b"".join(number.to_bytes(_P256_BYTES, "big") for number in pair)


def _encoded(members: Mapping[str, object]) -> str:
    return _base64(json.dumps(members, separators=(",", ":")).encode())


def _base64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
