"""Push servers with real HTTP/2 and TLS, and channels to them."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import pytest_asyncio
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from control_plane.push.apns import ApnsChannel
from control_plane.push.channel import Notification
from control_plane.push.credentials import AppleCertificate, AppleKey, GoogleAccount
from control_plane.push.fcm import FcmChannel
from control_plane.push.http2 import client_context
from control_plane.push.servers import MESSAGES_HOST, PRODUCTION_HOST, TOKENS_HOST, Server
from tests.control_plane.push.certificates import (
    ACCOUNT_KEY_ID,
    BUNDLE_ID,
    EMAIL,
    PROJECT,
    Pair,
    make_pair,
    server_context,
    trusting,
)
from tests.servers.apns import ApnsServer, SigningKey
from tests.servers.fcm import Account, FcmServer
from tests.servers.http2 import running

KEY_ID, TEAM_ID = "ABCDE12345", "TEAM567890"


@dataclass(frozen=True)
class Apple:
    """The server with what it knows, and what it is shown."""

    server: ApnsServer
    certificate: Pair
    key: AppleKey

    def at(self) -> Server:
        """Return where it is; a new TLS context each time."""
        context = trusting(client_context(), self.certificate)
        return Server("127.0.0.1", self.server.port, PRODUCTION_HOST, context)

    def channel(self, credential: AppleKey | AppleCertificate | None = None, **more: Any) -> ApnsChannel:
        """Return a channel to it; close it when done."""
        return ApnsChannel(credential or self.key, BUNDLE_ID, self.at(), **more)


@dataclass(frozen=True)
class Google:
    """The server with what it knows, and what it is shown."""

    server: FcmServer
    context: ssl.SSLContext
    account: GoogleAccount

    def at(self, authority: str) -> Server:
        """Return where one of its services is."""
        return Server("127.0.0.1", self.server.port, authority, self.context)

    def channel(self, account: GoogleAccount | None = None, **more: Any) -> FcmChannel:
        """Return a channel to it; close it when done."""
        return FcmChannel(account or self.account, self.at(MESSAGES_HOST), self.at(TOKENS_HOST), **more)


@pytest.fixture(scope="session")
def rsa_key() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(65537, 2048)


@pytest.fixture(scope="session")
def trust(server_pair: Pair) -> ssl.SSLContext:
    """A client's settings, which take a while to make."""
    return trusting(client_context(), server_pair)


@pytest_asyncio.fixture
async def google(server_pair: Pair, trust: ssl.SSLContext, rsa_key: rsa.RSAPrivateKey) -> AsyncIterator[Google]:
    server = FcmServer(Account(PROJECT, EMAIL, ACCOUNT_KEY_ID, rsa_key.public_key()))
    async with running(server, server_context(server_pair)):
        yield Google(server, trust, GoogleAccount(rsa_key, ACCOUNT_KEY_ID, EMAIL, PROJECT))


@pytest.fixture(scope="session")
def server_pair() -> Pair:
    return make_pair(topic=None, servers=(), address="127.0.0.1")


@pytest.fixture(scope="session")
def authority() -> Pair:
    """Who issues the certificates of apps."""
    return make_pair(topic=None, servers=(), issues=True)


@pytest_asyncio.fixture
async def apple(server_pair: Pair, authority: Pair) -> AsyncIterator[Apple]:
    key = ec.generate_private_key(ec.SECP256R1())
    server = ApnsServer(frozenset([BUNDLE_ID]), {KEY_ID: SigningKey(TEAM_ID, key.public_key())})
    async with running(server, server_context(server_pair, clients=authority)):
        yield Apple(server, server_pair, AppleKey(key, KEY_ID, TEAM_ID))


@pytest.fixture
def notification() -> Notification:
    return Notification("faces", 3, datetime.now(UTC) + timedelta(hours=1))


@pytest.fixture
def token() -> Callable[[int], str]:
    """Give a function that makes device tokens."""
    return lambda number: f"{number:064x}"
