"""Keys of environments, rotation of signing keys, and re-signing: a device that trusts an old key follows."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from pydantic import ValidationError
from sqlalchemy import select
from tuf.api.metadata import Metadata, Root, Snapshot, Targets, Timestamp  # type: ignore[attr-defined]
from tuf.ngclient._internal.trusted_metadata_set import TrustedMetadataSet
from tuf.ngclient.config import EnvelopeType

from control_plane import tables
from control_plane.api.schemas import NewKey
from control_plane.errors import Conflict, Invalid, Missing
from control_plane.publish import MAX_VALID_KEYS
from control_plane.tables import Environment, new_id
from manifests.keys import MAX_OVERLAP, certify, parse_key
from manifests.store import WITHDRAWN, Publication
from manifests.trust import parse_body
from tests.control_plane.world import World, open_world


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with open_world(tmp_path) as world:
        await world.version({"weights": b"one"})
        await world.publisher.deploy(world.actor, world.prod.id, world.model.id, "latest")
        yield world


async def roots(world: World) -> list[tables.Root]:
    query = select(tables.Root).where(tables.Root.environment_id == world.prod.id).order_by(tables.Root.version)
    async with world.database.read() as session:
        return list(await session.scalars(query))


async def accept(world: World, key: str) -> TrustedMetadataSet:
    """Do what a device does that has nothing but ``key``; return what it trusts in the end."""
    publication = await world.store.load(key)
    assert isinstance(publication, Publication)
    manifest, first_root = parse_body(publication.body)
    first = publication.files[f"{first_root}.root.json"]
    certify(parse_key(key), first)
    trusted = TrustedMetadataSet(first, EnvelopeType.METADATA)
    for number in range(first_root + 1, manifest.root + 1):
        trusted.update_root(publication.files[f"{number}.root.json"])
    trusted.update_timestamp(manifest.timestamp)
    trusted.update_snapshot(manifest.snapshot)
    trusted.update_delegated_targets(manifest.targets, Targets.type, Root.type)
    return trusted


async def test_a_device_that_has_only_the_key_accepts_the_manifest(world: World) -> None:
    (key,) = await world.keys()
    assert key.key.startswith("prod-")
    assert "digits/1" in (await accept(world, key.key)).targets.targets


async def test_dev_and_prod_have_keys_and_roots_of_their_own(world: World) -> None:
    dev, prod = (await world.keys(world.dev))[0], (await world.keys())[0]
    assert parse_key(dev.key).fingerprint != parse_key(prod.key).fingerprint


async def test_after_the_root_key_was_rotated_the_old_key_still_leads_to_the_manifest(world: World) -> None:
    assert await world.publisher.rotate_root(world.actor, world.prod.id) == 2
    trusted = await accept(world, (await world.keys())[0].key)
    assert trusted.root.version == 2
    first, second = (Metadata[Root].from_bytes(root.metadata_bytes).signed for root in await roots(world))
    assert set(first.roles["root"].keyids).isdisjoint(second.roles["root"].keyids)


async def test_after_the_online_key_was_rotated_everything_is_signed_by_the_new_one(world: World) -> None:
    before = await world.manifest()
    assert await world.publisher.rotate_online(world.actor, world.prod.id) == 2
    await accept(world, (await world.keys())[0].key)
    first, second = (Metadata[Root].from_bytes(root.metadata_bytes).signed for root in await roots(world))
    assert set(first.roles["timestamp"].keyids).isdisjoint(second.roles["timestamp"].keyids)
    assert set(first.roles["root"].keyids) == set(second.roles["root"].keyids)
    assert (await world.manifest()).targets_bytes != before.targets_bytes


async def test_many_rotations_and_deploys_in_turn_keep_one_chain(world: World) -> None:
    for _ in range(2):
        await world.publisher.rotate_root(world.actor, world.prod.id)
        await world.publisher.rotate_online(world.actor, world.prod.id)
        await world.publisher.deploy(world.actor, world.prod.id, world.model.id, "latest")
    trusted = await accept(world, (await world.keys())[0].key)
    assert trusted.root.version == 5


async def test_a_key_added_after_a_rotation_certifies_the_newest_root(world: World) -> None:
    await world.publisher.rotate_root(world.actor, world.prod.id)
    key = await world.publisher.add_key(world.actor, world.prod.id, timedelta(days=30))
    assert key.first_root == 2
    assert (await accept(world, key.key)).root.version == 2


async def test_both_keys_are_valid_during_the_overlap(world: World) -> None:
    (old,) = await world.keys()
    new = await world.publisher.add_key(world.actor, world.prod.id, timedelta(days=30))
    await accept(world, old.key)
    await accept(world, new.key)
    expires = (await world.keys())[0].expires_at
    assert expires is not None
    assert timedelta(days=29) < expires - datetime.now(UTC) <= timedelta(days=30)
    assert (await world.keys())[1].expires_at is None


async def test_without_an_overlap_the_old_key_ends_at_once(world: World) -> None:
    (old,) = await world.keys()
    await world.publisher.add_key(world.actor, world.prod.id, timedelta(0))
    await world.relay.step(datetime.now(UTC))
    assert await world.store.load(old.key) is WITHDRAWN


async def test_a_second_new_key_does_not_lengthen_the_life_of_the_first(world: World) -> None:
    await world.publisher.add_key(world.actor, world.prod.id, timedelta(days=1))
    await world.publisher.add_key(world.actor, world.prod.id, timedelta(days=30))
    expires = (await world.keys())[0].expires_at
    assert expires is not None
    assert expires - datetime.now(UTC) <= timedelta(days=1)


async def test_a_revoked_key_is_withdrawn_at_once_and_revoking_again_changes_nothing(world: World) -> None:
    (old,) = await world.keys()
    await world.publisher.add_key(world.actor, world.prod.id, timedelta(days=30))
    await world.publisher.revoke_key(world.actor, old.id)
    assert await world.store.load(old.key) is WITHDRAWN
    await world.publisher.revoke_key(world.actor, old.id)
    assert [entry.action for entry in await world.audit()].count("key.revoke") == 1


async def test_the_only_valid_key_cannot_be_revoked(world: World) -> None:
    (key,) = await world.keys()
    with pytest.raises(Conflict, match="only valid key"):
        await world.publisher.revoke_key(world.actor, key.id)


async def test_keys_that_are_valid_at_once_are_bounded(world: World) -> None:
    for _ in range(MAX_VALID_KEYS - 1):
        await world.publisher.add_key(world.actor, world.prod.id, timedelta(days=1))
    with pytest.raises(Conflict, match="8 keys are valid already"):
        await world.publisher.add_key(world.actor, world.prod.id, timedelta(days=1))


async def test_an_overlap_is_between_nothing_and_its_bound(world: World) -> None:
    for overlap in (timedelta(seconds=-1), MAX_OVERLAP + timedelta(seconds=1)):
        with pytest.raises(Invalid):
            await world.publisher.add_key(world.actor, world.prod.id, overlap)
        with pytest.raises(ValidationError):
            NewKey(overlap_seconds=int(overlap.total_seconds()))
    longest = NewKey(overlap_seconds=int(MAX_OVERLAP.total_seconds()))
    await world.publisher.add_key(world.actor, world.prod.id, timedelta(seconds=longest.overlap_seconds))


async def test_what_is_not_there_is_missing(world: World) -> None:
    with pytest.raises(Missing):
        await world.publisher.revoke_key(world.actor, new_id())
    with pytest.raises(Missing):
        await world.publisher.rotate_root(world.actor, new_id())
    with pytest.raises(Missing):
        await world.publisher.add_key(world.actor, new_id(), timedelta(0))


async def test_rotations_and_keys_are_in_the_audit_log(world: World) -> None:
    await world.publisher.rotate_root(world.actor, world.prod.id)
    await world.publisher.rotate_online(world.actor, world.prod.id)
    await world.publisher.add_key(world.actor, world.prod.id, timedelta(0))
    entries = (await world.audit())[-3:]
    assert [entry.action for entry in entries] == ["root.rotate", "online_key.rotate", "key.create"]
    assert {entry.target for entry in entries} == {"Camera/prod"}


async def test_an_environment_whose_creation_fails_leaves_nothing_that_is_published(world: World) -> None:
    staging = Environment(application_id=world.application.id, name="staging")

    async def create_and_fail() -> None:
        async with world.database.write() as session:
            session.add(staging)
            await world.publisher.open_environment(session, staging)
            raise RuntimeError("the rest of the transaction failed")

    with pytest.raises(RuntimeError):
        await create_and_fail()
    assert await world.outbox() == []
    assert len(await world.store.revisions()) == 2


async def test_signing_again_changes_no_content_and_extends_the_life(world: World) -> None:
    before = await world.manifest()
    await world.publisher.resign(world.prod.id)
    after = await world.manifest()
    assert after.revision == before.revision + 1
    assert after.targets_bytes == before.targets_bytes
    old, new = (Metadata[Timestamp].from_bytes(row.timestamp_bytes).signed for row in (before, after))
    assert new.expires >= old.expires
    assert Metadata[Snapshot].from_bytes(after.snapshot_bytes).signed.meta["targets.json"].version == 2
    await world.assert_published()
