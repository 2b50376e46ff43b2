"""Signing in at another provider: OpenID Connect Core 1.0 by the authorization code flow, with PKCE (RFC 7636).

Nothing is stored between leaving for the provider and coming back. What both moments share is made from the browser's
cookie, 256 random bits that no other site reads, and from random bits in `state`, which is encrypted for that cookie.
So an answer is of use in the browser that asked for it, for ten minutes, and the provider does not hear where to go on.

What the provider says is believed as far as its signature goes: of the algorithms with a public key, never `none` and
never one with a shared secret (RFC 8725, section 3.1).
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import math
import secrets
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from ipaddress import ip_address
from typing import Any, Final, TypeGuard
from urllib.parse import quote_plus, urlencode, urlsplit

import httpx
import orjson
import structlog
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from joserfc import jwt
from joserfc.errors import InvalidKeyIdError, JoseError
from joserfc.jwk import Key, KeySet, import_key

from control_plane.errors import Forbidden, Invalid, Unavailable
from control_plane.names import check_email

# To sign in there, with a second factor perhaps.
ATTEMPT_LASTS: Final = timedelta(minutes=10)
# Clocks of servers differ by less.
LEEWAY: Final = timedelta(minutes=1)
TIMEOUT_SECONDS: Final = 10.0
# What a provider says of itself, its keys or a person is a few kilobytes.
MAX_ANSWER_BYTES: Final = 1024 * 1024
# Keys and addresses of a provider change rarely; a key that is not known is looked for at once, though not each time.
KNOWN_FOR: Final = timedelta(hours=1)
LOOK_AGAIN_AFTER: Final = timedelta(minutes=1)
# OpenID Connect Core, section 2: a subject has at most 255 ASCII characters.
SUBJECT_LENGTH: Final = 255
OPENID_CALLBACK: Final = "/sign-in/openid/callback"
ALGORITHMS: Final = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA")
KEY_TYPES: Final = ("RSA", "EC", "OKP")

_RANDOM_BYTES: Final = 16
_NONCE_BYTES: Final = 12
_TIME_BYTES: Final = 8

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class ProviderSettings:
    """Where people sign in.

    Args:
        issuer: its address, as it calls itself.
        client_id: what it calls us.
        client_secret: how it knows us.
        name: what people call it.
        redirect_uri: where it sends them back to; it has to know that.
    """

    issuer: str
    client_id: str
    client_secret: str = field(repr=False)
    name: str
    redirect_uri: str


def check_issuer(text: str) -> str:
    """Return the address of a provider.

    Raises:
        ValueError: it is none, or neither https nor on this machine.
    """
    parts = urlsplit(text)
    if not parts.hostname or parts.query or parts.fragment or parts.username is not None:
        raise ValueError("is not the address of a provider")
    if parts.scheme != "https" and not (parts.scheme == "http" and _is_this_machine(parts.hostname)):
        raise ValueError("must begin with https://")
    return text


def _is_this_machine(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


@dataclass(frozen=True, slots=True)
class Person:
    """Who signed in there, as the provider vouches for.

    Args:
        issuer: the provider.
        subject: what it calls them, for ever.
        email: of theirs, which it has verified.
    """

    issuer: str
    subject: str
    email: str


@dataclass(frozen=True, slots=True)
class Attempt:
    """One way there and back.

    Args:
        state: what the provider gives back.
        nonce: what its token has to hold.
        verifier: what only we know when the code is redeemed.
        following: where to go on.
    """

    state: str
    nonce: str
    verifier: str
    following: str

    @property
    def challenge(self) -> str:
        """What the provider is told of the verifier (RFC 7636, S256)."""
        return _base64(hashlib.sha256(self.verifier.encode()).digest())


def begin_attempt(cookie: str, following: str, now: datetime) -> Attempt:
    """Return an attempt for the browser with this cookie."""
    random, nonce = secrets.token_bytes(_RANDOM_BYTES), secrets.token_bytes(_NONCE_BYTES)
    inside = random + int(now.timestamp()).to_bytes(_TIME_BYTES) + following.encode()
    state = _base64(nonce + AESGCM(_derive(cookie, b"state")).encrypt(nonce, inside, None))
    return _attempt(cookie, state, random, following)


def read_attempt(cookie: str, state: str, now: datetime) -> Attempt:
    """Return the attempt that a provider's answer is for.

    Raises:
        Invalid: it is not of this browser, or too old.
    """
    try:
        sealed = base64.urlsafe_b64decode(state + "=" * (-len(state) % 4))
        nonce, rest = sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:]
        inside = AESGCM(_derive(cookie, b"state")).decrypt(nonce, rest, None)
    except (InvalidTag, ValueError):
        raise Invalid("This answer is for another browser. Sign in again.", "foreign_state") from None
    random, began = inside[:_RANDOM_BYTES], inside[_RANDOM_BYTES : _RANDOM_BYTES + _TIME_BYTES]
    if now.timestamp() - int.from_bytes(began) > ATTEMPT_LASTS.total_seconds():
        raise Invalid("That took too long. Sign in again.", "late_state")
    return _attempt(cookie, state, random, inside[_RANDOM_BYTES + _TIME_BYTES :].decode())


def _attempt(cookie: str, state: str, random: bytes, following: str) -> Attempt:
    nonce, verifier = (_base64(_derive(cookie, use + random)) for use in (b"nonce", b"verifier"))
    return Attempt(state, nonce, verifier, following)


def _derive(cookie: str, use: bytes) -> bytes:
    return hmac.digest(cookie.encode(), b"openid " + use, hashlib.sha256)


def _base64(content: bytes) -> str:
    return base64.urlsafe_b64encode(content).rstrip(b"=").decode()


@dataclass(slots=True)
class _Known:
    """What was fetched, and when."""

    content: Any
    at: datetime


class OpenIdProvider:
    """Asks a provider who somebody is.

    Args:
        settings: where, and who we are there.
    """

    def __init__(self, settings: ProviderSettings) -> None:
        self.settings = settings
        self._http = httpx.AsyncClient(timeout=TIMEOUT_SECONDS, follow_redirects=False)
        self._about: _Known | None = None
        self._keys: _Known | None = None

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def address(self, attempt: Attempt, now: datetime) -> str:
        """Return where somebody signs in.

        Raises:
            Unavailable: the provider does not answer, or not as one.
        """
        about = await self._discover(now)
        asked = {
            "response_type": "code",
            "client_id": self.settings.client_id,
            "redirect_uri": self.settings.redirect_uri,
            "scope": "openid email",
            "state": attempt.state,
            "nonce": attempt.nonce,
            "code_challenge": attempt.challenge,
            "code_challenge_method": "S256",
        }
        endpoint = self._endpoint(about, "authorization_endpoint")
        return f"{endpoint}{'&' if urlsplit(endpoint).query else '?'}{urlencode(asked)}"

    async def person(self, answer: Mapping[str, str], attempt: Attempt, now: datetime) -> Person:
        """Return who has signed in, by the answer that the browser brings.

        Raises:
            Forbidden: the provider did not let them in, or has not verified their address.
            Invalid: the answer, or a token, is not what it should be.
            Unavailable: the provider does not answer, or not as one.
        """
        about = await self._discover(now)
        told = answer.get("iss")
        if told is None and about.get("authorization_response_iss_parameter_supported") is True:
            raise _untrue("the answer names no issuer")
        if told is not None and told != self.settings.issuer:  # RFC 9207: it would be another provider's code
            raise _untrue("the answer is another issuer's")
        if "error" in answer or not answer.get("code"):
            raise Forbidden(f"{self.settings.name} did not let you in.", "refused_there")
        tokens = await self._redeem(about, answer["code"], attempt)
        claims = await self._claims(about, tokens.get("id_token"), now)
        self._check(claims, attempt, now)
        if "email" not in claims:
            claims = {**claims, **await self._ask_further(about, tokens.get("access_token"), claims["sub"])}
        return self._person(claims)

    def _person(self, claims: Mapping[str, Any]) -> Person:
        try:
            email = check_email(str(claims.get("email", "")))
        except ValueError:
            raise Forbidden(f"{self.settings.name} tells no e-mail address of yours.", "no_address") from None
        # Some providers say it in words. Whatever else they say, the address may be anybody's.
        verified = claims.get("email_verified")
        if verified is not True and verified != "true":
            sentence = f"{self.settings.name} has not verified your e-mail address, so it may be somebody else's."
            raise Forbidden(sentence, "unverified_address")
        return Person(self.settings.issuer, claims["sub"], email)

    def _check(self, claims: Mapping[str, Any], attempt: Attempt, now: datetime) -> None:
        """Check a token that is signed (OpenID Connect Core, section 3.1.3.7).

        Raises:
            Invalid: it is not for us, not for this attempt, or not of now.
        """
        audience = claims.get("aud")
        audiences = [audience] if isinstance(audience, str) else audience
        if claims.get("iss") != self.settings.issuer:
            raise _untrue("the token is another issuer's")
        if not isinstance(audiences, list) or self.settings.client_id not in audiences:
            raise _untrue("the token is for somebody else")
        if claims.get("azp", self.settings.client_id) != self.settings.client_id or (
            len(audiences) > 1 and "azp" not in claims
        ):
            raise _untrue("the token was made for somebody else")
        expires, issued = claims.get("exp"), claims.get("iat")
        if not _is_moment(expires) or now.timestamp() > expires + LEEWAY.total_seconds():
            raise _untrue("the token has expired")
        if not _is_moment(issued) or issued > now.timestamp() + LEEWAY.total_seconds():
            raise _untrue("the token is of a time to come")
        nonce = claims.get("nonce")
        if not isinstance(nonce, str) or not hmac.compare_digest(nonce.encode(), attempt.nonce.encode()):
            raise _untrue("the token is of another attempt")
        subject = claims.get("sub")
        if not isinstance(subject, str) or not 1 <= len(subject) <= SUBJECT_LENGTH or not subject.isprintable():
            raise _untrue("the token names nobody")

    async def _claims(self, about: Mapping[str, Any], token: object, now: datetime) -> dict[str, Any]:
        """Return what a token says, once its signature is found to be the provider's."""
        if not isinstance(token, str):
            raise _untrue("there is no token")
        fresh = False
        while True:
            keys = await self._fetch_keys(about, now, fresh=fresh)
            try:
                return dict(jwt.decode(token, keys, algorithms=list(ALGORITHMS)).claims)
            except InvalidKeyIdError:
                if fresh or (self._keys is not None and now - self._keys.at < LOOK_AGAIN_AFTER):
                    raise _untrue("the token is signed with a key that is not known") from None
                fresh = True  # the provider may have a new one
            except (JoseError, ValueError, TypeError):
                raise _untrue("the token's signature does not hold") from None

    async def _redeem(self, about: Mapping[str, Any], code: str, attempt: Attempt) -> dict[str, Any]:
        form = {
            "grant_type": "authorization_code",
            "code": code,
            "redirect_uri": self.settings.redirect_uri,
            "code_verifier": attempt.verifier,
        }
        basic: httpx.BasicAuth | None = None
        methods = about.get("token_endpoint_auth_methods_supported", ["client_secret_basic"])
        if isinstance(methods, list) and "client_secret_basic" in methods:
            # RFC 6749, section 2.3.1: both are form-encoded before they are put together.
            basic = httpx.BasicAuth(quote_plus(self.settings.client_id), quote_plus(self.settings.client_secret))
        else:
            form |= {"client_id": self.settings.client_id, "client_secret": self.settings.client_secret}
        request = self._http.build_request("POST", self._endpoint(about, "token_endpoint"), data=form)
        return await self._answer(request, basic)

    async def _ask_further(self, about: Mapping[str, Any], token: object, subject: str) -> dict[str, Any]:
        """Return what the provider says of a person beside the token (section 5.3): their address, with most."""
        if not isinstance(token, str) or "userinfo_endpoint" not in about:
            return {}
        headers = {"Authorization": f"Bearer {token}"}
        request = self._http.build_request("GET", self._endpoint(about, "userinfo_endpoint"), headers=headers)
        told = await self._answer(request)
        if told.get("sub") != subject:
            raise _untrue("it tells of another person")
        return {name: told[name] for name in ("email", "email_verified") if name in told}

    async def _discover(self, now: datetime) -> dict[str, Any]:
        if self._about is None or now - self._about.at > KNOWN_FOR:
            address = f"{self.settings.issuer.rstrip('/')}/.well-known/openid-configuration"
            about = await self._answer(self._http.build_request("GET", address))
            if about.get("issuer") != self.settings.issuer:
                raise self._unavailable("another issuer")
            self._about = _Known(about, now)
        found: dict[str, Any] = self._about.content
        return found

    async def _fetch_keys(self, about: Mapping[str, Any], now: datetime, *, fresh: bool) -> KeySet:
        if fresh or self._keys is None or now - self._keys.at > KNOWN_FOR:
            told = await self._answer(self._http.build_request("GET", self._endpoint(about, "jwks_uri")))
            keys = _read_keys(told)
            if not keys:
                raise self._unavailable("its keys")
            self._keys = _Known(KeySet(keys), now)
        found: KeySet = self._keys.content
        return found

    def _endpoint(self, about: Mapping[str, Any], name: str) -> str:
        """Return an address of the provider: encrypted, as its own is."""
        try:
            return check_issuer(str(about.get(name, "")).partition("?")[0]) and str(about[name])
        except ValueError:
            raise self._unavailable(name) from None

    async def _answer(self, request: httpx.Request, auth: httpx.BasicAuth | None = None) -> dict[str, Any]:
        """Return the JSON object that the provider answers with."""
        try:
            response = await self._http.send(request, auth=auth or httpx.USE_CLIENT_DEFAULT, stream=True)
            try:
                content = b""
                async for part in response.aiter_bytes():
                    content += part
                    if len(content) > MAX_ANSWER_BYTES:
                        raise self._unavailable("too much")
            finally:
                await response.aclose()
        except httpx.HTTPError as error:
            raise self._unavailable(type(error).__name__) from None
        if response.status_code in (400, 401) and request.method == "POST":
            # A code that was used, or is of another attempt; or the secret is wrong, which the log tells.
            raise _untrue(f"the code is refused with {response.status_code}")
        try:
            answer = orjson.loads(content)
        except ValueError:
            answer = None
        if response.status_code != 200 or not isinstance(answer, dict):
            raise self._unavailable(f"status {response.status_code}")
        return answer

    def _unavailable(self, what: str) -> Unavailable:
        _log.warning("openid_unavailable", what=what)
        return Unavailable(f"{self.settings.name} cannot be asked at the moment. Try again later.", "openid")


def _read_keys(told: Mapping[str, Any]) -> list[Key]:
    """Return the public keys that we can use; a provider may publish others beside them (RFC 7517, section 5)."""
    keys = []
    for shown in told["keys"] if isinstance(told.get("keys"), list) else ():
        with suppress(JoseError, ValueError, TypeError, KeyError):
            if shown["kty"] in KEY_TYPES and shown.get("use", "sig") == "sig":
                keys.append(import_key(shown))
    return keys


def _untrue(what: str) -> Invalid:
    """Return the error for an answer that is not believed; why is for the log, and not for who may have forged it."""
    _log.warning("openid_refused", what=what)
    return Invalid("The answer of the other side is not what it should be. Sign in again.", "untrue_answer")


def _is_moment(value: object) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
