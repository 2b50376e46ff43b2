"""Sizes and times of a whole Skafos on this machine: ``python -m bench.sizes`` (or ``make bench``).

It starts `skafos up` in a temporary directory as a user would, measures, prints a table, and with ``--write FILE``
replaces the generated section of that file. ``--setup`` also measures the set-up of `make run` on a clone without
anything installed, which downloads all dependencies and the demonstration's models.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import httpx
import numpy as np
import psutil  # type: ignore[import-untyped]

from bench.corpus import model_path
from bench.finetune import finetuned
from bench.markdown import table, verdict, write_section
from bench.processes import MB, AtRest, Growth, watched_growth
from skafos.client import Client
from tests.command import ROOT
from tests.flows.running import Running, running, until

APP = "Sizes"

# The limits that these figures are held to.
SETUP_LIMIT_SECONDS = 180
SECOND_START_LIMIT_SECONDS = 8
REST_LIMIT_BYTES = 700 * MB
GROWTH_LIMIT_BYTES = 150 * MB
DEPLOY_LIMIT_MS = 100

LARGE_MODEL_BYTES = 500 * MB
DEPLOYS = 50
# Long enough for start-up work to be over and for allocators to have given back what they can.
REST_SECONDS = 15
POLL_SECONDS = 0.001
CHUNK_BYTES = 1 << 20


@dataclass(frozen=True)
class Figure:
    """One measured figure, as it is printed; ``holds`` is None where there is no limit."""

    what: str
    measured: str
    limit: str = ""
    holds: bool | None = None


def main() -> int:
    """Measure, print, write; return 1 if a limit does not hold."""
    options = arguments()
    figures = list(measure(options.setup, options.large_mb * MB))
    text = as_table(figures)
    print(text)
    if options.write:
        write_section(options.write, "figures", text)
    return 1 if any(figure.holds is False for figure in figures) else 0


def arguments() -> argparse.Namespace:
    """Return the command line's options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--setup", action="store_true", help="also time the set-up of an empty clone")
    parser.add_argument("--write", type=Path, metavar="FILE", help="replace the generated section of FILE")
    parser.add_argument("--large-mb", type=int, default=LARGE_MODEL_BYTES // MB, help="size of the large model in MB")
    return parser.parse_args()


def measure(with_setup: bool, large_bytes: int) -> Iterator[Figure]:
    """Yield all figures, telling on standard error what is being measured."""
    with tempfile.TemporaryDirectory(prefix="skafos-sizes-") as name:
        folder = Path(name)
        if with_setup:
            yield from told("set-up on an empty clone", setup_time, folder)
        with running(folder / "data"):
            pass
        began = time.monotonic()
        with running(folder / "data") as skafos:
            yield limited("second start of `skafos up`", time.monotonic() - began, SECOND_START_LIMIT_SECONDS, "s")
            with skafos.client() as client:
                client.create_app(skafos.organization, APP, bundle_id="org.example.sizes", platform="ios")
                yield from told("memory at rest", memory_at_rest, skafos)
                # Before anything else, for memory that was grown once is not given back.
                yield from told("a large model", large_model, skafos, client, folder, large_bytes)
                yield from told("deploy to manifest", deploy_times, skafos, client, folder)
                yield from told("device updates", device_updates, skafos, client, folder)


def told(what: str, function: Callable[..., Iterator[Figure]], *arguments: object) -> Iterator[Figure]:
    """Say what is measured, and yield the figures of ``function``."""
    print(f"measuring {what} …", file=sys.stderr, flush=True)
    yield from function(*arguments)


def limited(what: str, measured: float, limit: float, unit: str) -> Figure:
    """Return a figure in ``unit`` with a limit."""
    return Figure(what, f"{measured:,.1f} {unit}", f"≤ {limit:g} {unit}", measured <= limit)


def setup_time(folder: Path) -> Iterator[Figure]:
    """Time what ``make run`` does before it starts anything, in a fresh clone of this repository."""
    clone = folder / "clone"
    subprocess.run(["git", "clone", "--quiet", str(ROOT), str(clone)], check=True)
    began = time.monotonic()
    quiet = subprocess.DEVNULL
    subprocess.run(["make", "setup", "models"], cwd=clone, check=True, stdout=quiet, stderr=quiet)
    what = "set-up of an empty clone (`make setup models`), packages and models downloaded"
    yield limited(what, time.monotonic() - began, SETUP_LIMIT_SECONDS, "s")


def memory_at_rest(skafos: Running) -> Iterator[Figure]:
    """Measure all processes together while nothing happens."""
    time.sleep(REST_SECONDS)
    rest = AtRest.of(skafos.everything())
    workers = sum(name.startswith("edge") for name in skafos.children())
    what = f"memory at rest, {rest.processes} processes, {workers} of them edge workers"
    yield limited(f"{what}: resident", rest.resident / MB, REST_LIMIT_BYTES / MB, "MB")
    yield Figure(f"{what}: proportional", f"{rest.proportional / MB:,.1f} MB")


def deploy_times(skafos: Running, client: Client, folder: Path) -> Iterator[Figure]:
    """Measure from the sending of a deploy to the first answer of the edge with the new manifest."""
    names = (skafos.organization, APP, "small")
    client.create_model(*names)
    for content in (b"one", b"two"):
        file = folder / "small.bin"
        file.write_bytes(content * 1000)
        client.upload_version(*names, file)
    key = key_of(skafos, client, "dev")
    url = f"{skafos.edge_url}/v2/environments/{key}/manifest"
    with httpx.Client() as http:
        times = []
        for number in range(DEPLOYS):
            etag = http.get(url).headers["etag"]
            began = time.monotonic()
            client.deploy(*names, version=1 + number % 2, environment="dev")
            until_changed(http, url, etag)
            times.append((time.monotonic() - began) * 1000)
            # Patches may become ready after a deploy and change the manifest once more; that is not the next deploy.
            until_quiet(http, url)
    yield limited(
        f"deploy to manifest on the edge, median of {DEPLOYS}", statistics.median(times), DEPLOY_LIMIT_MS, "ms"
    )
    yield Figure("the same, slowest", f"{max(times):,.1f} ms")


def key_of(skafos: Running, client: Client, environment: str) -> str:
    """Return the key of an environment of the app."""
    key = client.get_environment(skafos.organization, APP, environment).key
    assert key is not None
    return key


def until_changed(http: httpx.Client, url: str, etag: str) -> None:
    """Ask the edge until its manifest is another than ``etag``."""
    while http.get(url, headers={"If-None-Match": etag}).status_code == 304:
        time.sleep(POLL_SECONDS)


def until_quiet(http: httpx.Client, url: str, seconds: float = 0.3) -> None:
    """Wait until the manifest has not changed for ``seconds``."""
    etag, since = "", time.monotonic()
    while time.monotonic() - since < seconds:
        answer = http.get(url, headers={"If-None-Match": etag} if etag else {})
        if answer.status_code != 304:
            etag, since = answer.headers["etag"], time.monotonic()
        time.sleep(0.01)


def device_updates(skafos: Running, client: Client, folder: Path) -> Iterator[Figure]:
    """Update one device to a real 10 MB model, in full, and from there to a fine-tuned one, by patch."""
    first = model_path("rapidocr-onnxruntime", "1.3.25", "ch_PP-OCRv4_rec_infer.onnx")
    second = finetuned(first, folder / "finetuned" / first.name)
    names = (skafos.organization, APP, "text-recognition")
    client.create_model(*names)
    for file in (first, second):
        client.upload_version(*names, file)
    key = key_of(skafos, client, "prod")
    manifest = f"{skafos.edge_url}/v2/environments/{key}/manifest"
    for version, way in ((1, "in full"), (2, "by patch")):
        client.deploy(*names, version=version, environment="prod")
        if way == "by patch":
            until(lambda: '"base":' in httpx.get(manifest).text, "the patch")
        began = time.monotonic()
        result = skafos.skafos(
            *("device", "sync", "--edge", skafos.edge_url, "--key", key),
            *("--model", "text-recognition", "--dir", str(folder / "device")),
        )
        seconds = time.monotonic() - began
        size = f"{first.stat().st_size / MB:.1f} MB model"
        yield Figure(f"device update {way}, {size}: bytes downloaded", f"{result['bytes']:,} ({result['encoding']})")
        yield Figure(f"device update {way}, {size}: the whole command", f"{seconds:.2f} s")


def large_model(skafos: Running, client: Client, folder: Path, size: int) -> Iterator[Figure]:
    """Upload, deploy and fetch a model of ``size`` bytes, watching the memory of every process."""
    names = (skafos.organization, APP, "large")
    client.create_model(*names)
    file = write_weights(folder / "large.bin", size)
    label = f"{size // MB} MB model"
    with watched_growth(psutil.Process()) as growth:
        yield timed(f"{label}: upload", lambda: client.upload_version(*names, file))
        yield timed(f"{label}: deploy", lambda: client.deploy(*names, version=1, environment="dev"))
        yield timed(f"{label}: fetch", lambda: client.fetch_version(*names, folder / "fetched.bin", version=1))
        yield timed(f"{label}: update of a device", lambda: sync_large(skafos, client, folder))
    yield from growth_figures(label, growth)


def sync_large(skafos: Running, client: Client, folder: Path) -> None:
    """Let a device fetch the large model, so that the edge serves it too."""
    key = key_of(skafos, client, "dev")
    skafos.skafos(
        "device", "sync", "--edge", skafos.edge_url, "--key", key, "--model", "large", "--dir", str(folder / "l")
    )


def growth_figures(label: str, growth: Growth) -> Iterator[Figure]:
    """Yield how far each process grew that grew by more than a megabyte."""
    name, worst = growth.worst()
    yield limited(
        f"{label}: largest growth of a process ({without_id(name)})", worst / MB, GROWTH_LIMIT_BYTES / MB, "MB"
    )
    for other in sorted(growth.highest, key=growth.of, reverse=True):
        if other != name and growth.of(other) > MB:
            yield Figure(f"{label}: growth of {without_id(other)}", f"{growth.of(other) / MB:,.1f} MB")


def without_id(name: str) -> str:
    """Return a process's name without its id."""
    return name.partition(" (")[0]


def timed(what: str, work: Callable[[], object]) -> Figure:
    """Do ``work`` and return its duration."""
    began = time.monotonic()
    work()
    return Figure(what, f"{time.monotonic() - began:.1f} s")


def write_weights(path: Path, size: int) -> Path:
    """Write ``size`` bytes of normally distributed float32 numbers, which hardly compress, as weights do."""
    numbers = np.random.default_rng(seed=7)
    with path.open("wb") as file:
        while (missing := size - file.tell()) > 0:
            chunk = numbers.standard_normal(CHUNK_BYTES // 4, dtype=np.float32).tobytes()
            file.write(chunk[:missing])
    return path


def as_table(figures: list[Figure]) -> str:
    """Return the figures as a Markdown table, with the date and the machine above it."""
    rows = [(figure.what, figure.measured, figure.limit, verdict(figure.holds)) for figure in figures]
    return f"{machine()}\n\n{table(('what', 'measured', 'limit', ''), rows)}"


def machine() -> str:
    """Return a sentence about when and on what was measured."""
    memory = psutil.virtual_memory().total / 1e9
    return (
        f"Measured on {datetime.now(UTC):%Y-%m-%d} with Python {platform.python_version()} on {os.cpu_count()} cores "
        f"({platform.machine()}), {memory:.0f} GB of memory, {platform.system()}. One run; differences under a third "
        "are noise."
    )


if __name__ == "__main__":
    sys.exit(main())
