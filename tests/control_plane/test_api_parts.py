"""The parts below the API: names, cursors, transactions, tokens and background tasks."""

from __future__ import annotations

import asyncio
import unicodedata
from collections.abc import AsyncIterator
from contextlib import nullcontext
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import select
from sqlalchemy.exc import DBAPIError, IntegrityError

from artifacts.archive import archive_upload
from control_plane import accounts, names, supervise
from control_plane.accounts import LastUses, Role, authenticate, make_token
from control_plane.api.paging import Keyset, Paging, decode_cursor, encode_cursor, fetch_page
from control_plane.database import Database
from control_plane.errors import Invalid, Unauthorized
from control_plane.metrics import TASK_RESTARTS
from control_plane.migrate import migrate
from control_plane.supervise import Supervisor
from control_plane.tables import ApiToken, Application, AuditEntry, Organization, User, new_id

NOW = datetime(2026, 1, 31, 12, 0, tzinfo=UTC)


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    """A migrated database of each kind, shared with the other tests of this module."""
    database = Database(database_url)
    await migrate(database)
    yield database
    await database.close()


# --- Names -----------------------------------------------------------------------------------------------------------


@given(st.text(max_size=120))
@settings(max_examples=300)
def test_a_name_is_refused_or_comes_out_normal_bounded_and_clean(text: str) -> None:
    try:
        name = names.check_name(text)
    except ValueError:
        return
    assert name == unicodedata.normalize("NFC", text)
    assert names.check_name(name) == name, "a name is a name"
    assert 1 <= len(name) <= 100
    assert name == name.strip()
    assert "/" not in name
    assert not names.has_control_characters(name)
    assert not names.is_id(name)


@pytest.mark.parametrize("name", ["m", "Zoë", "a b", "画像分類", "🧠", "v1.0", "a" * 100, "...", "x?y=1#z", "0" * 31])
def test_what_people_call_things_can_be_a_name(name: str) -> None:
    assert names.check_name(name) == unicodedata.normalize("NFC", name)


def test_an_id_is_never_a_name_and_a_name_never_an_id() -> None:
    for _ in range(100):
        with pytest.raises(ValueError, match="ids look like"):
            names.check_name(new_id())


@given(st.text(st.characters(), max_size=255) | st.text("aC:é\u0301漢 .~", max_size=255))
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_file_name_that_is_taken_is_never_refused_when_the_bytes_are_there(tmp_path: Path, text: str) -> None:
    try:
        filename = names.check_filename(text)
    except ValueError:
        return
    (tmp_path / "upload").write_bytes(b"bytes")
    if not filename.lower().endswith(".zip"):
        assert len(archive_upload(tmp_path / "upload", filename, tmp_path / "archive").files) == 1


# --- Cursors ---------------------------------------------------------------------------------------------------------

BY_NAME = Keyset((Organization.name,))
BY_TIME = Keyset((ApiToken.created_at, ApiToken.id), descending=True)
BY_NUMBER = Keyset((AuditEntry.id,))


@given(st.text(max_size=100).filter(lambda text: not names.has_control_characters(text)))
@settings(max_examples=100)
def test_a_cursor_of_a_name_comes_back_as_it_was(name: str) -> None:
    assert decode_cursor(encode_cursor([name]), BY_NAME) == [name]


@given(st.datetimes(timezones=st.just(UTC)), st.uuids(version=4))
@settings(max_examples=100)
def test_a_cursor_of_a_moment_comes_back_as_it_was(moment: datetime, row_id: object) -> None:
    key = [moment, str(row_id)]
    assert decode_cursor(encode_cursor(key), BY_TIME) == key


@given(st.text(max_size=200))
@settings(max_examples=200)
def test_whatever_is_sent_as_a_cursor_is_refused_or_of_the_right_type(text: str) -> None:
    for keyset, kinds in ((BY_NAME, [str]), (BY_TIME, [datetime, str]), (BY_NUMBER, [int])):
        try:
            values = decode_cursor(text, keyset)
        except Invalid:
            continue
        assert [type(value) for value in values] == kinds


@pytest.mark.parametrize(
    ("values", "keyset"),
    [
        ([2**63], BY_NUMBER),
        ([True], BY_NUMBER),
        ([1.0], BY_NUMBER),
        (["a\0"], BY_NAME),
        ([None], BY_NAME),
        (["2026-01-31T12:00:00", "x"], BY_TIME),  # without a time zone
        (["soon", "x"], BY_TIME),
        (["0001-01-01T00:00:00+14:00", "x"], BY_TIME),
        ([7, "x"], BY_TIME),
        ([NOW], BY_TIME),
        ([NOW, "x", "y"], BY_TIME),
    ],
)
def test_a_cursor_with_what_the_column_cannot_be_is_refused(values: list[object], keyset: Keyset) -> None:
    with pytest.raises(Invalid, match="cursor"):
        decode_cursor(encode_cursor(values), keyset)


async def test_pages_go_on_where_they_ended_although_rows_come_and_go(database: Database) -> None:
    parent = Organization(name=f"pages {new_id()[:8]}")
    async with database.write() as session:
        session.add(parent)
        await session.flush()
        for number in range(10):
            session.add(_application(parent.id, f"app {number}"))
    seen: list[str] = []
    cursor = None
    for turn in range(20):
        query = select(Application).where(Application.organization_id == parent.id)
        async with database.read() as session:
            page = await fetch_page(session, query, Keyset((Application.name,)), Paging(limit=3, cursor=cursor))
        seen += [row[0].name for row in page.items]
        cursor = page.next_cursor
        if cursor is None:
            break
        async with database.write() as session:  # before and behind the cursor
            session.add(_application(parent.id, f"app 0{turn}"))
            session.add(_application(parent.id, f"app 9{turn}"))
    assert [name for name in seen if len(name) == 5] == [f"app {number}" for number in range(10)]
    assert len(set(seen)) == len(seen)


def _application(organization_id: str, name: str) -> Application:
    return Application(organization_id=organization_id, name=name, bundle_id=name.replace(" ", "."), platform="ios")


# --- Transactions ----------------------------------------------------------------------------------------------------


async def test_what_a_block_wrote_is_gone_when_it_raises(database: Database) -> None:
    name = f"never {new_id()[:8]}"

    async def fail() -> None:
        async with database.write() as session:
            session.add(Organization(name=name))
            await session.flush()
            raise RuntimeError

    with pytest.raises(RuntimeError):
        await fail()
    async with database.read() as session:
        assert await session.scalar(select(Organization).where(Organization.name == name)) is None


async def test_what_is_changed_while_reading_is_never_kept(database: Database) -> None:
    name = f"never {new_id()[:8]}"
    # PostgreSQL refuses it, SQLite forgets it.
    refused = nullcontext() if database.is_sqlite else pytest.raises(DBAPIError, match="read-only transaction")
    with refused:
        async with database.read() as session:
            session.add(Organization(name=name))
            await session.flush()
    async with database.read() as session:
        assert await session.scalar(select(Organization).where(Organization.name == name)) is None


async def test_writers_at_once_all_get_their_turn_and_see_each_other(database: Database) -> None:
    organization = Organization(name=f"counter {new_id()[:8]}-0")
    async with database.write() as session:
        session.add(organization)

    async def count() -> None:
        async with database.write() as session:
            query = select(Organization).where(Organization.id == organization.id).with_for_update()
            row = (await session.scalars(query)).one()
            prefix, _, number = row.name.rpartition("-")
            row.name = f"{prefix}-{int(number) + 1}"

    await asyncio.gather(*(count() for _ in range(40)))
    async with database.read() as session:
        assert (await session.get_one(Organization, organization.id)).name.endswith("-40")


async def test_a_broken_rule_of_the_database_is_no_outage(database: Database) -> None:
    name = f"twice {new_id()[:8]}"
    with pytest.raises(IntegrityError):
        async with database.write() as session:
            session.add_all([Organization(name=name), Organization(name=name)])


async def test_moments_come_back_in_utc(database: Database) -> None:
    made = Organization(name=f"when {new_id()[:8]}", created_at=NOW)
    async with database.write() as session:
        session.add(made)
    async with database.read() as session:
        assert (await session.get_one(Organization, made.id)).created_at == NOW


# --- Tokens ----------------------------------------------------------------------------------------------------------


async def test_a_token_opens_and_only_its_hash_is_stored(database: Database) -> None:
    user = User(email=f"{new_id()}@example.org")
    async with database.write() as session:
        session.add(user)
        await session.flush()
        token = make_token(user.id, "test")
        session.add(token.row)
    async with database.read() as session:
        caller = await authenticate(session, token.text, NOW)
        stored = await session.get_one(ApiToken, token.row.id)
    assert (caller.user_id, caller.email, caller.token_id) == (user.id, user.email, stored.id)
    assert token.text not in {stored.token_hash, stored.hint, stored.name}
    assert token.text.startswith(stored.hint)


async def test_whatever_is_wrong_with_a_token_the_answer_is_the_same(database: Database) -> None:
    answers = set()
    for text in (None, "", "sk_", "sk_" + "A" * 43, "sk_" + "A" * 42 + "\n", "Bearer x", "A" * 10_000, "sk_\ud800"):
        async with database.read() as session:
            with pytest.raises(Unauthorized) as refused:
                await authenticate(session, text, NOW)
        answers.add((refused.value.sentence, refused.value.code))
    assert len(answers) == 1


def test_tokens_are_long_random_and_never_the_same() -> None:
    texts = {make_token("u", "n").text for _ in range(1000)}
    assert len(texts) == 1000
    assert {len(text) for text in texts} == {46}


async def test_last_uses_are_written_together_and_shown_before(database: Database) -> None:
    user = User(email=f"{new_id()}@example.org")
    async with database.write() as session:
        session.add(user)
        await session.flush()
        row = make_token(user.id, "test").row
        session.add(row)
    uses = LastUses(database)
    for second in range(5):
        uses.note(row.id, NOW + timedelta(seconds=second))
    assert uses.latest(row) == NOW + timedelta(seconds=4)
    async with database.read() as session:
        assert (await session.get_one(ApiToken, row.id)).last_used_at is None, "a read writes nothing"
    await uses.write()
    async with database.read() as session:
        assert (await session.get_one(ApiToken, row.id)).last_used_at == NOW + timedelta(seconds=4)
    assert accounts.LAST_USE_SECONDS >= 60


def test_each_role_may_do_what_the_one_before_it_may() -> None:
    assert Role.of("viewer") < Role.of("developer") < Role.of("owner")
    assert [role.word for role in Role] == ["viewer", "developer", "owner"]


# --- Background tasks ------------------------------------------------------------------------------------------------


async def test_a_task_that_fails_is_started_again_and_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervise, "FIRST_PAUSE_SECONDS", 0.001)
    runs = 0
    well = asyncio.Event()

    async def task() -> None:
        nonlocal runs
        runs += 1
        if runs == 1:
            raise RuntimeError("once")
        if runs == 2:
            return
        well.set()
        await asyncio.Event().wait()

    supervisor = Supervisor()
    supervisor.start("fails", task)
    await well.wait()
    await supervisor.stop()
    assert runs == 3
    assert TASK_RESTARTS.labels("fails")._value.get() == 2


async def test_tasks_end_in_the_reverse_order_of_their_start() -> None:
    ended: list[str] = []
    supervisor = Supervisor()

    def task(name: str, started: asyncio.Event) -> object:
        async def run() -> None:
            started.set()
            try:
                await asyncio.Event().wait()
            finally:
                ended.append(name)

        return run

    for name in ("first", "second", "third"):
        started = asyncio.Event()
        supervisor.start(name, task(name, started))  # type: ignore[arg-type]
        await started.wait()
    await supervisor.stop()
    assert ended == ["third", "second", "first"]
