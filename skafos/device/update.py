"""A device checks for an update: flow 2, from the first request to the report.

    GET the manifest with its ETag → 304, or the body → verify (TUF) → choose the release (a pure rule, here on the
    device) → download the smallest encoding, resumable → verify → unpack, flush, swap one symlink → report

`DeviceClient.sync` is one check of one model. It may be killed at any moment: the version in use is the old one or the
new one, whole, and the next check goes on from there. Nothing that is held is given up for something that cannot be
verified.
"""

from __future__ import annotations

import time
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

import httpx

from artifacts.patch.limits import PatchLimits
from manifests.keys import InvalidKey, parse_key
from manifests.model import Release, of_model
from manifests.rollout import choose
from skafos.device.download import Progress
from skafos.device.edge import Edge, ManifestAnswer, Retry
from skafos.device.errors import (
    DeviceError,
    EdgeUnavailable,
    ManifestRejected,
    NoModel,
    UnknownKey,
    VersionDamaged,
    disk_error,
    disk_errors,
)
from skafos.device.events import EventQueue
from skafos.device.identity import Facts, detect_facts, device_id
from skafos.device.lock import locked
from skafos.device.manifest_file import ManifestFile
from skafos.device.obtain import Obtained, Obtaining, full_length, unpack
from skafos.device.registration import Registration
from skafos.device.slots import HeldVersion, ModelSlots, bundled_version, remove_partials
from skafos.device.trust import Trust, VerifiedManifest

Status = Literal["updated", "current", "offline", "none"]

# Where a device keeps what is not a model. A model's folder never starts with a dot.
STATE_FOLDER = ".skafos"
EVENTS_FOLDER = "events"
# An update of another process takes seconds; a very large one is waited for again at the next check.
LOCK_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class SyncResult:
    """What a check came to.

    Attributes:
        model: its name.
        version: the version in use now; None when there is none, or it is bundled without a number.
        previous: the version in use before.
        status: "updated"; "current" (what is offered was in use already); "offline" (the edge could not be asked or
            gave no bytes: the version in use serves on); "none" (nothing is offered to this device; what it has stays).
        encoding: how an updated version came: "identity", "zstd", "zstd-prefix", "skafos-delta"; None when nothing was
            downloaded.
        bytes: downloaded for it.
        full_bytes: what a device would have downloaded that held nothing.
        path: the folder with the model's files; it stays as it is also during and after the next update.
        detail: why, when offline; and that the version in use was damaged, when another took its place.
    """

    model: str
    version: int | None
    previous: int | None
    status: Status
    encoding: str | None = None
    bytes: int = 0
    full_bytes: int = 0
    path: Path | None = None
    detail: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the result as JSON has it."""
        return {
            "model": self.model,
            "version": self.version,
            "previous": self.previous,
            "status": self.status,
            "encoding": self.encoding,
            "bytes": self.bytes,
            "full_bytes": self.full_bytes,
            "path": str(self.path) if self.path else None,
            "detail": self.detail,
        }


@dataclass(slots=True)
class _Check:
    """One check of one model while it runs."""

    model: str
    slots: ModelSlots
    before: HeldVersion | None
    damage: VersionDamaged | None = None
    wanted: Release | None = None
    started: float = field(default_factory=time.monotonic)

    @property
    def version_before(self) -> int | None:
        return self.before.version if self.before else None

    def milliseconds(self) -> int:
        """Return how long the check has run since the last call, for reports."""
        now = time.monotonic()
        elapsed, self.started = now - self.started, now
        return round(elapsed * 1000)


class DeviceClient:
    """A device of one environment, in one directory.

    Args:
        edge: the edge's address, such as ``https://edge.example.org``.
        key: the environment's key, which the app ships. It certifies the first root of trust.
        directory: where models and the device's state are kept. One app each; several processes may share it.
        facts: what rollout rules may ask for; default what Python knows of this machine.
        bundle: a folder with the models that the app ships, for the time before the first update.
        http: connections to share among devices; default the client's own.
        retry: how requests are tried again.
        patch_limits: what applying a patch may take; above it the full artifact is downloaded.
        lock_seconds: how long to wait for another process that updates in the directory.

    Raises:
        UnknownKey: ``key`` is no environment key.
    """

    def __init__(
        self,
        edge: str,
        key: str,
        directory: Path,
        *,
        facts: Facts | None = None,
        bundle: Path | None = None,
        http: httpx.Client | None = None,
        retry: Retry | None = None,
        patch_limits: PatchLimits | None = None,
        lock_seconds: float = LOCK_SECONDS,
    ) -> None:
        try:
            parsed = parse_key(key)
        except InvalidKey as error:
            raise UnknownKey(f"{error}.") from None
        # Absolute, because what is returned must stay right when the app changes its working directory.
        self._directory = directory.absolute()
        self._state = self._directory / STATE_FOLDER
        self._facts = facts or detect_facts()
        self._bundle = bundle.absolute() if bundle else None
        self._http = http or httpx.Client(follow_redirects=False)
        self._owns_http = http is None
        self._retry = retry or Retry()
        self._patch_limits = patch_limits or PatchLimits()
        self._lock_seconds = lock_seconds
        self._edge = Edge(edge, key, self._http, self._retry)
        self._environment = self._state / "environments" / key
        self._manifest_file = ManifestFile(self._environment / "manifest")
        self._trust = Trust(self._environment, parsed, self._edge.root)
        self._registration = Registration(self._environment / "registered", self._facts)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections, unless they are the caller's."""
        if self._owns_http:
            self._http.close()

    @property
    def device_id(self) -> str:
        """This installation's random id. The first call writes it down, and may raise `NoSpace` or `DiskFailed`."""
        with disk_errors():
            return device_id(self._state)

    def load(self, model: str) -> HeldVersion:
        """Return the version in use, else the one before, else the bundled one. Asks nobody and never waits.

        Files count that are there in full; `sync` also compares their bytes, and takes damaged ones out of use.

        Raises:
            NoModel: there is none of them.
            DiskFailed: it cannot be told.
        """
        with disk_errors():
            slots = ModelSlots(self._directory, model)
            held = slots.current() or slots.previous() or bundled_version(self._bundle, model)
        if held is None:
            raise NoModel(f"No version of {model} is on this device.")
        return held

    def sync(self, model: str, progress: Progress | None = None) -> SyncResult:
        """Bring a model to the version that its environment offers this device now, and report it.

        Args:
            model: its name.
            progress: is told the bytes that are there of a download, and their total.

        Raises:
            EdgeUnavailable: the edge cannot be asked, and no version is on the device or bundled.
            UnknownKey: the edge does not know the environment's key.
            ManifestRejected: what the edge says is offered cannot be trusted. The version in use stays.
            ArtifactRejected: what the edge gives is not what was signed. The version in use stays.
            NoSpace, DiskFailed: the disk is too full, or fails.
            DirectoryBusy: another process is updating in the directory.
        """
        with disk_errors(), locked(self._state / "lock", self._lock_seconds):
            for folder in (self._state, self._environment, self._state / EVENTS_FOLDER):
                remove_partials(folder)
            events = self._events()
            try:
                return self._sync(model, events, progress)
            finally:
                self._report(events)

    def register(self, push_token: str | None = None, push_service: str | None = None) -> bool:
        """Tell the edge this device's facts, and how to wake it; say whether the edge took it.

        `sync` does that by itself, without a push token, whenever the facts have changed.

        Args:
            push_token: the token that a push service gave the app.
            push_service: which one, "apns", "apns-sandbox" or "fcm".

        Raises:
            EdgeUnavailable: the edge cannot be asked now.
            NoSpace, DiskFailed: what the edge took cannot be written down; call it again.
            DirectoryBusy: another process is updating in the directory.
        """
        with disk_errors(), locked(self._state / "lock", self._lock_seconds):
            return self._registration.renew(self._edge, self.device_id, push_token, push_service)

    # --- one check, top to bottom

    def _sync(self, model: str, events: EventQueue, progress: Progress | None) -> SyncResult:
        check = self._begin(model, events)
        try:
            manifest = self._verified_manifest()
            events.add("check", model=model, version=check.version_before, duration_ms=check.milliseconds())
            release = choose(of_model(manifest.releases, model), self._facts.of_device(self.device_id))
            if release is None:
                return self._unchanged(check, "none")
            check.wanted = release
            if check.before is not None and check.before.is_release(release.version, release.artifact):
                if not check.before.bundled:
                    check.slots.activate(check.before)
                self._clean(check, events)
                return self._unchanged(check, "current")
            return self._update(check, release, manifest, events, progress)
        except EdgeUnavailable as error:
            return self._offline(check, error, events)
        except DeviceError as error:
            self._report_error(check, error, events)
            raise
        except OSError as error:
            failure = disk_error(error)
            self._report_error(check, failure, events)
            raise failure from error

    def _begin(self, model: str, events: EventQueue) -> _Check:
        """Find what serves now, every byte compared: the version in use, the one before, or the bundled one."""
        slots = ModelSlots(self._directory, model)
        usable = slots.usable()
        damaged = slots.damaged(usable)
        check = _Check(model, slots, usable or self._bundled(model))
        if damaged is not None:
            check.damage = _damage(damaged, check.before)
            events.add(
                "error",
                model=model,
                version=damaged,
                from_version=check.version_before,
                error=f"{check.damage.code}: {check.damage}",
                duration_ms=check.milliseconds(),
            )
            # On a disk that takes no change the version before serves all the same, found anew by each check.
            with suppress(OSError):
                slots.fall_back(usable)
        return check

    def _bundled(self, model: str) -> HeldVersion | None:
        """Return what came with the app; without a number when its bytes are not those of its record."""
        found = bundled_version(self._bundle, model)
        if found is None or found.artifact is None or found.is_intact():
            return found
        return replace(found, version=None, artifact=None)

    def _verified_manifest(self) -> VerifiedManifest:
        """Ask for the manifest with the ETag of the kept one; believe what verifies, and only keep that."""
        kept = self._manifest_file.read()
        answer = self._edge.manifest(kept.etag if kept else None)
        if answer is None and kept is not None:
            # Not only a new manifest is verified: one that stays the same for too long has expired.
            try:
                return self._trust.verify(kept.body)
            except ManifestRejected as rejected:
                answer = self._asked_again(rejected)
        if answer is None:
            raise EdgeUnavailable("The edge says that a manifest has not changed that this device never had.")
        manifest = self._trust.verify(answer.body)
        self._manifest_file.write(answer)
        return manifest

    def _asked_again(self, rejected: ManifestRejected) -> ManifestAnswer:
        """Ask for the whole manifest, once: what is kept may be damaged. Without an answer it stays rejected."""
        try:
            answer = self._edge.manifest(None)
        except EdgeUnavailable:
            answer = None
        if answer is None:
            raise rejected
        return answer

    def _update(
        self, check: _Check, release: Release, manifest: VerifiedManifest, events: EventQueue, progress: Progress | None
    ) -> SyncResult:
        slots = check.slots
        slots.prepare(encoding.blob for encoding in release.encodings)
        new, obtained = self._whole_again(slots, release), Obtained(Path(), None, 0)
        if new is None:
            obtained = self._obtain(check, release, manifest, events, progress)
            staged, info = unpack(obtained, release, slots.work)
            events.add("verify", **self._about(check, release), duration_ms=check.milliseconds())
            new = slots.keep(staged, release.version, info)
        slots.activate(new, check.before)
        events.add("activate", **self._about(check, release), duration_ms=check.milliseconds())
        self._clean(check, events)
        return SyncResult(
            model=check.model,
            version=new.version,
            previous=check.version_before,
            status="updated",
            encoding=obtained.encoding,
            bytes=obtained.received,
            full_bytes=full_length(release),
            path=new.path,
            detail=_sentence(check.damage),
        )

    def _clean(self, check: _Check, events: EventQueue) -> None:
        """Remove what is needed no more. What the disk does not let go of is reported; the version in use is fine."""
        try:
            check.slots.clean()
        except OSError as error:
            self._report_error(check, disk_error(error), events)

    def _whole_again(self, slots: ModelSlots, release: Release) -> HeldVersion | None:
        """Return the release when it is still on the device, from before a roll-back or a kill, every byte compared."""
        held = (each for each in slots.held() if each.is_release(release.version, release.artifact))
        return next((each for each in held if each.is_intact()), None)

    def _obtain(
        self, check: _Check, release: Release, manifest: VerifiedManifest, events: EventQueue, progress: Progress | None
    ) -> Obtained:
        bundled = bundled_version(self._bundle, check.model)
        held = [*check.slots.held(), *([bundled] if bundled else [])]
        obtaining = Obtaining(release, manifest.target(release), held, check.slots.work, self._patch_limits)
        try:
            obtained = obtaining.run(self._edge, self._retry, progress)
        finally:
            for failure in obtaining.failures:
                events.add("error", **self._about(check, release), error=f"encoding_failed: {failure}")
        events.add(
            "download",
            **self._about(check, release),
            bytes=obtained.received,
            full_bytes=full_length(release),
            encoding=obtained.encoding,
            duration_ms=check.milliseconds(),
        )
        return obtained

    # --- what it came to

    def _unchanged(self, check: _Check, status: Status, why: EdgeUnavailable | None = None) -> SyncResult:
        path = check.before.path if check.before else None
        version = check.version_before
        return SyncResult(check.model, version, version, status, path=path, detail=_sentence(check.damage, why))

    def _offline(self, check: _Check, error: EdgeUnavailable, events: EventQueue) -> SyncResult:
        """Serve what is held. A check that reached nobody is no failure; a download that stopped is one."""
        if check.wanted is not None:
            self._report_error(check, error, events)
        if check.before is None:
            raise error
        return self._unchanged(check, "offline", error)

    @staticmethod
    def _about(check: _Check, release: Release) -> dict[str, Any]:
        return {"model": check.model, "version": release.version, "from_version": check.version_before}

    @staticmethod
    def _report_error(check: _Check, error: DeviceError, events: EventQueue) -> None:
        events.add(
            "error",
            model=check.model,
            version=check.wanted.version if check.wanted else None,
            from_version=check.version_before,
            error=f"{error.code}: {error}",
            duration_ms=check.milliseconds(),
        )

    def _events(self) -> EventQueue:
        common = {"device_id": self.device_id, **self._facts.reported()}
        return EventQueue(self._state / EVENTS_FOLDER, common)

    def _report(self, events: EventQueue) -> None:
        """Hand over what has happened. What the edge does not take now stays for the next time.

        Nothing that goes wrong here changes what the check came to.
        """
        # Each by itself: an edge without its Redis takes no registration, and takes events.
        with suppress(DeviceError, OSError):
            events.deliver(self._edge)
        with suppress(DeviceError, OSError):
            self._registration.renew_if_changed(self._edge, self.device_id)


def _damage(version: int, serving: HeldVersion | None) -> VersionDamaged:
    number = f"version {serving.version}" if serving and serving.version is not None else "the bundled version"
    serves = f"{number} serves" if serving else "there is no other"
    return VersionDamaged(f"The files of version {version} on this device are damaged; {serves}.")


def _sentence(*said: DeviceError | None) -> str | None:
    return " ".join(str(each) for each in said if each is not None) or None
