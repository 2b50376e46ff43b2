"""What migrations make of the rows that are there."""

from __future__ import annotations

from typing import Any

import pytest
from alembic import command
from alembic.config import Config
from sqlalchemy import insert, select, text
from sqlalchemy.engine import Connection
from sqlalchemy.exc import IntegrityError

from control_plane.database import Database
from control_plane.migrate import MIGRATIONS, migrate
from control_plane.tables import (
    ApiToken,
    Application,
    ArtifactEncoding,
    AuditEntry,
    Base,
    Deployment,
    Environment,
    Model,
    ModelVersion,
    Organization,
    PatchJob,
    PatchPlan,
    PatchWish,
    Release,
    User,
    WebSession,
    utc_now,
)
from tests.control_plane.databases import empty_database

__all__ = ["empty_database"]


def upgrade_to(connection: Connection, revision: str) -> None:
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    config.attributes["connection"] = connection
    command.upgrade(config, revision)


async def test_deployments_of_the_first_schema_learn_their_interfaces_and_patch_jobs_wait_for_nothing(
    empty_database: str,
) -> None:
    database = Database(empty_database)
    try:
        async with database.write() as session:
            connection = await session.connection()
            await connection.run_sync(upgrade_to, "0001")
            place = {"environment_id": "e", "model_id": "m", "percent": 100, "revision": 2, "kind": "deploy"}
            file = {"filename": "f", "filepath": "p"}
            offers: list[dict[str, object]] = [
                {"version": version, "buckets": 10_000, "conditions": {}} for version in (2, 1)
            ]
            for table, row in (
                (Organization, {"id": "o", "name": "Acme"}),
                (Application, {"id": "a", "organization_id": "o", "name": "A", "bundle_id": "b", "platform": "ios"}),
                (Environment, {"id": "e", "application_id": "a", "name": "prod"}),
                (Model, {"id": "m", "application_id": "a", "name": "digits"}),
                (ModelVersion, {"id": "v", "model_id": "m", "version": 2, "interface": "i"} | file),
                (Deployment, {"id": "d", "number": 1, "version": 2, "offers": offers} | place),
            ):
                await session.execute(insert(table).values(row))
            columns = "id, base_sha256, target_sha256, state, attempts, created_at, updated_at"
            values = "'j', 'b', 't', 'pending', 1, CURRENT_TIMESTAMP, CURRENT_TIMESTAMP"
            await session.execute(text(f"INSERT INTO patch_jobs ({columns}) VALUES ({values})"))
        assert await migrate(database)
        async with database.read() as session:
            deployment = await session.get_one(Deployment, "d")
            assert [offer["interface"] for offer in deployment.offers] == ["i", None]
            assert [offer["buckets"] for offer in deployment.offers] == [10_000, 10_000]
            job = await session.get_one(PatchJob, "j")
            assert (job.attempts, job.failures, job.retry_at) == (1, 0, None)
            assert (job.code, job.tried) == (None, [])
    finally:
        await database.close()


async def test_patches_that_an_environment_lists_stay_wanted_and_reasons_get_a_word(empty_database: str) -> None:
    database = Database(empty_database)
    try:
        async with database.write() as session:
            connection = await session.connection()
            await connection.run_sync(upgrade_to, "0004")
            file: dict[str, Any] = {"filename": "f", "filepath": "p", "model_id": "m"}
            patch: dict[str, Any] = {"name": "zstd-prefix", "blob_sha256": "p", "length": 9}
            offer: dict[str, Any] = {"model_id": "m", "position": 0, "buckets": 10_000, "conditions": {}}
            rows: list[tuple[type[Base], dict[str, Any]]] = [
                (Organization, {"id": "o", "name": "Acme"}),
                (Application, {"id": "a", "organization_id": "o", "name": "A", "bundle_id": "b", "platform": "ios"}),
                (Environment, {"id": "e", "application_id": "a", "name": "prod"}),
                (Environment, {"id": "f", "application_id": "a", "name": "dev"}),
                (Model, {"id": "m", "application_id": "a", "name": "digits"}),
                *((ModelVersion, {"id": f"v{n}", "version": n, "artifact_sha256": f"a{n}"} | file) for n in (1, 2, 3)),
                (Release, {"id": "r", "environment_id": "e", "model_version_id": "v3"} | offer),
                *(
                    (ArtifactEncoding, {"artifact_sha256": "a3", "base_sha256": base} | patch)
                    for base in ("a1", "a2", "of another model")
                ),
            ]
            for table, row in rows:
                await session.execute(insert(table).values(row))
            columns = "id, base_sha256, target_sha256, state, reason, attempts, failures, created_at, updated_at"
            for job, state, reason in (
                ("i", "skipped", "not_smaller: the patch has 9 bytes"),
                ("j", "built", None),
                ("k", "failed", "failed 5 times: memory"),
            ):
                values = {"j": job, "s": state, "r": reason}
                statement = (
                    f"INSERT INTO patch_jobs ({columns})"
                    " VALUES (:j, :j, 't', :s, :r, 1, 0, CURRENT_TIMESTAMP, CURRENT_TIMESTAMP)"
                )
                await session.execute(text(statement), values)
        assert await migrate(database)
        async with database.read() as session:
            jobs = {job.id: job for job in await session.scalars(select(PatchJob))}
            wishes = list(await session.scalars(select(PatchWish).order_by(PatchWish.rank)))
            (plan,) = await session.scalars(select(PatchPlan))
        assert (jobs["i"].code, jobs["i"].reason) == ("not_smaller", "the patch has 9 bytes")
        assert (jobs["j"].code, jobs["j"].tried) == (None, ["zstd-prefix"])
        assert (jobs["k"].reason, jobs["k"].tried) == ("failed 5 times: memory", [])
        assert [(wish.environment_id, wish.base_sha256, wish.target_sha256, wish.unwanted) for wish in wishes] == [
            ("e", "a2", "a3", None),
            ("e", "a1", "a3", None),
        ]
        assert (plan.environment_id, plan.model_id, plan.held, plan.asked_at) == ("e", "m", [], None)
    finally:
        await database.close()


async def test_tokens_and_browsers_of_before_have_no_bounds_and_wait_for_no_code(empty_database: str) -> None:
    database = Database(empty_database)
    try:
        async with database.write() as session:
            connection = await session.connection()
            await connection.run_sync(upgrade_to, "0009")
            now = {"now": utc_now()}
            for statement in (
                "INSERT INTO users (id, email, name, created_at) VALUES ('u', 'me@example.org', '', :now)",
                "INSERT INTO api_tokens (id, user_id, name, token_hash, hint, created_at)"
                " VALUES ('t', 'u', 'laptop', 'h', 'sk_', :now)",
                "INSERT INTO web_sessions (id, user_id, token_hash, browser, created_at, seen_at, expires_at)"
                " VALUES ('s', 'u', 'h', '', :now, :now, :now)",
                "INSERT INTO audit_log (actor, action, target, detail, created_at) VALUES ('me', 'a', 't', '{}', :now)",
            ):
                await session.execute(text(statement), now)
        assert await migrate(database)
        async with database.read() as session:
            token = await session.get_one(ApiToken, "t")
            assert (token.name, token.organization_id, token.role, token.expires_at) == ("laptop", None, None, None)
            assert (await session.get_one(WebSession, "s")).awaits_code is False
            assert (await session.get_one(User, "u")).unproven is False
            (entry,) = await session.scalars(select(AuditEntry))
            assert (entry.client, entry.via) == (None, None)
        with pytest.raises(IntegrityError):
            async with database.write() as session:
                session.add(ApiToken(user_id="u", name="n", token_hash="h", hint="sk_"))
    finally:
        await database.close()
