"""The canonical archive: one form for the same files, and nothing but that form accepted."""

from __future__ import annotations

import hashlib
import io
import json
import os
import random
import subprocess
import tarfile
import unicodedata
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from artifacts import tar_format
from artifacts.archive import (
    ArchivedFile,
    ArchiveInfo,
    ArchiveReader,
    InvalidArchive,
    archive_directory,
    archive_upload,
    extract_archive,
)
from artifacts.names import MAX_NAME_BYTES, NameSet, UnsafeName, normal_name
from tests.components import require
from tests.models import zipped

VECTORS = Path(__file__).parent.parent / "vectors" / "archive.json"


def write_files(root: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return root


def read_files(root: Path) -> dict[str, bytes]:
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def archive_of(folder: Path, files: dict[str, bytes]) -> Path:
    """Archive these files and return where the archive is; the folder is emptied of what was there."""
    root = folder / "root"
    if root.exists():
        subprocess.run(["rm", "-rf", str(root)], check=True)
    archive_directory(write_files(root, files), folder / "archive")
    return folder / "archive"


FILES = {
    "b.txt": b"second",
    "a/model.bin": bytes(range(256)) * 5,
    "a/empty": b"",
    "ü.txt": "ü".encode(),
    "x" * 120: b"1",
}

# A part of a name: letters of several scripts, and what file systems find hard.
parts = st.text(st.characters(codec="utf-8", exclude_categories=("Cc", "Cs", "Zl", "Zp"), exclude_characters="/\\:"))
safe_parts = parts.map(lambda part: unicodedata.normalize("NFC", part[:40])).filter(
    lambda part: part not in ("", ".", "..")
)
names = (
    st.lists(safe_parts, min_size=1, max_size=4).map("/".join).filter(lambda name: len(name.encode()) <= MAX_NAME_BYTES)
)


@st.composite
def file_sets(draw: st.DrawFn) -> dict[str, bytes]:
    """Files whose names a device could hold side by side."""
    files: dict[str, bytes] = {}
    for name in draw(st.lists(names, min_size=1, max_size=8)):
        try:
            normal = normal_name(name)
        except UnsafeName:
            continue
        if fit_together([*files, normal]):
            files[normal] = draw(st.binary(max_size=2000))
    return files or {"file": b""}


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(files=file_sets())
def test_extracting_and_archiving_again_gives_the_same_bytes(
    tmp_path_factory: pytest.TempPathFactory, files: dict[str, bytes]
) -> None:
    folder = tmp_path_factory.mktemp("archive")
    upload = folder / "upload.zip"
    upload.write_bytes(zipped(files))
    made = archive_upload(upload, "upload.zip", folder / "archive")
    assert extract_archive(folder / "archive", folder / "files") == made
    assert read_files(folder / "files") == files
    assert archive_directory(folder / "files", folder / "again") == made
    assert (folder / "again").read_bytes() == (folder / "archive").read_bytes()


def test_an_archive_tells_its_hash_its_length_and_its_files(tmp_path: Path) -> None:
    info = archive_directory(write_files(tmp_path / "root", FILES), tmp_path / "archive")
    content = (tmp_path / "archive").read_bytes()
    assert (info.sha256, info.length) == (hashlib.sha256(content).hexdigest(), len(content))
    expected = sorted(FILES.items(), key=lambda item: item[0].encode())
    assert info.files == tuple(
        ArchivedFile(name, len(data), hashlib.sha256(data).hexdigest()) for name, data in expected
    )


def test_the_order_in_which_files_were_zipped_or_written_does_not_show(tmp_path: Path) -> None:
    made: set[ArchiveInfo] = set()
    for turn in range(5):
        shuffled = random.Random(turn).sample(sorted(FILES), len(FILES))
        upload = tmp_path / f"{turn}.zip"
        upload.write_bytes(zipped({name: FILES[name] for name in shuffled}, compression=8 if turn % 2 else 0))
        made.add(archive_upload(upload, upload.name, tmp_path / f"{turn}.archive"))
    assert len(made) == 1


def test_times_modes_and_empty_folders_on_disk_do_not_show(tmp_path: Path) -> None:
    root = write_files(tmp_path / "root", FILES)
    before = archive_directory(root, tmp_path / "before")
    (root / "b.txt").chmod(0o755)
    os.utime(root / "b.txt", (1, 1))
    (root / "empty folder" / "inner").mkdir(parents=True)
    assert archive_directory(root, tmp_path / "after") == before


def test_other_tar_programs_read_the_archive(tmp_path: Path) -> None:
    archive = archive_of(tmp_path, FILES)
    with tarfile.open(archive) as opened:
        assert {member.name: opened.extractfile(member).read() for member in opened} == FILES  # type: ignore[union-attr]
        assert all((m.mode, m.uid, m.gid, m.mtime, m.uname, m.gname) == (0o644, 0, 0, 0, "", "") for m in opened)
    listed = subprocess.run(
        [require("tar"), "--quoting-style=literal", "-tf", archive],
        capture_output=True,
        check=True,
        env={"LC_ALL": "C.UTF-8"},
    )
    assert listed.stdout.decode().splitlines() == sorted(FILES, key=str.encode)
    assert listed.stderr == b""


def test_a_reader_opens_single_files_that_seek_and_end(tmp_path: Path) -> None:
    with ArchiveReader(archive_of(tmp_path, FILES)) as reader:
        assert reader.names == tuple(sorted(FILES, key=str.encode))
        for name, content in FILES.items():
            with reader.open(name) as file:
                assert file.read() == content
                file.seek(3)
                assert file.read(10) == content[3:13]
                assert file.seek(-2, os.SEEK_END) == len(content) - 2 if len(content) > 1 else True
                assert file.read() == content[-2:] if len(content) > 1 else True
                file.seek(len(content) + 100)
                assert file.read() == b""
            member = reader.member(name)
            with reader.map() as mapped:
                assert mapped[member.offset : member.offset + member.length] == content
        with pytest.raises(KeyError):
            reader.open("not there")


def test_files_of_one_archive_are_read_side_by_side(tmp_path: Path) -> None:
    with ArchiveReader(archive_of(tmp_path, FILES)) as reader, reader.open("b.txt") as one, reader.open("b.txt") as two:
        assert (one.read(2), two.read(4), one.read(), two.read()) == (b"se", b"seco", b"cond", b"nd")


def test_golden_archives_have_the_bytes_that_every_client_makes(tmp_path: Path) -> None:
    for vector in json.loads(VECTORS.read_text())["archives"]:
        files = {file["name"]: bytes.fromhex(file["content"]) for file in vector["files"]}
        archive = archive_of(tmp_path, files).read_bytes()
        assert (len(archive), hashlib.sha256(archive).hexdigest()) == (vector["length"], vector["sha256"]), vector[
            "about"
        ]
        if "headers" in vector:
            assert archive[: len(vector["headers"]) // 2].hex() == vector["headers"]


def test_golden_names_are_accepted_and_refused_as_every_client_does() -> None:
    vectors = json.loads(VECTORS.read_text())
    for vector in vectors["names"]:
        name = bytes.fromhex(vector["utf8"]).decode()
        if vector["safe"]:
            assert normal_name(name).encode().hex() == vector["normal"], vector["about"]
        else:
            with pytest.raises(UnsafeName):
                normal_name(name)
    for vector in vectors["name_sets"]:
        assert fit_together(vector["names"]) == vector["together"], vector["about"]


def fit_together(names: list[str]) -> bool:
    taken = NameSet()
    try:
        for name in names:
            taken.add(name)
    except UnsafeName:
        return False
    return True


def canonical(files: list[tuple[str, bytes]], end: bytes = tar_format.END) -> bytes:
    """Concatenate entries in canonical form, in the order given, whatever that is."""
    return (
        b"".join(tar_format.header(name, len(data)) + data + tar_format.padding(len(data)) for name, data in files)
        + end
    )


REFUSED_ARCHIVES = {
    "nothing at all": b"",
    "no files": tar_format.END,
    "one block of zeros": canonical([("a", b"1")], end=bytes(512)),
    "no end": canonical([("a", b"1")], end=b""),
    "bytes behind the end": canonical([("a", b"1")]) + b"x",
    "padding to tar's records": canonical([("a", b"1")]).ljust(10240, b"\0"),
    "not sorted": canonical([("b", b"1"), ("a", b"2")]),
    "a name twice": canonical([("a", b"1"), ("a", b"2")]),
    "names that differ in case": canonical([("A", b"1"), ("a", b"2")]),
    "a file as a folder": canonical([("a", b"1"), ("a/b", b"2")]),
    "a parent folder": canonical([("../a", b"1")]),
    "an absolute name": canonical([("/a", b"1")]),
    "a name that is not in form C": canonical([("u\u0308", b"1")]),
    "a control character": canonical([("a\nb", b"1")]),
    "a backslash": canonical([("a\\b", b"1")]),
    "padding that is not zeros": canonical([("a", b"1")])[:513] + b"x" + canonical([("a", b"1")])[514:],
    "a pax header without need": tar_format._block(b"././@PaxHeader", 9, b"x")
    + b"9 path=a\n".ljust(512, b"\0")
    + canonical([("a", b"")]),
    "a gzip": b"\x1f\x8b" + bytes(1022),
    "a file longer than the archive": tar_format.header("a", 10**9) + tar_format.END,
}


@pytest.mark.parametrize("about", REFUSED_ARCHIVES)
def test_what_is_not_canonical_is_refused(tmp_path: Path, about: str) -> None:
    archive = tmp_path / "archive"
    archive.write_bytes(REFUSED_ARCHIVES[about])
    with pytest.raises(InvalidArchive):
        ArchiveReader(archive)
    with pytest.raises(InvalidArchive):
        extract_archive(archive, tmp_path / "into")
    assert read_files(tmp_path / "into") == {}


def foreign(name: str, kind: bytes = tarfile.REGTYPE, **fields: object) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        info = tarfile.TarInfo(name)
        info.type = kind
        for field, value in fields.items():
            setattr(info, field, value)
        archive.addfile(info)
    return out.getvalue()[:512] + tar_format.END


@pytest.mark.parametrize(
    "content",
    [
        foreign("a", tarfile.SYMTYPE, linkname="/etc/passwd"),
        foreign("a", tarfile.LNKTYPE, linkname="b"),
        foreign("a", tarfile.DIRTYPE),
        foreign("a", tarfile.FIFOTYPE),
        foreign("a", tarfile.CHRTYPE),
        foreign("a", mode=0o777),
        foreign("a", mtime=1),
        foreign("a", uid=1),
        foreign("a", uname="root"),
    ],
)
def test_links_devices_and_other_metadata_are_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "archive").write_bytes(content)
    with pytest.raises(InvalidArchive):
        extract_archive(tmp_path / "archive", tmp_path / "into")
    assert list((tmp_path / "into").iterdir()) == []


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_change_outside_names_and_contents_is_refused(tmp_path: Path, data: st.DataObject) -> None:
    """Flip one bit: it lies in a file's bytes or name, and the archive's hash tells, or the archive is refused."""
    content = bytearray(canonical([("a", b"12345"), ("n" * 150, b"6" * 600)]))
    bit = data.draw(st.integers(0, len(content) * 8 - 1))
    content[bit // 8] ^= 1 << bit % 8
    archive = tmp_path / "archive"
    archive.write_bytes(content)
    try:
        with ArchiveReader(archive) as reader:
            members = reader.members
    except InvalidArchive:
        return
    # The end of a long name is in no checksum of tar's either: then it is another archive, of another file.
    assert any(member.offset <= bit // 8 < member.offset + member.length for member in members) or (
        [member.name for member in members] != ["a", "n" * 150]
    )


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=st.binary(max_size=3000), cut=st.integers(0, 5000))
def test_garbage_and_cut_off_archives_raise_nothing_else(tmp_path: Path, content: bytes, cut: int) -> None:
    archive = tmp_path / "archive"
    whole = canonical([("a", b"12345"), ("n" * 150, b"6" * 600)])
    for hostile in (content, whole[:cut] if cut < len(whole) else b"", b"x" + content[:500] + whole):
        archive.write_bytes(hostile)
        with pytest.raises(InvalidArchive):
            ArchiveReader(archive)


def test_nothing_is_extracted_over_what_is_there(tmp_path: Path) -> None:
    archive = archive_of(tmp_path, {"link/file": b"content"})
    (tmp_path / "outside").mkdir()
    (tmp_path / "into").mkdir()
    (tmp_path / "into" / "link").symlink_to(tmp_path / "outside")
    with pytest.raises(InvalidArchive, match="not empty"):
        extract_archive(archive, tmp_path / "into")
    assert list((tmp_path / "outside").iterdir()) == []


@pytest.mark.parametrize("name", ["link", "pipe"])
def test_a_folder_with_more_than_files_has_no_archive(tmp_path: Path, name: str) -> None:
    root = write_files(tmp_path / "root", {"a": b"1"})
    if name == "link":
        (root / name).symlink_to("a")
    else:
        os.mkfifo(root / name)
    with pytest.raises(InvalidArchive, match="neither a file nor a folder"):
        archive_directory(root, tmp_path / "archive")
    assert not (tmp_path / "archive").exists()


def test_a_folder_without_files_has_no_archive(tmp_path: Path) -> None:
    (tmp_path / "root" / "empty").mkdir(parents=True)
    with pytest.raises(InvalidArchive, match="no file"):
        archive_directory(tmp_path / "root", tmp_path / "archive")


def test_names_on_disk_that_are_not_utf8_or_meet_have_no_archive(tmp_path: Path) -> None:
    root = write_files(tmp_path / "root", {"a": b"1"})
    Path(os.fsdecode(os.fsencode(root) + b"/\xff")).write_bytes(b"")
    with pytest.raises(InvalidArchive):
        archive_directory(root, tmp_path / "archive")
    meeting = write_files(tmp_path / "meeting", {"a/x": b"1", "A/y": b"2"})
    with pytest.raises(InvalidArchive, match="meet"):
        archive_directory(meeting, tmp_path / "archive")


def test_an_open_file_takes_the_archive_too(tmp_path: Path) -> None:
    root = write_files(tmp_path / "root", FILES)
    out = io.BytesIO()
    info = archive_directory(root, out)
    assert hashlib.sha256(out.getvalue()).hexdigest() == info.sha256


def test_the_longest_name_fits(tmp_path: Path) -> None:
    name = "/".join(["p" * 255, "q" * 255, ""])[:-1]
    assert len(name.encode()) <= MAX_NAME_BYTES
    archive = archive_of(tmp_path, {name: b"1"})
    with ArchiveReader(archive) as reader:
        assert reader.names == (name,)
    with pytest.raises(UnsafeName, match="longer"):
        normal_name("/".join(["p" * 200] * 3))
    with pytest.raises(UnsafeName, match="longer"):
        normal_name("p" * 256)


@given(path=st.binary(min_size=1, max_size=1200))
def test_a_pax_record_counts_its_own_digits(path: bytes) -> None:
    record = tar_format._pax_record(path)
    assert int(record.split(b" ")[0]) == len(record)
    assert tar_format.pax_path(record) == path
