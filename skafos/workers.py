"""`skafos edge --workers N`: edge processes that share one port, started again when they die, ended together.

The kernel spreads connections over them (SO_REUSEPORT). Each has a name, and with it a directory and a port for health
and metrics, of its own; what they log goes to ``SKAFOS_EDGE_DATA/logs``.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Mapping
from pathlib import Path

from skafos.configuration import MAX_PORT
from skafos.exceptions import InvalidParamError
from skafos.installation import Address, python, source_directory
from skafos.supervise import Program, Supervisor

DATA_VARIABLE = "SKAFOS_EDGE_DATA"
METRICS_VARIABLE = "SKAFOS_EDGE_METRICS_LISTEN"
DEFAULT_METRICS = "127.0.0.1:8811"
# As long as an edge takes to finish its requests, and a little more.
STOP_SECONDS = 25.0


def run_edges(workers: int) -> int:
    """Run that many edges until SIGINT or SIGTERM, and return the exit code.

    Raises:
        InvalidParamError: the settings do not say where an edge keeps its data, or its metrics' address is none.
    """
    programs = [edge_program(number, os.environ) for number in range(workers)]
    for program in programs:
        program.log.parent.mkdir(parents=True, exist_ok=True)
    asyncio.run(_supervise(programs))
    return 0


def edge_program(number: int, settings: Mapping[str, str]) -> Program:
    """Return edge ``number``: the settings as given, with a name and a metrics port of its own."""
    if not settings.get(DATA_VARIABLE):
        raise InvalidParamError(f"Set {DATA_VARIABLE} to the directory where edges keep what they cache.")
    metrics = _metrics_address(number, settings.get(METRICS_VARIABLE) or DEFAULT_METRICS)
    name = f"edge-{number}"
    environment = {
        **settings,
        "PYTHONPATH": os.pathsep.join(filter(None, [source_directory(), settings.get("PYTHONPATH", "")])),
        "SKAFOS_EDGE_NAME": str(number),
        METRICS_VARIABLE: str(metrics),
    }
    log = Path(settings[DATA_VARIABLE]).absolute() / "logs" / f"{name}.log"
    return Program(name, python("edge"), environment, Path.cwd(), log)


def _metrics_address(number: int, text: str) -> Address:
    try:
        first = Address.parse(text)
    except ValueError as error:
        raise InvalidParamError(f"{METRICS_VARIABLE}: {error}.") from None
    port = first.port + number if first.port else 0
    if port > MAX_PORT:
        raise InvalidParamError(
            f"{METRICS_VARIABLE}: edge {number} would listen on port {port}; the last is {MAX_PORT}."
        )
    return Address(first.host, port)


async def _supervise(programs: list[Program]) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    supervisor = Supervisor(report=lambda sentence: print(sentence, file=sys.stderr, flush=True))
    try:
        for program in programs:
            supervisor.start(program)
        await stop.wait()
    finally:
        await supervisor.stop(STOP_SECONDS)
