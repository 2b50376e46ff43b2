"""Who ships which segments: claims that hold on any file system that several hosts can share.

A shipper that takes segments gives them a batch's name, by a rename each: who renames has it, and nobody else. The file
``.claims/<batch>.<shipper>.batch`` says whose the batch is. Its members never change, so whoever ships it, in this
process or after a crash, inserts the same events under the same id. When they are in, the file is renamed to ``.done``,
and only then are the segments removed.

::

    <writer>/<segment>.ready            free
    <writer>/<segment>.<batch>.ready    taken; its bytes count for the writer's bound as before
    .claims/<shipper>.shipper           a shipper's sign of life, touched every BEAT_SECONDS
    .claims/<batch>.<shipper>.batch     whose the batch is; renamed when another shipper takes it over
    .claims/<batch>.<shipper>.done      inserted; the segments that are left only wait to be removed

A shipper is dead when its process is (looked up on the same host), when it signed off, or when it gave no sign for
``LEASE_SECONDS``, by the watch of whoever looks: hosts' clocks need not agree. A rename of the batch's file, from the
name with the dead shipper, takes it over, so there is one heir. A shipper that was only held up finds its file gone,
before it inserts and before it removes anything.
"""

from __future__ import annotations

import os
import re
import secrets
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec

from telemetry.spool_directory import DISK_FULL, READY_SUFFIX, ready_segments
from telemetry.writers import writers

CLAIMS: Final = ".claims"
BEAT_SECONDS: Final = 2.0
LEASE_SECONDS: Final = 20.0
"""Ten signs of life that did not come. Less, and a busy disk looks like a death; more, and the events of a host that
burned down on a shared volume come later. On the shipper's own host a death is seen at once."""

_SHIPPER: Final = ".shipper"
_BATCH: Final = ".batch"
_DONE: Final = ".done"
_TAKEN: Final = re.compile(rf"\.([0-9a-f]{{16}}){re.escape(READY_SUFFIX)}\Z")


class ClaimLost(Exception):
    """Another shipper took this one for dead; what it held is not its own any more."""


class _Process(msgspec.Struct, frozen=True):
    """A process, for others on the same host. ``host``: tells hosts apart, and containers with ids of their own."""

    host: str
    pid: int
    started: str

    def is_gone(self, here: _Process) -> bool:
        """Tell whether the process has ended; always False for one of another host."""
        return self.host == here.host and self.started != _started(self.pid)


@dataclass(frozen=True, slots=True)
class Claim:
    """A batch that is this shipper's. ``done``: its events are inserted already, by a shipper that died then.

    Without a ``batch`` nothing is claimed: the disk had no room for that. It is one segment then, whose insert has the
    same id whoever ships it.
    """

    batch: str
    paths: tuple[Path, ...]
    done: bool = False


@dataclass(slots=True)
class _Watched:
    """What was last seen of another shipper: its file's time, and when that was by this process's own clock."""

    beat_ns: int
    seen_at: float


class Claims:
    """One shipper's claims on the spool below ``root``. Every method blocks on the disk."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._folder = root / CLAIMS
        self._name = ""
        self._here = _this_process()
        self._watched: dict[str, _Watched] = {}

    def sign_on(self) -> None:
        """Begin to give signs of life; idempotent."""
        if self._name:
            return
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        name = secrets.token_hex(8)
        hidden = self._folder / f".{name}"
        try:
            hidden.write_bytes(msgspec.json.encode(self._here))
            hidden.rename(self._life(name))
        except OSError:
            hidden.unlink(missing_ok=True)
            raise
        self._name = name

    def beat(self) -> None:
        """Give a sign of life.

        Raises:
            ClaimLost: nobody waits for it any more; the shipper has to sign on anew.
        """
        if self._name:
            try:
                os.utime(self._life(self._name))
            except FileNotFoundError:
                self._name = ""
                raise ClaimLost("another shipper took this one for dead") from None

    def sign_off(self) -> None:
        """Leave what is held to the next shipper, at once."""
        if self._name:
            self._life(self._name).unlink(missing_ok=True)
            self._name = ""

    def take(self, paths: Sequence[Path]) -> Claim:
        """Take free segments; those that somebody else was quicker to take are left out.

        On a full disk it is the first one, unclaimed: shipping is what makes room.

        Args:
            paths: of free segments, at least one.
        """
        batch = secrets.token_hex(8)
        try:
            self.sign_on()
            # The file comes first: members of a batch without one are free.
            self._file(batch).touch(0o600, exist_ok=False)
            return Claim(batch, tuple(taken for path in paths if (taken := self._taken(path, batch)) is not None))
        except OSError as error:
            if error.errno not in DISK_FULL:
                raise
            self.sign_off()  # whatever was taken is looked for again
            return Claim("", (paths[0],))

    def check(self, claim: Claim) -> None:
        """Make sure that a batch is still this shipper's.

        Raises:
            ClaimLost: another one has it.
        """
        if claim.batch and not self._file(claim.batch, _DONE if claim.done else _BATCH).exists():
            raise ClaimLost(f"another shipper has the batch {claim.batch}")

    def finish(self, claim: Claim) -> None:
        """Note that a batch is inserted; its segments may be removed then.

        Raises:
            ClaimLost: another one has it, and will insert it again under the same id.
        """
        if claim.done or not claim.batch:
            return
        try:
            self._file(claim.batch).rename(self._file(claim.batch, _DONE))
        except FileNotFoundError:
            raise ClaimLost(f"another shipper has the batch {claim.batch}") from None

    def forget(self, claim: Claim) -> None:
        """Remove what told of a batch whose segments are gone."""
        if not claim.batch:
            return
        for suffix in (_DONE, _BATCH):
            self._file(claim.batch, suffix).unlink(missing_ok=True)

    def inherit(self) -> list[Claim]:
        """Take over the batches of dead shippers, and set free what belongs to no batch."""
        try:
            self.sign_on()
        except OSError as error:
            if error.errno in DISK_FULL:
                return []
            raise
        members = self._members()  # before the batches: a batch whose members are seen was there before
        batches = [path for path in self._folder.iterdir() if path.suffix in (_BATCH, _DONE)]
        known = {path.name.partition(".")[0] for path in batches}
        for batch in members.keys() - known:
            for path in members[batch]:
                _rename(path, free_path(path))
        names = {_owner(path) for path in batches} | {path.stem for path in self._folder.glob(f"[!.]*{_SHIPPER}")}
        dead = {name for name in names - {self._name} if self._is_dead(name)}
        heirs = [
            Claim(batch, tuple(members[batch]), path.suffix == _DONE)
            for path in batches
            if _owner(path) in dead and _rename(path, self._file(batch := path.name.partition(".")[0], path.suffix))
        ]
        for name in dead:
            self._life(name).unlink(missing_ok=True)
            self._watched.pop(name, None)
        return heirs

    def _is_dead(self, name: str) -> bool:
        try:
            with self._life(name).open("rb") as file:  # opened, so that NFS asks its server for the time
                beat_ns, process = os.fstat(file.fileno()).st_mtime_ns, msgspec.json.decode(file.read(), type=_Process)
        except FileNotFoundError:
            return True  # it signed off
        except msgspec.DecodeError:
            process = None  # of another version
        now = time.monotonic()
        seen = self._watched.get(name)
        if seen is None or seen.beat_ns != beat_ns:
            self._watched[name] = seen = _Watched(beat_ns, now)
        return now - seen.seen_at > LEASE_SECONDS or (process is not None and process.is_gone(self._here))

    def _members(self) -> dict[str, list[Path]]:
        members: dict[str, list[Path]] = defaultdict(list)
        for writer in writers(self._root):
            for path in ready_segments(writer):
                if batch := batch_of(path):
                    members[batch].append(path)
        return members

    def _taken(self, path: Path, batch: str) -> Path | None:
        taken = path.with_name(f"{path.name.removesuffix(READY_SUFFIX)}.{batch}{READY_SUFFIX}")
        return taken if _rename(path, taken) else None

    def _life(self, name: str) -> Path:
        return self._folder / f"{name}{_SHIPPER}"

    def _file(self, batch: str, suffix: str = _BATCH) -> Path:
        return self._folder / f"{batch}.{self._name}{suffix}"


def batch_of(path: Path) -> str:
    """Return the batch that a waiting segment belongs to, or nothing when it is free."""
    match = _TAKEN.search(path.name)
    return match.group(1) if match else ""


def free_path(path: Path) -> Path:
    """Return where a waiting segment lies, or lay, when it belongs to no batch."""
    return path.with_name(_TAKEN.sub(READY_SUFFIX, path.name))


def _owner(batch_file: Path) -> str:
    return batch_file.stem.partition(".")[2]


def _rename(path: Path, to: Path) -> bool:
    """Tell whether it was this call that renamed the file."""
    try:
        path.rename(to)
    except FileNotFoundError:
        return False
    return True


def _this_process() -> _Process:
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        # Containers of one host have process ids of their own, and users may be kept from seeing others' processes.
        host = f"{boot} {Path('/proc/self/ns/pid').readlink()} {os.getuid()}"
    except OSError:
        return _Process(secrets.token_hex(8), os.getpid(), "")  # elsewhere than on Linux there is the lease alone
    return _Process(host, os.getpid(), _started(os.getpid()))


def _started(pid: int) -> str:
    """Return when a process of this host was started, in ticks since the boot; nothing when it has ended (proc(5))."""
    try:
        _, _, after_name = Path(f"/proc/{pid}/stat").read_text("utf-8", "replace").rpartition(") ")
    except OSError:
        return ""
    fields = after_name.split()
    return "" if fields[0] in "ZX" else fields[19]
