"""A push whose worker is killed at random moments reaches every device, and sends no more than a slice twice each time.

``make test-kills KILLS=50`` kills it as often as that.
"""

from __future__ import annotations

import asyncio
import os
import random
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from sqlalchemy import insert

from control_plane.database import Database
from control_plane.push import jobs
from control_plane.push.vault import Upload, Vault
from control_plane.sealing import MasterKeys
from control_plane.tables import Device, PushJob
from tests.control_plane.push.certificates import BUNDLE_ID
from tests.control_plane.push.conftest import KEY_ID, TEAM_ID
from tests.control_plane.push.sending_process import SLICE_DEVICES
from tests.control_plane.push.serving import in_thread
from tests.control_plane.world import open_world
from tests.servers.apns import ApnsServer, Behaviour, SigningKey

KILLS = int(os.environ.get("SKAFOS_TEST_KILLS") or "3")
SEED = int(os.environ.get("SKAFOS_TEST_SEED") or "1")
DEVICES_A_KILL = 150
START_SECONDS = 60.0


@pytest.mark.timeout(300 + 20 * KILLS)
def test_no_device_is_left_out_whenever_the_worker_is_killed(tmp_path: Path) -> None:
    devices = DEVICES_A_KILL * (KILLS + 1)
    key = ec.generate_private_key(ec.SECP256R1())
    keys = {KEY_ID: SigningKey(TEAM_ID, key.public_key())}
    server = ApnsServer(frozenset([BUNDLE_ID]), keys, Behaviour(delay=0.01))
    url = f"sqlite:///{tmp_path / 'test.sqlite3'}"
    numbers = random.Random(SEED)
    with in_thread(tmp_path, server):
        job_id = asyncio.run(begin(tmp_path, url, key, devices))
        module = "tests.control_plane.push.sending_process"
        command = [sys.executable, "-m", module, url, str(server.port), str(tmp_path)]
        for _ in range(KILLS):
            before = server.accepted_count
            process = subprocess.Popen(command)
            deadline = time.monotonic() + START_SECONDS
            while server.accepted_count == before and process.poll() is None:
                assert time.monotonic() < deadline
                time.sleep(0.001)
            time.sleep(numbers.random() * 0.15)
            process.kill()
            process.wait()
        subprocess.run(command, check=True, timeout=START_SECONDS + devices / 50)
    job = asyncio.run(read(url, job_id))
    sent = Counter(int(push.device_token, 16) for push in server.accepted)
    twice = sum(count - 1 for count in sent.values())
    assert (job.state, job.targeted, job.accepted) == (jobs.FINISHED, devices, devices)
    assert sorted(sent) == list(range(devices))
    assert twice <= KILLS * SLICE_DEVICES


async def begin(folder: Path, url: str, key: ec.EllipticCurvePrivateKey, devices: int) -> str:
    """Register devices, store a key and add a job; return its id."""
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    async with open_world(folder, url) as world:
        vault = Vault(world.database, MasterKeys(folder / "master-keys"))
        rows = [
            {
                "environment_id": world.prod.id,
                "device_id": f"device-{number:06d}",
                "facts": {},
                "push_token": f"{number:064x}",
                "push_service": jobs.APPLE,
            }
            for number in range(devices)
        ]
        job = PushJob(environment_id=world.prod.id, model_id=world.model.id, version=1, sandbox=False)
        async with world.database.write() as session:
            await vault.store(session, world.prod, "apns", Upload("key", pem, KEY_ID, TEAM_ID), None)
            await session.execute(insert(Device), rows)
            await jobs.begin(session, job)
        return job.id


async def read(url: str, job_id: str) -> PushJob:
    """Return a job as it is now."""
    database = Database(url)
    async with database.read() as session:
        job = await session.get_one(PushJob, job_id)
    await database.close()
    return job
