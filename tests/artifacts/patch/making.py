"""A patch made, applied, and compared with what it should make."""

from __future__ import annotations

import hashlib
from pathlib import Path

from artifacts.patch.apply import apply_patch
from artifacts.patch.encode import EncodeLimits, EncodeReport, encode_patch
from tests.artifacts.patch.files import Array, safetensors


def patched(folder: Path, base: bytes, target: bytes, limits: EncodeLimits | None = None) -> EncodeReport:
    """Make a patch, apply it and compare the result; return the report."""
    for name, content in (("old", base), ("new", target)):
        (folder / name).write_bytes(content)
    report = encode_patch(folder / "old", folder / "new", folder / "patch", limits)
    sha256 = hashlib.sha256(target).hexdigest()
    apply_patch(folder / "old", folder / "patch", folder / "made", length=len(target), sha256=sha256)
    assert (folder / "made").read_bytes() == target
    assert report.encoded.length == (folder / "patch").stat().st_size
    assert report.encoded.sha256 == hashlib.sha256((folder / "patch").read_bytes()).hexdigest()
    assert report.encoded.base == hashlib.sha256(base).hexdigest()
    assert report.encoded.length == min(report.sizes.values())
    return report


def patched_tensor(folder: Path, old: Array, new: Array) -> EncodeReport:
    """Do that with files of one tensor."""
    return patched(folder, safetensors({"weights": old}), safetensors({"weights": new}))
