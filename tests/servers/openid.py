"""A real provider of OpenID Connect on loopback: it lets in whom it is told, checks codes, secrets and PKCE, and signs
with a key of its own; and lies where a test wants it to.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
import secrets
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote_plus, urlencode

from aiohttp import web
from joserfc import jwt
from joserfc.jwk import KeySet, RSAKey

PATIENCE_SECONDS = 60.0
CLIENT_ID, CLIENT_SECRET = "skafos:test", "a secret/with+signs"


@dataclass
class Provider:
    """What the provider does next.

    Args:
        claims: of whoever comes next, over those of an honest token; None takes one out.
        userinfo: what it says of them beside the token.
        algorithm: that tokens are signed with; "none" for no signature.
        stranger: whether they are signed with a key that it does not publish, under the name of one that it does.
        answer: over what it sends back to the browser.
        about: over what it says of itself.
        keys: over those that it publishes.
        asked: what browsers came with, the newest last.
        keys_told: how often it was asked for its keys.
    """

    issuer: str = ""
    claims: dict[str, Any] = field(default_factory=dict)
    userinfo: dict[str, Any] = field(default_factory=dict)
    algorithm: str = "RS256"
    stranger: bool = False
    answer: dict[str, str] = field(default_factory=dict)
    about: dict[str, Any] = field(default_factory=dict)
    keys: dict[str, Any] = field(default_factory=dict)
    asked: list[Mapping[str, str]] = field(default_factory=list)
    keys_told: int = 0
    key: RSAKey = field(default_factory=lambda: RSAKey.generate_key(2048, {"kid": "first", "use": "sig"}))
    _codes: dict[str, Mapping[str, str]] = field(default_factory=dict)

    def be_honest(self) -> None:
        """Tell the truth from now on."""
        self.claims, self.userinfo, self.answer, self.about, self.keys = {}, {}, {}, {}, {}
        self.algorithm, self.stranger = "RS256", False

    def renew_key(self) -> None:
        """Sign with another key, as providers do now and then."""
        self.key = RSAKey.generate_key(2048, {"kid": secrets.token_hex(4), "use": "sig"})

    async def tell_about(self, _request: web.Request) -> web.Response:
        endpoints = {"authorization": "authorize", "token": "token", "userinfo": "userinfo"}
        about = {f"{name}_endpoint": f"{self.issuer}/{path}" for name, path in endpoints.items()}
        return web.json_response(about | {"issuer": self.issuer, "jwks_uri": f"{self.issuer}/keys"} | self.about)

    async def tell_too_much(self, _request: web.Request) -> web.Response:
        return web.json_response({"issuer": f"{self.issuer}/large", "more": "x" * 2_000_000})

    async def tell_keys(self, _request: web.Request) -> web.Response:
        self.keys_told += 1
        return web.json_response(KeySet([self.key]).as_dict(private=False) | self.keys)

    async def authorize(self, request: web.Request) -> web.Response:
        """Let whoever comes in at once."""
        asked = dict(request.query)
        self.asked.append(asked)
        assert (asked["client_id"], asked["response_type"]) == (CLIENT_ID, "code")
        assert asked["code_challenge_method"] == "S256"
        code = secrets.token_urlsafe(16)
        self._codes[code] = asked
        answer = {"code": code, "state": asked["state"]} | self.answer
        raise web.HTTPSeeOther(f"{asked['redirect_uri']}?{urlencode(answer)}")

    async def redeem(self, request: web.Request) -> web.Response:
        """Give a token for a code, once, to who asked for it."""
        form = await request.post()
        if "client_id" in form:
            login = [form["client_id"], form["client_secret"]]
        else:
            header = request.headers["Authorization"].removeprefix("Basic ")
            login = [unquote_plus(part) for part in base64.b64decode(header).decode().split(":")]
        asked = self._codes.pop(str(form["code"]), None)
        challenge = _base64(hashlib.sha256(str(form["code_verifier"]).encode()).digest())
        if (
            login != [CLIENT_ID, CLIENT_SECRET]
            or asked is None
            or challenge != asked["code_challenge"]
            or form["redirect_uri"] != asked["redirect_uri"]
        ):
            return web.json_response({"error": "invalid_grant"}, status=400)
        return web.json_response({"access_token": "access", "token_type": "Bearer", "id_token": self._token(asked)})

    async def tell_more(self, request: web.Request) -> web.Response:
        assert request.headers["Authorization"] == "Bearer access"
        return web.json_response(self.userinfo)

    def _token(self, asked: Mapping[str, str]) -> str:
        now = int(time.time())
        honest = {"iss": self.issuer, "aud": CLIENT_ID, "exp": now + 300, "iat": now, "nonce": asked["nonce"]}
        claims = {key: value for key, value in (honest | self.claims).items() if value is not None}
        header = {"alg": self.algorithm, "kid": self.key.kid}
        if self.algorithm in ("none", "HS256"):
            text = ".".join(_base64(json.dumps(part).encode()) for part in (header, claims))
            # The public key as a shared secret, which everybody has (RFC 8725, section 2.1).
            shared = hmac.digest(self.key.as_pem(private=False), text.encode(), hashlib.sha256)
            return f"{text}.{'' if self.algorithm == 'none' else _base64(shared)}"
        key = RSAKey.generate_key(2048, {"kid": str(self.key.kid)}) if self.stranger else self.key
        return jwt.encode(header, claims, key, algorithms=[self.algorithm])


def _base64(content: bytes) -> str:
    return base64.urlsafe_b64encode(content).rstrip(b"=").decode()


@contextmanager
def openid_provider() -> Iterator[Provider]:
    """Run a provider while the block lasts."""
    provider = Provider()
    app = web.Application()
    app.router.add_get("/.well-known/openid-configuration", provider.tell_about)
    app.router.add_get("/large/.well-known/openid-configuration", provider.tell_too_much)
    app.router.add_get("/keys", provider.tell_keys)
    app.router.add_get("/authorize", provider.authorize)
    app.router.add_post("/token", provider.redeem)
    app.router.add_get("/userinfo", provider.tell_more)
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="openid")
    thread.start()

    async def start() -> web.AppRunner:
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        provider.issuer = f"http://127.0.0.1:{runner.addresses[0][1]}"
        return runner

    runner = asyncio.run_coroutine_threadsafe(start(), loop).result(PATIENCE_SECONDS)
    try:
        yield provider
    finally:
        asyncio.run_coroutine_threadsafe(runner.cleanup(), loop).result(PATIENCE_SECONDS)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(PATIENCE_SECONDS)
        loop.close()
