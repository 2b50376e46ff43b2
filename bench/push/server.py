"""The push server of the tests as a process: ``python -m bench.push.server FOLDER DELAY`` until it is ended.

It writes where it listens, whom to trust and what to sign with into ``server.json``.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import uvloop
from cryptography.hazmat.primitives.asymmetric import ec

from bench.push.told import tell
from tests.control_plane.push.certificates import BUNDLE_ID, make_pair, server_context
from tests.control_plane.push.conftest import KEY_ID, TEAM_ID
from tests.servers.apns import ApnsServer, Behaviour, SigningKey
from tests.servers.http2 import running


async def serve(folder: Path, delay: float) -> None:
    """Serve until the process is ended."""
    pair = make_pair(topic=None, servers=(), address="127.0.0.1")
    key = ec.generate_private_key(ec.SECP256R1())
    keys = {KEY_ID: SigningKey(TEAM_ID, key.public_key())}
    server = ApnsServer(frozenset([BUNDLE_ID]), keys, Behaviour(delay=delay, max_streams=1000), keep=False)
    async with running(server, server_context(pair)):
        tell(folder, server.port, pair.certificate_pem, key)
        await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(serve(Path(sys.argv[1]), float(sys.argv[2])))
