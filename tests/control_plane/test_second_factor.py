"""Codes by time and for recovery: which are right, that each works once, and that their secret stays sealed."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyotp
import pytest
from sqlalchemy import delete, select

from control_plane.database import Database
from control_plane.errors import Conflict, Invalid, Unavailable
from control_plane.migrate import migrate
from control_plane.push.vault import Vault
from control_plane.sealing import MasterKeys
from control_plane.second_factor import RECOVERY_CODES, SecondFactors, matching_step, turn_off
from control_plane.tables import RecoveryCode, SecondFactor, User

NOW = datetime(2026, 1, 31, 12, 0, 10, tzinfo=UTC)
STEP = timedelta(seconds=30)
# RFC 6238, appendix B, with SHA-1: its 8 digits end with our 6.
VECTORS = {59: "287082", 1111111109: "081804", 1111111111: "050471", 1234567890: "005924", 2000000000: "279037"}


class World:
    """Somebody, and their second factor."""

    def __init__(self, database: Database, folder: Path) -> None:
        self.database = database
        self.keys = MasterKeys(folder / "master-keys")
        self.factors = SecondFactors(self.keys)
        self.user_id = ""

    async def make_user(self, email: str) -> str:
        async with self.database.write() as session:
            user = User(email=email)
            session.add(user)
        return user.id

    async def turn_on(self, now: datetime = NOW) -> tuple[pyotp.TOTP, list[str]]:
        """Turn it on; return the app, and the recovery codes."""
        async with self.database.write() as session:
            app = pyotp.TOTP(await self.factors.begin(session, self.user_id))
        async with self.database.write() as session:
            return app, await self.factors.confirm(session, self.user_id, app.at(now), now)

    async def check(self, code: str, now: datetime, user_id: str | None = None) -> str | None:
        async with self.database.write() as session:
            return await self.factors.check(session, user_id or self.user_id, code, now)


@pytest.fixture
async def world(database_url: str, tmp_path: Path) -> AsyncIterator[World]:
    database = Database(database_url)
    await migrate(database)
    async with database.write() as session:
        await session.execute(delete(User))
    world = World(database, tmp_path)
    world.user_id = await world.make_user("me@example.org")
    yield world
    await database.close()


@pytest.mark.parametrize("seconds", VECTORS)
def test_codes_are_those_of_the_rfc(seconds: int) -> None:
    key = base64.b32encode(b"12345678901234567890").decode()
    assert matching_step(key, VECTORS[seconds], datetime.fromtimestamp(seconds, UTC)) == seconds // 30


@pytest.mark.parametrize(("steps", "is_right"), [(-2, False), (-1, True), (0, True), (1, True), (2, False)])
async def test_clocks_may_differ_by_a_step(world: World, steps: int, is_right: bool) -> None:
    app, _ = await world.turn_on(NOW - 10 * STEP)
    assert (await world.check(app.at(NOW + steps * STEP), NOW) == "app") == is_right


async def test_a_code_works_once_and_none_before_it_any_more(world: World) -> None:
    app, _ = await world.turn_on()
    assert await world.check(app.at(NOW), NOW) is None, "it was used to turn it on"
    later = NOW + 3 * STEP
    assert await world.check(app.at(later), later) == "app"
    assert await world.check(app.at(later), later) is None
    assert await world.check(app.at(later - STEP), later) is None
    assert await world.check(app.at(later + STEP), later) == "app"


async def test_each_recovery_code_works_once_for_whom_it_is_for_and_new_ones_end_the_others(world: World) -> None:
    _, codes = await world.turn_on()
    assert len(set(codes)) == RECOVERY_CODES
    async with world.database.read() as session:
        kept = " ".join(await session.scalars(select(RecoveryCode.code_hash)))
    assert not [code for code in codes if code.replace("-", "") in kept]
    other = await world.make_user("other@example.org")
    assert await world.check(codes[0], NOW, other) is None
    assert await world.check(f" {codes[0].upper().replace('-', ' ')}", NOW) == "recovery"
    assert await world.check(codes[0], NOW) is None
    async with world.database.write() as session:
        fresh = await world.factors.renew_recovery_codes(session, world.user_id)
    assert await world.check(codes[1], NOW) is None
    assert await world.check(fresh[1], NOW) == "recovery"
    async with world.database.read() as session:
        assert await world.factors.recovery_codes_left(session, world.user_id) == RECOVERY_CODES - 1


@pytest.mark.parametrize("code", ["", "000000", "12345", "1234567", "x" * 1000, "\u0661" * 6, "\ud800", "a-b"])
async def test_whatever_else_is_typed_is_not_a_code(world: World, code: str) -> None:
    app, _ = await world.turn_on()
    assert code != app.at(NOW)
    assert await world.check(code, NOW) is None


async def test_it_is_off_until_a_code_of_the_app_was_given_and_after_it_is_turned_off(world: World) -> None:
    async with world.database.write() as session:
        app = pyotp.TOTP(await world.factors.begin(session, world.user_id))
        assert not await world.factors.is_on(session, world.user_id)
    assert await world.check(app.at(NOW), NOW) is None
    with pytest.raises(Invalid):
        async with world.database.write() as session:
            await world.factors.confirm(session, world.user_id, "000000", NOW)
    app, codes = await world.turn_on()
    for again in (world.factors.begin, world.factors.begun):
        with pytest.raises(Conflict):
            async with world.database.write() as session:
                await again(session, world.user_id)
    async with world.database.write() as session:
        assert await turn_off(session, world.user_id)
        assert not await turn_off(session, world.user_id)
    assert await world.check(codes[0], NOW) is None
    assert await world.check(app.at(NOW + STEP), NOW + STEP) is None


async def test_the_secret_is_sealed_for_its_user_and_sealed_anew_with_a_new_master_key(world: World) -> None:
    app, codes = await world.turn_on()
    async with world.database.read() as session:
        before = (await session.get_one(SecondFactor, world.user_id)).sealed
    assert app.secret.encode() not in before
    renewed, forgotten = await Vault(world.database, world.keys).rotate()
    assert (renewed, forgotten) == (1, 1), "nothing is left that needs the old key"
    async with world.database.read() as session:
        assert (await session.get_one(SecondFactor, world.user_id)).sealed != before
    assert await world.check(app.at(NOW + STEP), NOW + STEP) == "app"
    # Put into the row of somebody else, it opens nothing; recovery codes need no key.
    other = await world.make_user("thief@example.org")
    async with world.database.write() as session:
        row = await session.get_one(SecondFactor, world.user_id)
        session.add(SecondFactor(user_id=other, sealed=row.sealed, confirmed_at=NOW))
    later = NOW + 5 * STEP
    with pytest.raises(Unavailable):
        await world.check(app.at(later), later, other)
    assert await world.check(codes[0], NOW) == "recovery"
