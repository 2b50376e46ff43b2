"""The tools that are measured, each at the settings that its experts would choose for models.

A tool may have several candidates for its settings: all make a patch, and the smallest counts.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

from artifacts.hashing import hash_file
from bench.patches.places import BENCH_PYTHON, ROOT

__all__ = ["OURS", "PEERS", "ZLIB_ALONE", "Call", "Family", "Peer", "Setting"]

# What a peer is to the goals: a general tool for binary differences, one that knows numbers, one without a base, or
# what bounds all of them and makes no patches itself.
Family = Literal["ours", "general", "numbers", "full", "bound"]

Setting = tuple[str, ...]

# xdelta3 lays the old file out in windows; with one that holds all of it, it finds what moved far.
_MIN_SOURCE_WINDOW = 64 << 20
# An input window as large as it allows (XD3_HARDMAXWINSIZE).
_INPUT_WINDOW = 8 << 20
# A window of 128 MiB, wider than any pair.
_ZSTD_LONG = "--long=27"

# Three times what zipnn's search takes for the largest pair on a core that others use as well.
CHOICE_SECONDS = 300


@dataclass(frozen=True, slots=True)
class Call:
    """A command to measure.

    Attributes:
        command: the program and its arguments.
        reports: it tells itself, in its last line, what the work alone took.
    """

    command: tuple[str, ...]
    reports: bool = False


@dataclass(frozen=True, slots=True)
class Peer:
    """A tool.

    Attributes:
        name: in the tables.
        family: what it is to the goals.
        settings: the candidates for an old and a new file.
        encode: makes the command that writes a patch, from setting, old, new and patch.
        decode: makes the command that applies it, from setting, old, patch and new.
        version: which release of it is installed; empty if none is.
    """

    name: str
    family: Family
    settings: Callable[[Path, Path], Sequence[Setting]]
    encode: Callable[[Setting, Path, Path, Path], Call]
    decode: Callable[[Setting, Path, Path, Path], Call]
    version: Callable[[], str]


def _fixed(*settings: Setting) -> Callable[[Path, Path], Sequence[Setting]]:
    return lambda _old, _new: settings


# ---- programs


def _program_version(name: str, option: str) -> Callable[[], str]:
    def version() -> str:
        if shutil.which(name) is None:
            return ""
        done = subprocess.run([name, option], capture_output=True, text=True, check=False)
        words = (done.stdout or done.stderr).split()
        return next((word.strip("v,") for word in words if word.strip("v,")[:1].isdigit()), "unknown")

    return version


def _xdelta3() -> Peer:
    def encode(setting: Setting, old: Path, new: Path, patch: Path) -> Call:
        source = max(_MIN_SOURCE_WINDOW, 1 << (old.stat().st_size - 1).bit_length())
        options = ("-e", "-f", "-9", "-S", *setting, "-B", str(source), "-W", str(_INPUT_WINDOW), "-I", "0")
        return Call(("xdelta3", *options, "-s", str(old), str(new), str(patch)))

    def decode(_setting: Setting, old: Path, patch: Path, new: Path) -> Call:
        source = max(_MIN_SOURCE_WINDOW, 1 << (old.stat().st_size - 1).bit_length())
        return Call(("xdelta3", "-d", "-f", "-B", str(source), "-s", str(old), str(patch), str(new)))

    candidates = _fixed(("lzma",), ("djw",), ("none",))
    return Peer("xdelta3", "general", candidates, encode, decode, _program_version("xdelta3", "-V"))


def _zstd_patch(name: str, *options: str) -> Peer:
    def encode(setting: Setting, old: Path, new: Path, patch: Path) -> Call:
        return Call(("zstd", "-q", "-f", *setting, f"--patch-from={old}", str(new), "-o", str(patch)))

    def decode(_setting: Setting, old: Path, patch: Path, new: Path) -> Call:
        return Call(("zstd", "-q", "-f", "-d", _ZSTD_LONG, f"--patch-from={old}", str(patch), "-o", str(new)))

    return Peer(name, "general", _fixed(options), encode, decode, _program_version("zstd", "--version"))


def _zstd_full() -> Peer:
    options = ("--ultra", "-22", _ZSTD_LONG, "--single-thread")

    def encode(setting: Setting, _old: Path, new: Path, patch: Path) -> Call:
        return Call(("zstd", "-q", "-f", *setting, str(new), "-o", str(patch)))

    def decode(_setting: Setting, _old: Path, patch: Path, new: Path) -> Call:
        return Call(("zstd", "-q", "-f", "-d", _ZSTD_LONG, str(patch), "-o", str(new)))

    return Peer("full zstd", "full", _fixed(options), encode, decode, _program_version("zstd", "--version"))


def _xz_full() -> Peer:
    # xz writes where its input is, or to standard output.
    shell = ("sh", "-c", 'out="$1"; shift; exec xz -k -c "$@" >"$out"', "xz")

    def encode(setting: Setting, _old: Path, new: Path, patch: Path) -> Call:
        return Call((*shell, str(patch), *setting, str(new)))

    def decode(_setting: Setting, _old: Path, patch: Path, new: Path) -> Call:
        return Call((*shell, str(new), "-d", "--format=xz", str(patch)))

    # The second knows that numbers have four bytes, which saves up to a tenth on them.
    candidates = _fixed(("-9e",), ("--lzma2=preset=9e,lp=2,lc=2,pb=2",))
    return Peer("full xz", "full", candidates, encode, decode, _program_version("xz", "--version"))


# ---- libraries


def _library(codec: str, python: Path) -> tuple[Callable[..., Call], Callable[..., Call]]:
    def call(action: str) -> Callable[..., Call]:
        start = (str(python), "-m", "bench.patches.libraries", codec, action)
        return lambda setting, *paths: Call((*start, *map(str, paths), *setting), reports=True)

    return call("encode"), call("decode")


def _library_version(distribution: str, python: Path) -> Callable[[], str]:
    program = f"from importlib.metadata import version; print(version({distribution!r}))"

    def version() -> str:
        if not python.is_file():
            return ""
        done = subprocess.run([str(python), "-c", program], capture_output=True, text=True, check=False)
        return done.stdout.strip()

    return version


def _bsdiff4() -> Peer:
    encode, decode = _library("bsdiff4", BENCH_PYTHON)
    return Peer("bsdiff4", "general", _fixed(()), encode, decode, _library_version("bsdiff4", BENCH_PYTHON))


def _hdiffpatch(compressor: str) -> Peer:
    encode, decode = _library("hdiffpatch", BENCH_PYTHON)
    version = _library_version("hdiffpatch", BENCH_PYTHON)
    candidates = _fixed((compressor, "full"), (compressor, "lite"))
    return Peer(f"HDiffPatch {compressor}", "general", candidates, encode, decode, version)


def _zipnn() -> Peer:
    encode, decode = _library("zipnn", BENCH_PYTHON)

    def best(old: Path, new: Path) -> Sequence[Setting]:
        # It is quick and has many settings: one process tries them all, and only the best is measured.
        command = [str(BENCH_PYTHON), "-m", "bench.patches.libraries", "zipnn", "choose", str(old), str(new)]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=CHOICE_SECONDS, check=True)
        return [tuple(json.loads(done.stdout))]

    return Peer("zipnn", "numbers", best, encode, decode, _library_version("zipnn", BENCH_PYTHON))


def _ours(encoding: str) -> Peer:
    encode, decode = _library(encoding, Path(sys.executable))
    module = "artifacts.patch.zstd_prefix" if encoding == "zstd-prefix" else "artifacts.patch.encode"

    def promised(_old: Path, new: Path) -> Sequence[Setting]:
        # What a manifest promises to a device; the encoder has no use for it.
        sha256, length = hash_file(new)
        return [(str(length), sha256)]

    def version() -> str:
        return "of this checkout" if find_spec(module) else ""

    return Peer(encoding, "ours", promised, encode, decode, version)


def _zlib_alone() -> Peer:
    encode, decode = _library("zlib-alone", Path(sys.executable))
    return Peer("zlib alone", "bound", _fixed(()), encode, decode, lambda: zlib.ZLIB_RUNTIME_VERSION)


# Of zips, whose members a decoder inflates and deflates.
ZLIB_ALONE = _zlib_alone()

OURS = (_ours("skafos-delta"), _ours("skafos-delta zstd-only"), _ours("zstd-prefix"))

PEERS = (
    _xdelta3(),
    _bsdiff4(),
    _hdiffpatch("zstd"),
    _hdiffpatch("lzma2"),
    _zstd_patch("zstd -19", "-19", _ZSTD_LONG),
    _zstd_patch("zstd -22", "--ultra", "-22", _ZSTD_LONG, "--single-thread"),
    _zipnn(),
    _zstd_full(),
    _xz_full(),
)
