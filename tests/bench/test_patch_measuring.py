"""Tools are run and measured: real ones on tiny pairs, and ones that misbehave."""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from bench.patches import measuring
from bench.patches.libraries import ZipNN
from bench.patches.measuring import LAUNCHER, Failed, measure
from bench.patches.peers import OURS, PEERS, ZLIB_ALONE, Call, Peer
from tests.components import require
from tests.flows.running import until

BY_NAME = {peer.name: peer for peer in (*OURS, *PEERS)}


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    """Return two files of random bytes that share all but a few."""
    old, new = tmp_path / "old", tmp_path / "new"
    content = np.random.default_rng(3).bytes(200_000)
    old.write_bytes(content)
    new.write_bytes(content[:1000] + b"changed" + content[1000:])
    return old, new


def a_peer(encode: Sequence[str], decode: Sequence[str]) -> Peer:
    """Return a tool whose commands are shell scripts: $1 is the old file, $2 and $3 what it reads and writes."""

    def call(script: str) -> Call:
        return Call(("sh", "-c", script, "sh"))

    return Peer(
        "a tool",
        "general",
        lambda _old, _new: [(script,) for script in encode],
        lambda setting, *paths: Call((*call(setting[0]).command, *map(str, paths))),
        lambda _setting, *paths: Call((*call(decode[0]).command, *map(str, paths))),
        lambda: "1",
    )


def launched(*words: str) -> dict[str, float]:
    done = subprocess.run(
        [sys.executable, "-I", "-S", str(LAUNCHER), *words], capture_output=True, text=True, check=True
    )
    told: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return told


@pytest.mark.parametrize("name", ["zstd -19", "zstd -22"])
def test_zstd_makes_patches_that_it_applies(pair: tuple[Path, Path], name: str) -> None:
    require("zstd")
    result = measure(BY_NAME[name], *pair)
    assert 0 < result.patch_bytes < 1000
    assert result.encode_seconds > 0
    assert result.encode_bytes > 200_000
    assert result.decode_bytes > 200_000


def test_a_full_encoding_is_measured_like_a_patch(pair: tuple[Path, Path]) -> None:
    require("zstd")
    assert measure(BY_NAME["full zstd"], *pair).patch_bytes > 200_000


@pytest.mark.parametrize("name", ["zstd-prefix", "skafos-delta zstd-only"])
def test_our_own_encodings_are_measured_without_python_itself(pair: tuple[Path, Path], name: str) -> None:
    result = measure(BY_NAME[name], *pair)
    assert 0 < result.patch_bytes < 1000
    # The start of Python with numpy takes 30 MB; the two files and zstd's state take less.
    assert 0 < result.decode_bytes < 20_000_000
    assert result.decode_working_bytes <= result.decode_bytes + 1_000_000


def test_zlib_alone_makes_a_zip_again_and_nothing_else(tmp_path: Path, pair: tuple[Path, Path]) -> None:
    zips = []
    for number, level in enumerate((6, 9)):
        zips.append(tmp_path / f"{number}.zip")
        with zipfile.ZipFile(zips[-1], "w", zipfile.ZIP_DEFLATED, compresslevel=level) as archive:
            for name in ("a", "b"):
                archive.writestr(name, f"{name}{number} ".encode() * 5000 + pair[0].read_bytes())
    assert measure(ZLIB_ALONE, *zips).patch_bytes > 2 * 200_000
    with pytest.raises(Failed, match="no zip"):
        measure(ZLIB_ALONE, *pair)


def test_the_smallest_patch_of_several_settings_counts(pair: tuple[Path, Path]) -> None:
    padded = 'cp "$2" "$3"; printf padding >>"$3"'
    copied = 'cp "$2" "$3"'
    trim = 'head -c 200007 "$2" >"$3"'
    result = measure(a_peer([padded, copied, padded], [trim]), *pair)
    assert result.setting == (copied,)
    assert result.patch_bytes == 200_007


def test_a_setting_that_fails_is_passed_over(pair: tuple[Path, Path]) -> None:
    assert measure(a_peer(["exit 3", 'cp "$2" "$3"'], ['cp "$2" "$3"']), *pair).patch_bytes == 200_007


def test_a_tool_that_makes_no_patch_has_failed_and_says_why(pair: tuple[Path, Path]) -> None:
    with pytest.raises(Failed, match="ended with 3: out of luck"):
        measure(a_peer(["echo out of luck >&2; exit 3"], ['cp "$2" "$3"']), *pair)


def test_a_tool_that_makes_another_file_has_failed(pair: tuple[Path, Path]) -> None:
    with pytest.raises(Failed, match="another file"):
        measure(a_peer(['cp "$2" "$3"'], ['cp "$1" "$3"']), *pair)


def test_a_tool_that_is_not_installed_has_failed(pair: tuple[Path, Path]) -> None:
    peer = a_peer([""], [""])
    missing = Peer(peer.name, peer.family, peer.settings, lambda *_: Call(("no-such-program",)), peer.decode, str)
    with pytest.raises(Failed, match="could not be started"):
        measure(missing, *pair)


def test_a_tool_that_hangs_is_ended_with_what_it_started(
    pair: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measuring, "CALL_SECONDS", 0.5)
    with pytest.raises(Failed, match="no end"):
        measure(a_peer([f"echo $$ >{tmp_path}/pid; sleep 60"], [""]), *pair)
    process = Path("/proc") / (tmp_path / "pid").read_text().strip() / "stat"

    def has_ended() -> bool:  # it may be dead and not yet waited for; who is killed dies a moment later
        try:
            return process.read_text().rpartition(")")[2].split()[0] == "Z"
        except OSError:
            return True

    until(has_ended, "the end of what the tool started")


def test_the_launcher_tells_time_and_memory_of_the_command_alone() -> None:
    work = "import time; a = bytearray(60_000_000); b = sum(range(2_000_000)); time.sleep(0.1)"
    told = launched("--watch", sys.executable, "-I", "-S", "-c", work)
    assert told["code"] == 0
    assert told["peak_bytes"] > 60_000_000
    assert told["anonymous_bytes"] > 60_000_000
    assert 0 < told["cpu_seconds"] < told["wall_seconds"] + 0.1
    assert launched("true")["peak_bytes"] < 20_000_000


def test_the_launcher_tells_how_a_command_ended() -> None:
    assert launched("sh", "-c", "exit 5")["code"] == 5


class XorAndDeflate:
    """What ZipNN does as far as its caller sees: equal lengths, whole elements, the length in the header."""

    def compress(self, data: bytearray, delta_second_data: bytearray | None) -> bytes:
        assert len(data) % 4 == 0
        assert delta_second_data is None or len(delta_second_data) == len(data)
        header = bytes(16) + len(data).to_bytes(8, "little") + bytes(8)
        return header + zlib.compress(self._xor(data, delta_second_data))

    def decompress(self, data: bytearray, delta_second_data: bytearray | None) -> bytes:
        return self._xor(bytearray(zlib.decompress(data[32:])), delta_second_data)

    def _xor(self, data: bytearray, other: bytearray | None) -> bytes:
        return bytes(data) if other is None else bytes(a ^ b for a, b in zip(data, other, strict=True))


@pytest.mark.parametrize("end", ["start", "end", "none"])
@pytest.mark.parametrize("first", ["0", "3"])
@pytest.mark.parametrize(("old", "new"), [(40, 40), (41, 30), (7, 43), (0, 9), (9, 6)])
def test_zipnn_gets_whole_elements_of_files_of_any_length(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, end: str, first: str, old: int, new: int
) -> None:
    zipnn = ZipNN()
    monkeypatch.setattr(zipnn, "_codec", lambda _setting: XorAndDeflate())
    before, after, patch, result = (tmp_path / name for name in ("before", "after", "patch", "result"))
    before.write_bytes(bytes(range(old)))
    after.write_bytes(bytes(range(100, 100 + new)))
    setting = ("float32", "16384", end, first)
    zipnn.encode(before, after, patch, setting)
    zipnn.decode(before, patch, result, setting)
    assert result.read_bytes() == after.read_bytes()


def test_zipnn_takes_the_setting_with_the_smallest_patch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    zipnn = ZipNN()
    monkeypatch.setattr(zipnn, "_codec", lambda _setting: XorAndDeflate())
    content = np.random.default_rng(5).bytes(4000)
    before, after = tmp_path / "before", tmp_path / "after"
    before.write_bytes(content)
    # Eight bytes came in front: only when both are aligned at their ends do they agree.
    after.write_bytes(b"in front" + content)
    assert zipnn.choose(before, after)[2] == "end"
