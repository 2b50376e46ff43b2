"""The push server of the tests as a process: ``python -m bench.push.server FOLDER DELAY`` until its input ends.

It writes where it listens, whom to trust and what to sign with into ``server.json``, and what it counted to its output.
"""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path

import uvloop
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from tests.control_plane.push.certificates import BUNDLE_ID, make_pair, server_context
from tests.control_plane.push.conftest import KEY_ID, TEAM_ID
from tests.servers.apns import ApnsServer, Behaviour, SigningKey, running_apns


async def serve(folder: Path, delay: float) -> None:
    """Serve until nobody writes to us any more."""
    pair = make_pair(topic=None, servers=(), address="127.0.0.1")
    key = ec.generate_private_key(ec.SECP256R1())
    keys = {KEY_ID: SigningKey(TEAM_ID, key.public_key())}
    server = ApnsServer(frozenset([BUNDLE_ID]), keys, Behaviour(delay=delay, max_streams=1000), keep=False)
    async with running_apns(server, server_context(pair)):
        (folder / "authority.pem").write_bytes(pair.certificate_pem)
        pem = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        told = {"port": server.port, "key": pem.decode(), "key_id": KEY_ID, "team_id": TEAM_ID, "bundle_id": BUNDLE_ID}
        fresh = folder / "server.json.new"
        fresh.write_text(json.dumps(told))
        fresh.rename(folder / "server.json")
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    print(json.dumps({"accepted": server.accepted_count, "refused": dict(server.reasons)}))


if __name__ == "__main__":
    uvloop.run(serve(Path(sys.argv[1]), float(sys.argv[2])))
