"""Flow 1: a version that is ready becomes what an environment offers.

Each change reads top to bottom: decide what is offered (pure, `control_plane.offers`) → record it → sign the whole
environment's manifest → queue it for the edges, all in one transaction that holds the environment → deliver it to
Redis. The database is the truth: when Redis is away the change stands, and the relay delivers it later. Two changes at
once come one after the other, in one order for the manifest, the history and the audit log.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from typing import Any, Literal

import structlog
from sqlalchemy import ColumnElement, delete, func, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from control_plane import audit, tables
from control_plane.actor import Actor
from control_plane.database import Database
from control_plane.errors import Conflict, Invalid, Missing
from control_plane.holdings import Holdings
from control_plane.locks import lock_environment, lock_model
from control_plane.offered import offered_releases, present_offers
from control_plane.offers import Offer, buckets_of, checked_conditions, deploy
from control_plane.outbox import RETELL_WITHDRAWN_FOR, OutboxRelay
from control_plane.patch_plan import Source, plan_again, plan_deployed
from control_plane.patch_policy import PatchPolicy
from control_plane.places import labels_of_one
from control_plane.publications import valid_keys
from control_plane.push.start import begin_push
from control_plane.repository import (
    Signing,
    add_root,
    newest_root,
    open_repository,
    queue,
    sign_again,
    sign_content,
)
from control_plane.roll_back import Step, roll_back
from control_plane.tables import (
    Application,
    Deployment,
    Environment,
    EnvironmentKey,
    Manifest,
    Model,
    ModelVersion,
    Root,
    WithdrawnKey,
    utc_now,
)
from control_plane.uploads import READY
from manifests.keys import MAX_OVERLAP, RANDOM_BYTES, make_key
from manifests.model import BUCKETS, Release
from manifests.trust import releases_of

LATEST: Literal["latest"] = "latest"

# What a deployment is, in its row.
DEPLOY = "deploy"
ROLLBACK = "rollback"

# Keys of one environment that are valid at once. Two are the rule while apps move from one to the next; every change
# is published once for each.
MAX_VALID_KEYS = 8

_NO_SUCH_MODEL = "There is no such model in the environment's application."

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Scene:
    """A model and the environment that it is deployed to, both held by the transaction."""

    environment: Environment
    model: Model


class Publisher:
    """Changes what environments offer, and who may read it.

    Args:
        database: the truth.
        relay: delivers what changed to the edges.
        signing: the keys, and how long metadata lives.
        policy: which patches are listed.
    """

    def __init__(
        self, database: Database, relay: OutboxRelay, signing: Signing, policy: PatchPolicy | None = None
    ) -> None:
        self._database = database
        self._relay = relay
        self._signing = signing
        self._policy = policy or PatchPolicy()
        # Set when patches were queued.
        self.patches_planned = asyncio.Event()
        # Set when what a deployment planned is to be looked at again.
        self.looks_due = asyncio.Event()
        # Set when a renaming made manifests due to be signed anew.
        self.signing_due = asyncio.Event()
        # Set when a push was begun, or may go on.
        self.pushes_due = asyncio.Event()

    # --- What is offered ------------------------------------------------------------------------------------------

    async def deploy(
        self,
        actor: Actor,
        environment_id: str,
        model_id: str,
        version: int | Literal["latest"],
        percent: float = 100,
        conditions: Mapping[str, Any] | None = None,
        push: bool = False,
        sandbox: bool | None = None,
        after: int | None = None,
    ) -> Deployment:
        """Offer a version in an environment.

        Args:
            version: its number, or "latest" for the model's highest.
            percent: of all devices, 0.01 to 100.
            conditions: what a device must be, by fact, as `manifests.model.parse_conditions` takes them.
            push: whether devices are to be woken; the push begins in the same transaction.
            sandbox: whether through Apple's development server, as `control_plane.push.start.begin_push` takes it.
            after: only if the last deployment there has this number.

        Raises:
            Invalid: there is no such environment or version, or the rule is malformed.
            Conflict: too many versions are offered already, or something else was deployed last.
        """
        buckets, checked = buckets_of(percent), checked_conditions(conditions)
        async with self._database.write() as session:
            scene = await _hold(session, environment_id, model_id)
            await _require_last(session, scene, after)
            chosen = await _ready_version(session, model_id, version)
            new = Offer(chosen.version or 0, chosen.interface, buckets, checked)
            offers = deploy(await present_offers(session, environment_id, model_id), new)
            deployment = _deployment(DEPLOY, scene, offers, percent, push, actor)
            await self._publish(session, actor, scene, deployment, offers)
            if push:
                await begin_push(
                    session,
                    scene.environment,
                    model_id,
                    deployment.version,
                    sandbox=sandbox,
                    actor_id=actor.user_id,
                    deployment_id=deployment.id,
                )
        await self._announce(environment_id)
        if push:
            self.pushes_due.set()
        return deployment

    async def roll_back(self, actor: Actor, environment_id: str, model_id: str, after: int | None = None) -> Deployment:
        """Take back the version that was deployed last, with every step of its rollout (`control_plane.roll_back`).

        Args:
            after: only if the last deployment there has this number.

        Raises:
            Invalid: there is no such environment.
            Conflict: there is nothing to roll back to, a version that was offered then has been deleted, or something
                else was deployed last.
        """
        async with self._database.write() as session:
            scene = await _hold(session, environment_id, model_id)
            await _require_last(session, scene, after)
            left = roll_back(await _history(session, environment_id, model_id))
            await _refuse_deleted(session, model_id, left.offers)
            percent = left.offers[0].buckets * 100 / BUCKETS
            deployment = _deployment(ROLLBACK, scene, left.offers, percent, push=False, actor=actor)
            deployment.restores = left.newest
            offers = left.offers
            await self._publish(session, actor, scene, deployment, offers)
        await self._announce(environment_id)
        return deployment

    async def republish(self, environment_id: str) -> bool:
        """Sign what the environment offers with the encodings that there are by now; say whether anything changed.

        Raises:
            Missing: the environment is gone.
        """
        async with self._database.write() as session:
            await lock_environment(session, environment_id)
            changed = await self._sign_if_changed(session, environment_id)
        if changed:
            await self.announce(environment_id)
        return changed

    async def plan_again(
        self, environment_id: str, model_id: str, holdings: Holdings | None, pause: timedelta, now: datetime
    ) -> Source:
        """Choose anew which patches a model's devices in an environment need, and sign what that changes.

        Args:
            holdings: what the devices hold now; None when that cannot be asked.
            pause: until the next look, as `control_plane.patch_plan.plan_again` takes it.

        Raises:
            Missing: the environment or the model is gone.
        """
        async with self._database.write() as session:
            await lock_environment(session, environment_id)
            await lock_model(session, model_id)
            source = await plan_again(session, environment_id, model_id, holdings, pause, self._policy, now)
            changed = await self._sign_if_changed(session, environment_id)
        if changed:
            await self.announce(environment_id)
        self.patches_planned.set()
        return source

    async def resign(self, environment_id: str, renew_root: bool = False) -> None:
        """Sign the same content anew, before it expires.

        Args:
            renew_root: make the next root as well, with the same keys.

        Raises:
            Missing: the environment is gone.
        """
        async with self._database.write() as session:
            await lock_environment(session, environment_id)
            now = utc_now()
            if renew_root:
                await add_root(session, self._signing, environment_id, now)
            await sign_again(session, self._signing, environment_id, now)
        await self.announce(environment_id)

    async def sign(self, session: AsyncSession, environment_id: str) -> int:
        """Sign what the environment offers now, and queue it; return the revision.

        Call it in the transaction that changes what is offered, which holds the environment; `announce` it after the
        commit.

        Raises:
            Missing: the environment is gone.
            Invalid: the manifest would be too large, or hold too many releases.
        """
        releases = await offered_releases(session, environment_id, self._policy)
        return await sign_content(session, self._signing, environment_id, releases, utc_now())

    async def _sign_if_changed(self, session: AsyncSession, environment_id: str) -> bool:
        """Sign what the environment offers, unless the manifest in force says it: a new one goes to every device."""
        releases = await offered_releases(session, environment_id, self._policy)
        manifest = await session.get_one(Manifest, environment_id, populate_existing=True)
        in_force = await asyncio.to_thread(releases_of, manifest.targets_bytes)
        if sorted(in_force, key=_path) == sorted(releases, key=_path):
            return False
        await sign_content(session, self._signing, environment_id, releases, utc_now())
        return True

    async def _publish(
        self, session: AsyncSession, actor: Actor, scene: Scene, deployment: Deployment, offers: Sequence[Offer]
    ) -> None:
        """Record what is offered from now on, sign it and queue it."""
        environment_id, model_id = scene.environment.id, scene.model.id
        await _replace_releases(session, environment_id, model_id, offers)
        deployment.number = await _next_number(session, environment_id, model_id)
        session.add(deployment)
        await plan_deployed(session, environment_id, model_id, self._policy, utc_now())
        deployment.revision = await self.sign(session, environment_id)
        await _record(session, actor, scene, deployment)

    async def announce(self, environment_id: str) -> bool:
        """Deliver what a committed transaction queued; say whether the edges have it already."""
        return await self._relay.deliver(environment_id)

    async def _announce(self, environment_id: str) -> None:
        await self.announce(environment_id)
        self.looks_due.set()
        self.patches_planned.set()

    # --- Environments and their keys ------------------------------------------------------------------------------

    async def open_environment(self, session: AsyncSession, environment: Environment) -> EnvironmentKey:
        """Give a new environment its signing keys, its first root, a key for apps and an empty manifest.

        Call it in the transaction that adds the environment; `announce` it after the commit.
        """
        await session.flush()
        root = await open_repository(session, self._signing, environment.id, utc_now())
        return _add_key(session, environment, root)

    async def close_environment(self, session: AsyncSession, environment_id: str) -> None:
        """Queue the withdrawal of every key of an environment that is about to be deleted.

        Call it in the transaction that deletes the environment, before; `announce` it after the commit.

        Raises:
            Missing: the environment is gone.
        """
        await lock_environment(session, environment_id)
        revision = await session.scalar(select(Manifest.revision).where(Manifest.environment_id == environment_id))
        of_it = EnvironmentKey.environment_id == environment_id
        keys = (await session.scalars(select(EnvironmentKey.key).where(of_it))).all()
        queue(session, environment_id, revision or 0, withdrawn_keys=keys)
        # The keys' rows go with the environment, and a Redis that is emptied later has to be told of them again.
        await session.execute(delete(WithdrawnKey).where(WithdrawnKey.withdrawn_at < utc_now() - RETELL_WITHDRAWN_FOR))
        session.add_all(WithdrawnKey(key=key, revision=revision or 0) for key in keys)

    async def relabel(self, session: AsyncSession, *applications: ColumnElement[bool]) -> None:
        """Have applications' environments signed anew after they, or their organization, were renamed.

        Edges label events with these names, and take a publication only when its revision is newer than theirs. There
        may be very many environments, so they are only marked here, and the loop of `control_plane.resign` signs them.

        Call it in the transaction that renames, and `sign_renamed` after the commit.

        Args:
            applications: conditions on the applications' table.
        """
        environments = select(Environment.id).join(Application).where(*applications)
        marked = update(Manifest).where(Manifest.environment_id.in_(environments))
        await session.execute(marked.values(resign_at=utc_now()), execution_options={"synchronize_session": False})

    def sign_renamed(self) -> None:
        """Have what a committed transaction marked signed now, rather than within a minute."""
        self.signing_due.set()

    async def add_key(self, actor: Actor, environment_id: str, overlap: timedelta) -> EnvironmentKey:
        """Add a key that certifies the newest root; the keys so far stay valid for ``overlap``.

        Raises:
            Missing: the environment is gone.
            Invalid: the overlap is negative or over `manifests.keys.MAX_OVERLAP`.
            Conflict: too many keys are valid already.
        """
        if not timedelta(0) <= overlap <= MAX_OVERLAP:
            raise Invalid(f"overlap_seconds must be from 0 to {MAX_OVERLAP.total_seconds():.0f}.", "invalid_overlap")
        now = utc_now()
        async with self._database.write() as session:
            environment = await lock_environment(session, environment_id)
            await _end_keys(session, environment_id, now, now + overlap)
            key = _add_key(session, environment, await newest_root(session, environment_id))
            await self._requeue(session, environment_id)
            await _record_key(session, actor, environment_id, "key.create", key)
        await self.announce(environment_id)
        return key

    async def revoke_key(self, actor: Actor, key_id: str) -> None:
        """Make a key invalid at once: devices that ship it get 404 and keep the version that they hold.

        Raises:
            Missing: there is no such key.
            Conflict: it is the environment's only valid key.
        """
        now = utc_now()
        async with self._database.write() as session:
            found = await session.get(EnvironmentKey, key_id)
            if found is None:
                raise Missing("There is no such key.")
            environment_id = found.environment_id
            await lock_environment(session, environment_id)
            key = await session.get_one(EnvironmentKey, key_id, populate_existing=True)
            if key.revoked_at is not None:
                return
            await _refuse_last_key(session, key, now)
            key.revoked_at = now
            await self._requeue(session, environment_id, withdrawn_keys=[key.key])
            await _record_key(session, actor, environment_id, "key.revoke", key)
        await self.announce(environment_id)

    async def rotate_root(self, actor: Actor, environment_id: str) -> int:
        """Replace the environment's root key; return the number of the root that says so.

        Raises:
            Missing: the environment is gone.
        """
        return await self._rotate(actor, environment_id, "root.rotate", new_root_key=True)

    async def rotate_online(self, actor: Actor, environment_id: str) -> int:
        """Replace the key that signs the manifest; return the number of the root that says so.

        Raises:
            Missing: the environment is gone.
        """
        return await self._rotate(actor, environment_id, "online_key.rotate", new_online_key=True)

    async def _rotate(
        self, actor: Actor, environment_id: str, action: str, new_root_key: bool = False, new_online_key: bool = False
    ) -> int:
        async with self._database.write() as session:
            await lock_environment(session, environment_id)
            now = utc_now()
            root = await add_root(session, self._signing, environment_id, now, new_root_key, new_online_key)
            await sign_again(session, self._signing, environment_id, now)
            labels = await labels_of_one(session, environment_id)
            target = f"{labels.application}/{labels.environment}"
            audit.record(session, actor, labels.organization_id, action, target, {"root": root.version})
        await self.announce(environment_id)
        return root.version

    async def _requeue(self, session: AsyncSession, environment_id: str, withdrawn_keys: Sequence[str] = ()) -> None:
        """Queue the manifest as it is: its keys have changed, not what it says."""
        manifest = await session.get_one(Manifest, environment_id)
        queue(session, environment_id, manifest.revision, withdrawn_keys)


# --- Reading and writing what a change is about -------------------------------------------------------------------


def _path(release: Release) -> str:
    return release.path


async def _hold(session: AsyncSession, environment_id: str, model_id: str) -> Scene:
    try:
        environment = await lock_environment(session, environment_id)
    except Missing:
        raise Invalid("There is no such environment.", "no_such_environment") from None
    try:
        model = await lock_model(session, model_id)
    except Missing:
        raise Invalid(_NO_SUCH_MODEL, "no_such_model") from None
    if model.application_id != environment.application_id:
        raise Invalid(_NO_SUCH_MODEL, "no_such_model")
    return Scene(environment, model)


async def _require_last(session: AsyncSession, scene: Scene, after: int | None) -> None:
    """Raise `Conflict` unless the last deployment has a number, if one is asked for."""
    if after is not None and await _next_number(session, scene.environment.id, scene.model.id) != after + 1:
        raise Conflict("Something else was deployed there since; look at what is there now.", "changed_since")


async def _ready_version(session: AsyncSession, model_id: str, version: int | Literal["latest"]) -> ModelVersion:
    """Return the version to deploy, which cannot be deleted before the transaction ends."""
    query = select(ModelVersion).where(ModelVersion.model_id == model_id, ModelVersion.state == READY)
    if version == LATEST:
        query = query.order_by(ModelVersion.version.desc()).limit(1)
    else:
        query = query.where(ModelVersion.version == version)
    found = await session.scalar(query.with_for_update(read=True))
    if found is not None:
        return found
    if version == LATEST:
        raise Invalid("The model has no version yet; upload one first.", "no_such_version")
    raise Invalid(f"The model has no version {version}.", "no_such_version")


async def _history(session: AsyncSession, environment_id: str, model_id: str) -> list[Step]:
    """Return every deployment of the model in the environment, the first one first."""
    query = (
        select(Deployment.number, Deployment.kind, Deployment.offers)
        .where(Deployment.environment_id == environment_id, Deployment.model_id == model_id)
        .order_by(Deployment.number)
    )
    rows = (await session.execute(query)).all()
    return [Step(number, Offer(**offers[0]) if kind == DEPLOY else None) for number, kind, offers in rows]


async def _refuse_deleted(session: AsyncSession, model_id: str, offers: Sequence[Offer]) -> None:
    """Raise `Conflict` if a version is gone; those that are there cannot be deleted before the transaction ends."""
    numbers = [offer.version for offer in offers]
    query = select(ModelVersion).where(
        ModelVersion.model_id == model_id, ModelVersion.version.in_(numbers), ModelVersion.state == READY
    )
    present = {version.version for version in await session.scalars(query.with_for_update(read=True))}
    deleted = [number for number in numbers if number not in present]
    if deleted:
        raise Conflict(
            f"Version {deleted[0]}, which was offered then, has been deleted; deploy another version instead.",
            "version_deleted",
        )


async def _replace_releases(session: AsyncSession, environment_id: str, model_id: str, offers: Sequence[Offer]) -> None:
    place = tables.Release.environment_id == environment_id, tables.Release.model_id == model_id
    await session.execute(delete(tables.Release).where(*place))
    query = select(ModelVersion.version, ModelVersion.id).where(
        ModelVersion.model_id == model_id, ModelVersion.version.in_([offer.version for offer in offers])
    )
    ids = dict((await session.execute(query)).all())
    for position, offer in enumerate(offers):
        release = tables.Release(
            environment_id=environment_id,
            model_id=model_id,
            model_version_id=ids[offer.version],
            position=position,
            buckets=offer.buckets,
            conditions=dict(offer.conditions),
        )
        session.add(release)
    await session.flush()


def _deployment(
    kind: str, scene: Scene, offers: Sequence[Offer], percent: float, push: bool, actor: Actor
) -> Deployment:
    top = offers[0]
    return Deployment(
        environment_id=scene.environment.id,
        model_id=scene.model.id,
        kind=kind,
        version=top.version,
        percent=float(percent),
        conditions=dict(top.conditions),
        push=push,
        offers=[asdict(offer) for offer in offers],
        revision=0,  # known once the manifest is signed, in the same transaction
        actor_id=actor.user_id,
    )


async def _next_number(session: AsyncSession, environment_id: str, model_id: str) -> int:
    query = select(func.max(Deployment.number)).where(
        Deployment.environment_id == environment_id, Deployment.model_id == model_id
    )
    return (await session.scalar(query) or 0) + 1


async def _record(session: AsyncSession, actor: Actor, scene: Scene, deployment: Deployment) -> None:
    labels = await labels_of_one(session, scene.environment.id)
    action = "version.deploy" if deployment.kind == DEPLOY else "version.rollback"
    detail = {
        "environment": labels.environment,
        "percent": deployment.percent,
        "conditions": deployment.conditions,
        "deployment": deployment.number,
        "revision": deployment.revision,
    }
    target = f"{labels.application}/{scene.model.name}/{deployment.version}"
    audit.record(session, actor, labels.organization_id, action, target, detail)
    _log.info("deployed", kind=deployment.kind, environment_id=scene.environment.id, revision=deployment.revision)


def _add_key(session: AsyncSession, environment: Environment, root: Root) -> EnvironmentKey:
    text = make_key(environment.name, root.metadata_bytes, secrets.token_bytes(RANDOM_BYTES))
    key = EnvironmentKey(environment_id=environment.id, key=text, first_root=root.version)
    session.add(key)
    return key


async def _end_keys(session: AsyncSession, environment_id: str, now: datetime, end: datetime) -> None:
    """Let the valid keys end at ``end``; one that ends sooner keeps its time."""
    query = select(EnvironmentKey).where(EnvironmentKey.environment_id == environment_id, valid_keys(now))
    keys = (await session.scalars(query)).all()
    if len(keys) >= MAX_VALID_KEYS:
        raise Conflict(f"{len(keys)} keys are valid already; revoke one first.", "too_many_keys")
    for key in keys:
        key.expires_at = min(key.expires_at or end, end)


async def _refuse_last_key(session: AsyncSession, key: EnvironmentKey, now: datetime) -> None:
    others = select(func.count()).where(
        EnvironmentKey.environment_id == key.environment_id, EnvironmentKey.id != key.id, valid_keys(now)
    )
    if not await session.scalar(others):
        raise Conflict("This is the environment's only valid key; add another one first.", "last_key")


async def _record_key(
    session: AsyncSession, actor: Actor, environment_id: str, action: str, key: EnvironmentKey
) -> None:
    labels = await labels_of_one(session, environment_id)
    target = f"{labels.application}/{labels.environment}"
    audit.record(session, actor, labels.organization_id, action, target, {"key": key.key})
