"""The files within files, wherever they lie, and the settings that deflate them again."""

from __future__ import annotations

import io
import tarfile
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from artifacts.archive import ArchiveReader, archive_directory
from artifacts.patch.containers import Deflation, DeflationSearch, Unpacked, UnpackLimits, unpack
from artifacts.patch.deflation import find_deflation
from tests.artifacts.patch.files import damaged, tar_of, weights

TEXT = b"".join(b"line %d of a text, %d\n" % (number, number * number) for number in range(6_000))
FLOATS = weights(20_000).tobytes()
FILES = {"a/text.txt": TEXT, "b.bin": FLOATS, "empty": b"", "deep/er/one": b"1"}


def zip_of(files: Mapping[str, bytes], compression: int = zipfile.ZIP_DEFLATED, level: int | None = None) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", compression, compresslevel=level) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return out.getvalue()


class Stream(io.RawIOBase):
    """A pipe: a zip that is written into it needs data descriptors."""

    def __init__(self) -> None:
        self.content = b""

    def writable(self) -> bool:
        return True

    def write(self, data: object) -> int:
        piece = bytes(data)  # type: ignore[call-overload] # any buffer
        self.content += piece
        return len(piece)


def contents(unpacked: Unpacked) -> dict[str, bytes]:
    return {member.name: bytes(unpacked.view(member.start, member.length)) for member in unpacked.members}


def named(files: Mapping[str, bytes], prefix: str) -> dict[str, bytes]:
    return {prefix + name: content for name, content in files.items() if content}


def test_a_file_that_is_no_container_is_its_only_member() -> None:
    with unpack(TEXT, "text.txt") as unpacked:
        assert contents(unpacked) == {"text.txt": TEXT}
        assert unpacked.length == len(TEXT)


def test_the_members_of_a_canonical_archive_are_where_its_reader_finds_them(tmp_path: Path) -> None:
    for name, content in {**FILES, "ü" * 60: b"long", "x" * 90 + "/" + "y" * 90: b"longer"}.items():
        path = tmp_path / "root" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    archive_directory(tmp_path / "root", tmp_path / "archive")
    with ArchiveReader(tmp_path / "archive") as reader, unpack(reader.map(), "net") as unpacked:
        found = {(member.name, member.start, member.length) for member in unpacked.members}
        assert found == {(f"net!{one.name}", one.offset, one.length) for one in reader.members if one.length}


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_tars_of_other_writers_are_read(form: int) -> None:
    long = "x" * 90 + "/" + "y" * 90
    with unpack(tar_of({**FILES, long: b"long"}, form), "t") as unpacked:
        assert contents(unpacked) == named({**FILES, long: b"long"}, "t!")


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_members_of_zips_are_found_stored_or_inflated_behind_the_file(compression: int) -> None:
    data = zip_of(FILES, compression)
    with unpack(data, "z") as unpacked:
        assert contents(unpacked) == named(FILES, "z!")
        inflated = sum(stream.length for stream in unpacked.deflated)
        assert unpacked.length == len(data) + inflated
        for stream in unpacked.deflated:
            raw = zlib.decompress(bytes(unpacked.view(stream.offset, stream.deflated_length)), -15)
            assert raw == bytes(unpacked.view(stream.start, stream.length))
            assert stream.start >= len(data)


def test_a_zip_that_was_written_into_a_pipe_is_read() -> None:
    stream = Stream()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in FILES.items():
            with archive.open(name, "w", force_zip64=True) as member:
                member.write(content)
    with unpack(stream.content) as unpacked:
        assert contents(unpacked) == named(FILES, "!")


def test_containers_are_looked_into_wherever_they_are_stored() -> None:
    inner = zip_of(FILES, zipfile.ZIP_STORED)
    data = tar_of({"model.zip": zip_of({"net.pt": inner, "text": TEXT})})
    with unpack(data, "t") as unpacked:
        assert contents(unpacked) == named(FILES, "t!model.zip!net.pt!") | {"t!model.zip!text": TEXT}


def test_a_stream_within_a_stream_stays_as_it_is() -> None:
    inner = zip_of({"text": TEXT})
    with unpack(zip_of({"inner.zip": inner}), "z") as unpacked:
        assert len(unpacked.deflated) == 1
        assert contents(unpacked) == {}


def test_members_that_are_damaged_or_overlap_are_left_out() -> None:
    data = bytearray(zip_of(FILES))
    with unpack(data) as unpacked:
        first = unpacked.deflated[0]
    # A kind of block that there is not (RFC 1951, 3.2.3).
    data[first.offset] = 0b111
    with unpack(data) as unpacked:
        assert "!a/text.txt" not in contents(unpacked)
        assert contents(unpacked)["!b.bin"] == FLOATS
    # Two entries of the directory that point at one member.
    stored = bytearray(zip_of({"a": b"same", "b": b"same"}, zipfile.ZIP_STORED))
    second = stored.rindex(b"PK\x01\x02")
    stored[second + 42 : second + 46] = bytes(4)
    with unpack(stored) as unpacked:
        assert contents(unpacked) == {"!a": b"same"}


def test_a_zip_that_is_cut_off_is_a_file_like_any_other() -> None:
    data = zip_of(FILES, zipfile.ZIP_STORED)[:-30]
    with unpack(data, "z") as unpacked:
        assert contents(unpacked) == {"z": data}


def test_limits_bound_what_is_unpacked() -> None:
    data = zip_of({f"{number}": bytes(100_000) for number in range(20)})
    with unpack(data, limits=UnpackLimits(max_members=3)) as unpacked:
        assert len(unpacked.members) == 3
    with unpack(data, limits=UnpackLimits(max_inflated_bytes=250_000)) as unpacked:
        assert unpacked.length == len(data) + 200_000
    # These zeros inflate to nearly a thousand times their bytes.
    with unpack(data, limits=UnpackLimits(ratio_free_bytes=0)) as unpacked:
        assert sum(stream.length for stream in unpacked.deflated) <= UnpackLimits().max_ratio * len(data)
        assert len(unpacked.deflated) < 20
    many = zip_of({f"{number}": b"" for number in range(2000)})
    with unpack(many, limits=UnpackLimits(max_members=10)) as unpacked:
        assert [member.length for member in unpacked.members] == [len(many)]


def test_containers_within_containers_end_somewhere() -> None:
    data = b"innermost"
    for _ in range(10):
        data = zip_of({"z": data}, zipfile.ZIP_STORED)
    with unpack(data) as unpacked:
        assert [member.name.count("!") for member in unpacked.members] == [UnpackLimits().max_depth]


def test_addresses_outside_are_refused() -> None:
    data = zip_of({"text": TEXT})
    with unpack(data) as unpacked:
        for start, length in ((-1, 1), (len(data) - 1, 2), (0, len(data) + 1), (unpacked.length, 1), (0, -1)):
            with pytest.raises(ValueError, match="not in the file"):
                unpacked.view(start, length)


@pytest.mark.parametrize(
    "made",
    [
        *(Deflation(level) for level in range(1, 10)),
        Deflation(6, 9),
        Deflation(9, 9),
        Deflation(6, strategy=zlib.Z_FILTERED),
        Deflation(6, strategy=zlib.Z_HUFFMAN_ONLY),
        Deflation(6, strategy=zlib.Z_RLE),
        Deflation(6, strategy=zlib.Z_FIXED),
    ],
)
def test_the_settings_that_are_found_make_the_same_bytes(made: Deflation) -> None:
    for raw in (TEXT, FLOATS):
        stream = b"".join(made.pieces(memoryview(raw)))
        found, _ = find_deflation(memoryview(stream), memoryview(raw))
        assert found is not None
        assert b"".join(found.pieces(memoryview(raw))) == stream


def test_neighbours_are_tried_first() -> None:
    data = zip_of({f"{number}": TEXT + b"%d" % number for number in range(3)}, level=3)
    with unpack(data) as unpacked:
        search = DeflationSearch(unpacked)
        assert [search.settings(stream) for stream in unpacked.deflated] == [Deflation(3)] * 3
    raw = memoryview(TEXT)
    stream = memoryview(b"".join(Deflation(3).pieces(raw)))
    assert find_deflation(stream, raw, [Deflation(3)]) == (Deflation(3), len(raw))


def test_a_stream_of_another_deflater_has_no_settings() -> None:
    deflater = zlib.compressobj(6, zlib.DEFLATED, -15)
    # A flush in the middle: no single call makes that.
    stream = deflater.compress(TEXT[:1000]) + deflater.flush(zlib.Z_FULL_FLUSH)
    stream += deflater.compress(TEXT[1000:]) + deflater.flush()
    found, used = find_deflation(memoryview(stream), memoryview(TEXT))
    assert found is None
    assert find_deflation(memoryview(stream), memoryview(TEXT), budget=used // 4)[1] < used


@settings(max_examples=100, deadline=None)
@given(
    flips=st.lists(st.tuples(st.integers(0, 1 << 20), st.integers(0, 255)), max_size=6),
    cut=st.none() | st.integers(0, 1 << 20),
    tar=st.booleans(),
)
def test_damaged_containers_never_raise(flips: list[tuple[int, int]], cut: int | None, tar: bool) -> None:
    files = {"a/t": TEXT[:300], "b": FLOATS[:300]}
    whole = tar_of({"z": zip_of(files), **files}) if tar else zip_of({"t": tar_of(files), **files})
    data = damaged(whole, flips, cut)
    with unpack(data) as unpacked:
        end = 0
        for member in unpacked.members:
            assert end <= member.start < member.start + member.length <= unpacked.length
            end = member.start + member.length
        search = DeflationSearch(unpacked)
        for stream in unpacked.deflated:
            search.settings(stream)
