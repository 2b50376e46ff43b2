"""Codecs that are Python libraries, each run in a process of its own: ``python -m bench.patches.libraries``.

``… CODEC encode OLD NEW PATCH [SETTING …]`` and ``… CODEC decode OLD PATCH NEW [SETTING …]`` print as JSON what the
call alone took: neither the start of Python nor imports, and of memory only what came on top. ``… CODEC choose OLD
NEW`` prints the best settings of a codec that is quick enough to try them all.

It runs in the environment that has the library: that of the benchmarks for other tools, the product's for our own.
"""

from __future__ import annotations

import ctypes
import gc
import json
import os
import resource
import sys
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

from artifacts.patch.allocator import give_back
from bench.patches.launcher import anonymous_bytes

__all__ = ["LIBRARIES", "Library"]

# A decoder is run so often in one process, and the quickest counts: the first also loads code and files.
DECODE_RUNS = 3
# Bytes that are inflated at a time.
_PIECE_BYTES = 1 << 16
# Missing in the module `mmap` before Python 3.14 (asm-generic/mman-common.h).
MADV_POPULATE_READ = 22


class Library(Protocol):
    """A codec: makes patches and applies them."""

    def encode(self, old: Path, new: Path, patch: Path, setting: Sequence[str]) -> None:
        """Write to ``patch`` what makes ``new`` from ``old``."""

    def decode(self, old: Path, patch: Path, new: Path, setting: Sequence[str]) -> None:
        """Write ``new``, made from ``old`` and ``patch``."""


class Bsdiff4:
    """bsdiff, whose one format is compressed with bzip2 at its best level."""

    def encode(self, old: Path, new: Path, patch: Path, setting: Sequence[str]) -> None:  # noqa: ARG002
        """Write a patch."""
        module = import_module("bsdiff4")
        patch.write_bytes(module.diff(old.read_bytes(), new.read_bytes()))

    def decode(self, old: Path, patch: Path, new: Path, setting: Sequence[str]) -> None:  # noqa: ARG002
        """Apply a patch."""
        module = import_module("bsdiff4")
        new.write_bytes(module.patch(old.read_bytes(), patch.read_bytes()))


class HDiffPatch:
    """HDiffPatch: its ordinary and its lite format, compressed by zstd or lzma2.

    A setting is the compressor, "zstd" or "lzma2", and "lite" or "full".
    """

    # As large as the library lets each be: nothing here is larger than their 128 MiB.
    _WINDOW_LOG = 27

    def encode(self, old: Path, new: Path, patch: Path, setting: Sequence[str]) -> None:
        """Write a patch."""
        module = import_module("hdiffpatch")
        compressor, form = setting
        if compressor == "zstd":
            config = module.ZStdConfig(level=22, window=self._WINDOW_LOG)
        else:
            config = module.Lzma2Config(level=9, window=self._WINDOW_LOG)
        make = module.diff_lite if form == "lite" else module.diff
        patch.write_bytes(make(old.read_bytes(), new.read_bytes(), compression=config, validate=False))

    def decode(self, old: Path, patch: Path, new: Path, setting: Sequence[str]) -> None:
        """Apply a patch."""
        module = import_module("hdiffpatch")
        apply = module.apply_lite if setting[1] == "lite" else module.apply
        new.write_bytes(apply(old.read_bytes(), patch.read_bytes()))


class ZipNN:
    """ZipNN: XOR against the base, byte planes, Huffman codes.

    It wants both files equally long and whole elements, so the base is cut or filled with zeros, at its end or its
    start, and up to three bytes at either end of the file are sent as they are: so that numbers which do not begin at a
    multiple of their size are taken apart rightly. A setting is the type of the numbers, the size of its chunks,
    at which end the files are aligned ("start", "end", or "none" for no base at all) and how many bytes come first.
    """

    _TYPES = ("float32", "bfloat16", "float16", "float8_e4m3fn")
    _CHUNKS = (16 << 10, 32 << 10, 64 << 10, 128 << 10)
    # Planes are kept as they are only where coding gains nothing, rather than less than a twentieth.
    _THRESHOLD = 1.0
    _ELEMENT = 4

    def choose(self, old: Path, new: Path) -> list[str]:
        """Return the setting that makes the smallest patch: first the best but for the chunks, then their size."""
        before, after = old.read_bytes(), new.read_bytes()

        def size(setting: tuple[str, str, str, str]) -> int:
            return len(self._packed(before, after, setting))

        kind, _, end, first = min(self._settings(before, after), key=size)
        best: tuple[str, str, str, str] = min(((kind, f"{chunk}", end, first) for chunk in self._CHUNKS), key=size)
        return list(best)

    def encode(self, old: Path, new: Path, patch: Path, setting: Sequence[str]) -> None:
        """Write a patch: the first bytes, the last ones, their number, and what ZipNN made of the rest."""
        patch.write_bytes(self._packed(old.read_bytes(), new.read_bytes(), setting))

    def decode(self, old: Path, patch: Path, new: Path, setting: Sequence[str]) -> None:
        """Apply a patch."""
        content = patch.read_bytes()
        first, last = int(setting[3]), content[0]
        head, tail, packed = content[1 : 1 + first], content[1 + first :][:last], content[1 + first + last :]
        # The length of the result stands in its header.
        length = int.from_bytes(packed[16:24], "little")
        base = self._aligned(old.read_bytes(), first + length + last, setting[2])
        new.write_bytes(head + bytes(self._unpack(packed, base[first : first + length], setting)) + tail)

    def _settings(self, old: bytes, new: bytes) -> Iterator[tuple[str, str, str, str]]:
        ends = ("start", "none") if len(old) == len(new) else ("start", "end", "none")
        for kind in self._TYPES:
            for end in ends:
                for first in range({"float32": 4, "float8_e4m3fn": 1}.get(kind, 2)):
                    yield kind, f"{self._CHUNKS[-1]}", end, f"{first}"

    def _packed(self, old: bytes, new: bytes, setting: Sequence[str]) -> bytes:
        first = int(setting[3])
        last = (len(new) - first) % self._ELEMENT
        middle = slice(first, len(new) - last)
        codec = self._codec(setting)
        base = None if setting[2] == "none" else bytearray(self._aligned(old, len(new), setting[2])[middle])
        packed = codec.compress(bytearray(new[middle]), delta_second_data=base)
        return bytes([last]) + new[:first] + new[len(new) - last :] + bytes(packed)

    def _unpack(self, packed: bytes, base: bytes, setting: Sequence[str]) -> bytes:
        second = None if setting[2] == "none" else bytearray(base)
        return bytes(self._codec(setting).decompress(bytearray(packed), delta_second_data=second))

    def _codec(self, setting: Sequence[str]) -> Any:
        return import_module("zipnn").ZipNN(
            bytearray_dtype=setting[0],
            delta_compressed_type=0 if setting[2] == "none" else "byte",
            threads=1,
            compression_chunk=int(setting[1]),
            compression_threshold=self._THRESHOLD,
        )

    def _aligned(self, old: bytes, length: int, end: str) -> bytes:
        if end == "end":
            return old[-length:].rjust(length, b"\0")
        return old[:length].ljust(length, b"\0")


@dataclass(frozen=True, slots=True)
class OurEncoding:
    """One of our encodings. A setting is what a manifest promises: the length of the new file and its hash.

    Attributes:
        encoder: the module that makes patches.
        make: the name of the function in it that does.
        decoder: the module that applies them.
        options: further arguments of the function that makes patches.
    """

    encoder: str
    make: str
    decoder: str
    options: Mapping[str, Any] = field(default_factory=dict)

    def encode(self, old: Path, new: Path, patch: Path, setting: Sequence[str]) -> None:  # noqa: ARG002
        """Write a patch."""
        getattr(import_module(self.encoder), self.make)(old, new, patch, **self.options)

    def decode(self, old: Path, patch: Path, new: Path, setting: Sequence[str]) -> None:
        """Apply a patch."""
        import_module(self.decoder).apply_patch(old, patch, new, length=int(setting[0]), sha256=setting[1])


class ZlibAlone:
    """What every decoder of a zip does at least: inflate the members of the base, and deflate those of the target.

    Its patch is the target with what its members inflate to, so that decoding is zlib's work and hardly any other: how
    quickly it is done is the bound of every decoder on that machine.
    """

    def encode(self, old: Path, new: Path, patch: Path, setting: Sequence[str]) -> None:  # noqa: ARG002
        """Write the places of the base's members, and the target's with zlib's settings; then the target's bytes."""
        opened, search = (
            getattr(import_module(f"artifacts.patch.{module}"), name)
            for module, name in (("opened", "opened"), ("containers", "DeflationSearch"))
        )
        with opened(old) as base, opened(new) as target, patch.open("wb") as sink:
            known = [(one.offset, one.deflated_length) for one in base.unpacked.deflated]
            streams = target.unpacked.deflated
            settings = list(map(search(target.unpacked).settings, streams))
            if not streams or None in settings:
                raise ValueError("no zip whose members zlib makes again")
            made = [
                (one.offset, one.deflated_length, one.length, astuple(how))
                for one, how in zip(streams, settings, strict=True)
            ]
            sink.write(json.dumps([known, made]).encode() + b"\n")
            sink.write(target.content)

    def decode(self, old: Path, patch: Path, new: Path, setting: Sequence[str]) -> None:  # noqa: ARG002
        """Inflate the base's members, and write the target."""
        deflation = import_module("artifacts.patch.deflation").Deflation
        head, content = patch.read_bytes().split(b"\n", 1)
        known, made = json.loads(head)
        base, target = memoryview(old.read_bytes()), memoryview(content)
        for offset, length in known:
            inflater = zlib.decompressobj(-zlib.MAX_WBITS)
            for at in range(offset, offset + length, _PIECE_BYTES):
                inflater.decompress(base[at : min(at + _PIECE_BYTES, offset + length)])
        at, raw_at = 0, len(content) - sum(length for _, _, length, _ in made)
        end = raw_at
        with new.open("wb") as sink:
            for offset, deflated_length, length, how in made:
                sink.write(target[at:offset])
                for piece in deflation(*how).pieces(target[raw_at : raw_at + length]):
                    sink.write(piece)
                at, raw_at = offset + deflated_length, raw_at + length
            sink.write(target[at:end])


LIBRARIES: dict[str, Library] = {
    "bsdiff4": Bsdiff4(),
    "hdiffpatch": HDiffPatch(),
    "zipnn": ZipNN(),
    "zstd-prefix": OurEncoding("artifacts.patch.zstd_prefix", "make_patch", "artifacts.patch.zstd_prefix"),
    "skafos-delta": OurEncoding("artifacts.patch.encode", "encode_patch", "artifacts.patch.apply"),
    "skafos-delta zstd-only": OurEncoding(
        "artifacts.patch.encode", "encode_patch", "artifacts.patch.apply", {"zstd_only": True}
    ),
    "zlib-alone": ZlibAlone(),
}

_MODULES = {
    "bsdiff4": ["bsdiff4"],
    "hdiffpatch": ["hdiffpatch"],
    "zipnn": ["zipnn"],
    "zstd-prefix": ["artifacts.patch.zstd_prefix"],
    "skafos-delta": ["artifacts.patch.encode", "artifacts.patch.apply"],
    "skafos-delta zstd-only": ["artifacts.patch.encode", "artifacts.patch.apply"],
    "zlib-alone": ["artifacts.patch.opened", "artifacts.patch.containers", "artifacts.patch.deflation"],
}


def main() -> int:
    """Do what the command line says; return the exit code."""
    name, action, old, *words = sys.argv[1:]
    library = LIBRARIES[name]
    for module in _MODULES[name]:
        import_module(module)
    if action == "choose":
        assert isinstance(library, ZipNN)
        print(json.dumps(library.choose(Path(old), Path(words[0]))))
        return 0
    second, third, *setting = words
    work = library.encode if action == "encode" else library.decode
    took = measured(
        lambda: work(Path(old), Path(second), Path(third), setting), DECODE_RUNS if action == "decode" else 1
    )
    print(json.dumps(took))
    return 0


def measured(work: Callable[[], None], runs: int) -> dict[str, float]:
    """Do ``work`` so often; return the CPU of the quickest run, and by how much memory grew at its highest."""
    seconds = []
    _load_code()
    _give_back_memory()
    anonymous, resident = anonymous_bytes(os.getpid()), _forget_peak()
    for _ in range(runs):
        began = _cpu_seconds()
        work()
        seconds.append(_cpu_seconds() - began)
    return {
        "cpu_seconds": min(seconds),
        "peak_bytes": _status("VmHWM:") - resident,
        "anonymous_before_bytes": anonymous,
    }


def _load_code() -> None:
    """Read all of the libraries that were imported into memory (madvise(2), MADV_POPULATE_READ, Linux 5.14).

    What of their code runs first while the work is done would show as memory of the work, and is none: it is shared by
    all processes, and the same for files of any size.
    """
    libc = ctypes.CDLL(None)
    for line in Path("/proc/self/maps").read_text().splitlines():
        place, *_, path = line.split(maxsplit=5)
        if ".so" in path:
            start, end = (int(address, 16) for address in place.split("-"))
            libc.madvise(ctypes.c_void_p(start), ctypes.c_size_t(end - start), MADV_POPULATE_READ)


def _give_back_memory() -> None:
    """Let the allocator keep nothing that imports left free (malloc_trim(3)): what the work takes shall show."""
    gc.collect()
    give_back()


def _cpu_seconds() -> float:
    """Return the CPU time of this process and of those that it started and that have ended."""
    used = [resource.getrusage(whose) for whose in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


def _forget_peak() -> int:
    """Let the kernel forget the peak of resident memory (proc(5), clear_refs), and return what is resident now."""
    Path("/proc/self/clear_refs").write_text("5")
    return _status("VmRSS:")


def _status(name: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(name):
            return int(line.split()[1]) * 1024
    raise OSError(f"the kernel does not tell {name}")


if __name__ == "__main__":
    sys.exit(main())
