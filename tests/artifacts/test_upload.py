"""Uploads: what is taken, and everything hostile that a zip can hold."""

from __future__ import annotations

import io
import stat
import struct
import unicodedata
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from artifacts.archive import ArchiveReader, InvalidUpload, UploadLimits, archive_upload
from artifacts.tar_format import MAX_FILE_BYTES
from tests.models import zipped


@pytest.fixture
def refused(tmp_path: Path) -> Callable[..., str]:
    """Archive an upload that must be refused, and return the code; nothing may be left behind."""

    def refuse(content: bytes, filename: str = "model.zip", limits: UploadLimits | None = None) -> str:
        upload, out = tmp_path / "upload", tmp_path / "out"
        upload.write_bytes(content)
        out.mkdir(exist_ok=True)
        with pytest.raises(InvalidUpload) as caught:
            archive_upload(upload, filename, out / "archive", limits)
        assert list(out.iterdir()) == []
        sentence = caught.value.sentence
        assert sentence.isprintable()
        assert len(sentence) < 300
        return caught.value.code

    return refuse


def accepted(
    tmp_path: Path, content: bytes, filename: str = "model.zip", limits: UploadLimits | None = None
) -> dict[str, bytes]:
    upload = tmp_path / "upload"
    upload.write_bytes(content)
    archive_upload(upload, filename, tmp_path / "archive", limits)
    with ArchiveReader(tmp_path / "archive") as reader:
        return {name: reader.open(name).read() for name in reader.names}


def zip_of(
    *entries: tuple[str, bytes] | tuple[zipfile.ZipInfo, bytes], compression: int = zipfile.ZIP_DEFLATED
) -> bytes:
    """Zip entries as given, also ones that no honest tool would write."""
    out = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        with zipfile.ZipFile(out, "w", compression) as archive:
            for entry, content in entries:
                archive.writestr(entry, content)
    return out.getvalue()


def entry(name: str, **fields: object) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo("placeholder")
    # Past the constructor, which would tidy the name.
    info.filename = name
    for field, value in fields.items():
        setattr(info, field, value)
    return info


def renamed(content: bytes, old: bytes, new: bytes) -> bytes:
    """Replace a name by one of the same length, in both headers."""
    assert len(old) == len(new)
    return content.replace(old, new)


def test_a_zip_is_taken_with_its_names_and_bytes(tmp_path: Path) -> None:
    files = {"Model.mlpackage/Manifest.json": b"{}", "Model.mlpackage/Data/w": b"\0" * 5000, "README": b""}
    for compression in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        assert accepted(tmp_path, zipped(files, compression)) == files


def test_a_bare_file_is_one_file_under_its_name(tmp_path: Path) -> None:
    assert accepted(tmp_path, b"bytes of a model", "detector.tflite") == {"detector.tflite": b"bytes of a model"}


def test_a_zip_under_another_name_stays_a_file(tmp_path: Path) -> None:
    """PyTorch and Keras write zips that are models: only the name .zip asks for unpacking."""
    content = zipped({"data.pkl": b"x"})
    assert accepted(tmp_path, content, "model.pt") == {"model.pt": content}


def test_the_suffix_is_taken_in_any_case(tmp_path: Path) -> None:
    assert accepted(tmp_path, zipped({"a": b"1"}), "MODEL.ZIP") == {"a": b"1"}


def test_folders_and_what_macos_adds_are_dropped(tmp_path: Path) -> None:
    content = zip_of(
        ("Model/", b""), ("Model/a", b"1"), ("__MACOSX/Model/._a", b"2"), (".DS_Store", b"3"), ("Model/.DS_Store", b"4")
    )
    assert accepted(tmp_path, content) == {"Model/a": b"1"}


def test_names_are_normalized(tmp_path: Path) -> None:
    decomposed = unicodedata.normalize("NFD", "Modèle.mlmodel")
    assert list(accepted(tmp_path, zipped({decomposed: b"1"}))) == ["Modèle.mlmodel"]


def test_utf8_names_without_the_flag_are_taken_for_what_they_are(tmp_path: Path) -> None:
    content = renamed(zipped({"XXXX.onnx": b"1"}), b"XXXX", "éé".encode())
    assert list(accepted(tmp_path, content)) == ["éé.onnx"]


def test_names_in_another_encoding_are_refused(refused: Callable[..., str]) -> None:
    assert refused(renamed(zipped({"XX.onnx": b"1"}), b"XX", b"\x82\xff")) == "unsafe_name"


def test_a_flagged_name_that_is_not_utf8_is_refused(refused: Callable[..., str]) -> None:
    assert refused(renamed(zipped({"é.onnx": b"1"}), "é".encode(), b"\xff\xfe")) == "unsafe_name"


@pytest.mark.parametrize(
    "name",
    [
        "../a",
        "a/../b",
        "..",
        "a/..",
        "/etc/passwd",
        "a//b",
        "./a",
        "a/./b",
        "C:a",
        "c:/a",
        "a\\b",
        "..\\a",
        "a\nb",
        "a\x7fb",
        "a\x1bb",
        "a\u2028b",
    ],
)
def test_names_that_lead_elsewhere_or_hide_are_refused(refused: Callable[..., str], name: str) -> None:
    assert refused(zip_of((entry(name), b"1"))) == "unsafe_name"


def test_a_name_with_a_nul_is_refused(refused: Callable[..., str]) -> None:
    assert refused(renamed(zipped({"aXb": b"1"}), b"aXb", b"a\0b")) == "unsafe_name"


def test_a_folder_is_refused_by_its_name_too(refused: Callable[..., str]) -> None:
    assert refused(zip_of((entry("../x/"), b""), ("a", b"1"))) == "unsafe_name"


def test_names_that_are_too_long_are_refused(refused: Callable[..., str]) -> None:
    assert refused(zipped({"n" * 256: b"1"})) == "name_too_long"
    assert refused(zipped({"/".join(["n" * 200] * 3): b"1"})) == "name_too_long"


@pytest.mark.parametrize(
    "pair", [("a", "a"), ("Model", "model"), ("é", "e\u0301"), ("straße", "STRASSE"), ("a", "a/b"), ("A/x", "a/y")]
)
def test_names_that_meet_on_a_device_are_refused(refused: Callable[..., str], pair: tuple[str, str]) -> None:
    assert refused(zip_of((pair[0], b"1"), (pair[1], b"2"))) == "duplicate_name"


@pytest.mark.parametrize(
    ("mode", "code"),
    [
        (stat.S_IFLNK | 0o777, "link"),
        (stat.S_IFCHR | 0o600, "special_file"),
        (stat.S_IFBLK | 0o600, "special_file"),
        (stat.S_IFIFO | 0o600, "special_file"),
        (stat.S_IFSOCK | 0o600, "special_file"),
    ],
)
@pytest.mark.parametrize("system", [0, 3, 19])
def test_links_and_devices_are_refused(refused: Callable[..., str], mode: int, code: str, system: int) -> None:
    content = zip_of((entry("a", external_attr=mode << 16, create_system=system), b"/etc/passwd"))
    assert refused(content) == code


def test_a_link_is_refused_even_where_it_would_be_dropped(refused: Callable[..., str]) -> None:
    content = zip_of((entry(".DS_Store", external_attr=(stat.S_IFLNK | 0o777) << 16), b"/etc"), ("a", b"1"))
    assert refused(content) == "link"


@pytest.mark.parametrize("flag", [0x0001, 0x0041, 0x2001])
def test_encrypted_entries_are_refused(refused: Callable[..., str], flag: int) -> None:
    content = bytearray(zipped({"a": b"1"}))
    for signature, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        position = content.index(signature) + offset
        content[position : position + 2] = struct.pack("<H", flag)
    assert refused(bytes(content)) == "encrypted_entry"


@pytest.mark.parametrize("compression", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_other_compressions_are_refused(refused: Callable[..., str], compression: int) -> None:
    """LZMA lets the sender choose how many gigabytes the reader allocates."""
    assert refused(zipped({"a": b"1" * 1000}, compression)) == "unsupported_compression"


@pytest.mark.parametrize("content", [b"", b"no zip", b"PK\x03\x04", b"PK\x05\x06", bytes(100_000), b"PK\x05\x06" * 10])
def test_what_is_no_zip_is_refused_by_its_name(refused: Callable[..., str], content: bytes) -> None:
    assert refused(content) in ("not_a_zip", "damaged_zip")


def test_a_zip_that_was_cut_off_is_refused_wherever_it_was_cut(refused: Callable[..., str]) -> None:
    whole = zipped({"a/model.bin": bytes(range(256)) * 20, "b": b"2"})
    for end in range(0, len(whole), 7):
        assert refused(whole[:end]) in ("not_a_zip", "damaged_zip")


def test_a_damaged_file_in_a_zip_is_refused(refused: Callable[..., str]) -> None:
    content = bytearray(zipped({"a": bytes(range(256)) * 20}, zipfile.ZIP_STORED))
    content[500] ^= 1
    assert refused(bytes(content)) == "damaged_zip"


def test_an_empty_zip_and_one_of_folders_only_are_refused(refused: Callable[..., str]) -> None:
    assert refused(zip_of()) == "empty"
    assert refused(zip_of(("a/", b""), ("__MACOSX/._x", b"1"))) == "empty"


def test_a_bomb_is_refused_before_it_is_unpacked(refused: Callable[..., str]) -> None:
    content = zipped({"zeros": bytes(64 * 1024 * 1024)})
    assert len(content) < 100_000
    assert refused(content) == "suspicious_ratio"


def test_small_files_may_compress_well(tmp_path: Path) -> None:
    assert len(accepted(tmp_path, zipped({"zeros": bytes(8 * 1024 * 1024)}))["zeros"]) == 8 * 1024 * 1024


def forged_length(content: bytes, length: int) -> bytes:
    """State another unpacked length for the only entry, in both headers."""
    forged = bytearray(content)
    for signature, offset in ((b"PK\x03\x04", 22), (b"PK\x01\x02", 24)):
        position = content.index(signature) + offset
        forged[position : position + 4] = struct.pack("<L", length)
    return bytes(forged)


@pytest.mark.parametrize("length", [0, 10, 999_999, 1_000_001, 2**32 - 2])
def test_a_length_that_lies_is_refused(refused: Callable[..., str], length: int) -> None:
    content = forged_length(zipped({"a": bytes(1_000_000)}), length)
    assert refused(content) in ("damaged_zip", "suspicious_ratio", "too_large")


def overlapping() -> bytes:
    """Make two directory entries share one local file, as the bombs that need no high ratio do."""
    content = zipped({"a": b"1" * 100})
    directory, end = content.index(b"PK\x01\x02"), content.index(b"PK\x05\x06")
    one = content[directory:end]
    two = one[:46] + b"b" + one[47:]
    record = struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 2, 2, len(one) * 2, directory, 0)
    return content[:directory] + one + two + record


def test_overlapping_entries_are_refused(refused: Callable[..., str]) -> None:
    assert refused(overlapping()) == "overlapping_entries"


def test_entries_that_reach_into_the_directory_are_refused(refused: Callable[..., str]) -> None:
    content = bytearray(zipped({"a": b"1" * 100}, zipfile.ZIP_STORED))
    for signature, offset in ((b"PK\x03\x04", 18), (b"PK\x01\x02", 20)):
        position = content.index(signature) + offset
        content[position : position + 8] = struct.pack("<LL", 130, 130)
    assert refused(bytes(content)) == "overlapping_entries"


def test_limits_are_kept(refused: Callable[..., str], tmp_path: Path) -> None:
    files = {"a": b"1" * 600, "b": b"2" * 600}
    assert refused(zipped(files), limits=UploadLimits(max_files=1)) == "too_many_files"
    assert refused(zipped(files), limits=UploadLimits(max_unpacked_bytes=1199)) == "too_large"
    assert refused(zipped(files), limits=UploadLimits(max_upload_bytes=100)) == "too_large"
    assert refused(b"12345", "a.onnx", limits=UploadLimits(max_unpacked_bytes=4)) == "too_large"
    assert accepted(tmp_path, zipped(files), limits=UploadLimits(max_files=2, max_unpacked_bytes=1200)) == files
    with pytest.raises(ValueError, match="cannot hold"):
        UploadLimits(max_unpacked_bytes=MAX_FILE_BYTES + 1)


def test_a_directory_larger_than_its_files_need_is_refused_before_it_is_read(refused: Callable[..., str]) -> None:
    record = struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 1, 1, 4_000_000, 0, 0)
    assert refused(bytes(4_000_000) + record, limits=UploadLimits(max_files=1000)) == "too_many_files"


def test_the_directory_s_size_is_bounded_by_the_64_bit_record_too(refused: Callable[..., str]) -> None:
    large = 4_000_000
    record64 = struct.pack("<4sQ2H2L4Q", b"PK\x06\x06", 44, 45, 45, 0, 0, 1, 1, large, 0)
    locator = struct.pack("<4sLQL", b"PK\x06\x07", 0, large, 1)
    record = struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 0xFFFF, 0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 0)
    assert refused(bytes(large) + record64 + locator + record, limits=UploadLimits(max_files=1000)) == "too_many_files"


def test_zip64_is_taken(tmp_path: Path) -> None:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive, archive.open("a", "w", force_zip64=True) as file:
        file.write(b"content")
    assert accepted(tmp_path, out.getvalue()) == {"a": b"content"}


def test_a_zip_with_zip64_records_at_its_end_is_taken(tmp_path: Path) -> None:
    content = zipped({"a": b"content"})
    directory, end = content.index(b"PK\x01\x02"), content.index(b"PK\x05\x06")
    record64 = struct.pack("<4sQ2H2L4Q", b"PK\x06\x06", 44, 45, 45, 0, 0, 1, 1, end - directory, directory)
    locator = struct.pack("<4sLQL", b"PK\x06\x07", 0, end, 1)
    record = struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 0xFFFF, 0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 0)
    assert accepted(tmp_path, content[:end] + record64 + locator + record) == {"a": b"content"}


def test_a_comment_behind_the_zip_is_fine(tmp_path: Path) -> None:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("a", b"1")
        archive.comment = b"made by a tool" * 100
    assert accepted(tmp_path, out.getvalue()) == {"a": b"1"}


@pytest.mark.parametrize("name", ["../a.onnx", "a/b.onnx", "", ".", "a\\b.onnx", "a\nb.onnx", "n" * 300])
def test_a_bare_file_needs_a_plain_name(refused: Callable[..., str], name: str) -> None:
    assert refused(b"content", name) in ("unsafe_name", "name_too_long")


def test_an_empty_bare_file_is_refused(refused: Callable[..., str]) -> None:
    assert refused(b"", "a.onnx") == "empty"


def test_a_refused_name_is_shown_escaped_and_short(tmp_path: Path) -> None:
    (tmp_path / "upload").write_bytes(zip_of((entry("\x1b[31m" + "x" * 10_000), b"1")))
    with pytest.raises(InvalidUpload) as caught:
        archive_upload(tmp_path / "upload", "m.zip", tmp_path / "archive")
    assert "\x1b" not in caught.value.sentence
    assert len(caught.value.sentence) < 200


def test_an_archive_that_is_there_survives_a_refused_upload(tmp_path: Path) -> None:
    accepted(tmp_path, zipped({"a": b"1"}))
    before = (tmp_path / "archive").read_bytes()
    (tmp_path / "bad").write_bytes(b"no zip")
    with pytest.raises(InvalidUpload):
        archive_upload(tmp_path / "bad", "m.zip", tmp_path / "archive")
    assert (tmp_path / "archive").read_bytes() == before


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_zip_with_flipped_bytes_is_taken_whole_or_refused(tmp_path: Path, data: st.DataObject) -> None:
    """Whatever is accepted has passed the checksums, so the bytes of the files are the ones that were zipped."""
    files = {"a/model.bin": bytes(range(256)), "b": b"second" * 50}
    content = bytearray(zipped(files))
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    (tmp_path / "upload").write_bytes(content)
    try:
        archive_upload(tmp_path / "upload", "m.zip", tmp_path / "archive")
    except InvalidUpload:
        return
    with ArchiveReader(tmp_path / "archive") as reader:
        assert {reader.open(name).read() for name in reader.names} <= set(files.values()) | {b""}


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=st.binary(max_size=400), tail=st.binary(max_size=60))
def test_garbage_is_refused(tmp_path: Path, content: bytes, tail: bytes) -> None:
    (tmp_path / "upload").write_bytes(content + b"PK\x05\x06" + tail)
    with pytest.raises(InvalidUpload):
        archive_upload(tmp_path / "upload", "m.zip", tmp_path / "archive")
