"""What a handler is given: who calls, in which organization, when, and the parts of the control plane it may use."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from aiohttp import web

from artifacts.store import ObjectStore
from control_plane.accounts import Caller, LastUses, Role
from control_plane.actor import BROWSER, Actor
from control_plane.client_address import client_of
from control_plane.database import Database
from control_plane.device_counts import DeviceCounts
from control_plane.errors import Invalid
from control_plane.mail import Mailer
from control_plane.openid import OpenIdProvider
from control_plane.passwords import Passwords
from control_plane.publish import Publisher
from control_plane.push.effect import PushEffects
from control_plane.push.vault import Vault
from control_plane.second_factor import SecondFactors
from control_plane.settings import Settings
from control_plane.tables import Organization
from control_plane.uploads import Uploads
from control_plane.warehouse import WarehouseGate
from manifests.edge_reports import EdgeReports


@dataclass(frozen=True, slots=True)
class Services:
    """The parts of the control plane that handlers use."""

    settings: Settings
    database: Database
    objects: ObjectStore
    uploads: Uploads
    publisher: Publisher
    warehouse: WarehouseGate
    last_uses: LastUses
    vault: Vault
    push_effects: PushEffects
    passwords: Passwords
    edges: EdgeReports
    device_counts: DeviceCounts
    mailer: Mailer
    second_factors: SecondFactors
    openid: OpenIdProvider | None


@dataclass(frozen=True, slots=True)
class Membership:
    """An organization and the caller's role in it."""

    organization: Organization
    role: Role


@dataclass(frozen=True, slots=True)
class Call:
    """One request that was found to be allowed.

    Args:
        request: as it came; handlers read its path's parameters, and streams its body.
        services: what the handler may use.
        now: the one moment at which the request happens.
        who: the caller; None on public routes.
        member_of: the organization in the path; None on routes without one.
    """

    request: web.Request
    services: Services
    now: datetime
    who: Caller | None
    member_of: Membership | None

    @property
    def caller(self) -> Caller:
        """The caller, on routes that need a token."""
        assert self.who is not None, "public routes have no caller"
        return self.who

    @property
    def actor(self) -> Actor:
        """The caller as the audit log names them."""
        via = BROWSER if self.caller.session_id is not None else f"token {self.caller.token_name}"
        return Actor(self.caller.user_id, self.caller.email, self.client or None, via)

    @property
    def organization(self) -> Organization:
        """The organization in the path."""
        assert self.member_of is not None, "the route has no organization in its path"
        return self.member_of.organization

    @property
    def role(self) -> Role:
        """The caller's role in the organization in the path."""
        assert self.member_of is not None, "the route has no organization in its path"
        return self.member_of.role

    @property
    def database(self) -> Database:
        """The database."""
        return self.services.database

    @property
    def address(self) -> str:
        """The control plane's address for people, as its setting says or as this request came.

        Raises:
            Invalid: there is no setting, and the request came to no host (RFC 9112, section 3.2).
        """
        public = self.services.settings.control_public_url
        try:
            return (public or str(self.request.url.origin())).rstrip("/")
        except ValueError:
            raise Invalid("The request's Host header names no host.", "bad_host") from None

    @property
    def client(self) -> str:
        """The address that the request comes from. Only the audit log keeps it as it is."""
        return client_of(self.request, self.services.settings.control_trusted_proxies)

    def part(self, name: str) -> str:
        """Return a parameter of the path, decoded."""
        return self.request.match_info[name]
