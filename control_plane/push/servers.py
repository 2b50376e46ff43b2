"""Where push services are: at Apple's and Google's own addresses, or at one that stands in for them."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from pathlib import Path

from control_plane.push.http2 import client_context

PRODUCTION_HOST = "api.push.apple.com"
SANDBOX_HOST = "api.sandbox.push.apple.com"
MESSAGES_HOST = "fcm.googleapis.com"
TOKENS_HOST = "oauth2.googleapis.com"
PORT = 443


@dataclass(frozen=True, slots=True)
class Server:
    """Where requests go.

    Args:
        host, port: of the service.
        authority: the service's own name, which stays when another server stands in.
        context: of TLS; a certificate may be added to it.
    """

    host: str
    port: int
    authority: str
    context: ssl.SSLContext


@dataclass(frozen=True, slots=True)
class Servers:
    """Where services are, when they are not where everybody's are: a relay, or a server for tests.

    Args:
        apns: host and port that stand in for both of Apple's servers.
        fcm: host and port that stand in for Google's messages and for its access tokens.
        authorities: PEM file of those that are trusted there beside the system's.
    """

    apns: tuple[str, int] | None = None
    fcm: tuple[str, int] | None = None
    authorities: Path | None = None

    def apple(self, *, sandbox: bool) -> Server:
        """Return Apple's server, the development one or that of the App Store and TestFlight, or what stands in."""
        return self._server(self.apns, SANDBOX_HOST if sandbox else PRODUCTION_HOST)

    def google_messages(self) -> Server:
        """Return the server that takes messages."""
        return self._server(self.fcm, MESSAGES_HOST)

    def google_tokens(self) -> Server:
        """Return the server that gives access tokens."""
        return self._server(self.fcm, TOKENS_HOST)

    def _server(self, instead: tuple[str, int] | None, authority: str) -> Server:
        context = client_context()
        if instead is not None and self.authorities is not None:
            context.load_verify_locations(self.authorities)
        host, port = instead or (authority, PORT)
        return Server(host, port, authority, context)
