"""Handlers of the management API called in a world, without a server: for what must happen between two queries."""

from __future__ import annotations

from typing import cast

from aiohttp.test_utils import make_mocked_request

from control_plane.accounts import Caller, LastUses, Role
from control_plane.api.call import Call, Membership, Services
from control_plane.device_counts import DeviceCounts
from control_plane.mail import Mailer
from control_plane.passwords import Passwords
from control_plane.push.effect import PushEffects
from control_plane.push.vault import Vault
from control_plane.second_factor import SecondFactors
from control_plane.settings import Settings
from control_plane.tables import utc_now
from control_plane.warehouse import WarehouseGate
from manifests.edge_reports import EdgeReports
from tests.control_plane.world import World


def call_in(world: World, **parts: str) -> Call:
    """Return a call by the world's actor, with these parts in its path; ClickHouse is not there."""
    services = Services(
        settings=Settings(),
        database=world.database,
        objects=world.objects,
        uploads=world.uploads,
        publisher=world.publisher,
        warehouse=cast("WarehouseGate", None),
        last_uses=cast("LastUses", None),
        vault=cast("Vault", None),
        push_effects=cast("PushEffects", None),
        passwords=Passwords(),
        edges=cast("EdgeReports", None),
        device_counts=DeviceCounts(),
        mailer=Mailer(),
        second_factors=cast("SecondFactors", None),
        openid=None,
    )
    request = make_mocked_request("GET", "/", match_info=parts)
    caller = Caller(world.actor.user_id or "", world.actor.email, "token", "test")
    return Call(request, services, utc_now(), caller, Membership(world.organization, Role.OWNER))
