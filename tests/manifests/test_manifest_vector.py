"""The golden manifest: its bytes are pinned, a TUF client accepts it, and refuses what is changed."""

from __future__ import annotations

import datetime
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from tuf.api.exceptions import DownloadHTTPError, RepositoryError
from tuf.ngclient import FetcherInterface, Updater  # type: ignore[attr-defined]

from manifests.keys import certify, parse_key
from manifests.model import InvalidManifest
from manifests.trust import SignedManifest, etag, parse_body, releases_of, root_file_name, tuf_files
from tests.vectors import make_manifests

FOLDER = Path(make_manifests.__file__).parent
VECTOR = json.loads((FOLDER / "manifest.json").read_bytes())


class Files(FetcherInterface):
    """What a device has of the vector: the roots and the three files of a body."""

    def __init__(self, manifest: SignedManifest) -> None:
        self._files = {name: text.encode() for name, text in VECTOR["roots"].items()}
        # By role, whatever version the client asks for: the body holds no other.
        self._files |= {"timestamp": manifest.timestamp, "snapshot": manifest.snapshot, "targets": manifest.targets}

    def _fetch(self, url: str) -> Iterator[bytes]:
        name = url.rpartition("/")[2]
        role = name.split(".")[-2]
        name = name if role == "root" else role
        if name not in self._files:
            raise DownloadHTTPError(f"no {name}", 404)
        return iter([self._files[name]])


def verify(body: bytes, folder: Path) -> SignedManifest:
    """Do what a device does with a body, at the vector's time."""
    manifest, first = parse_body(body)
    root = VECTOR["roots"][root_file_name(first)].encode()
    certify(parse_key(VECTOR["key"]), root)
    # The client takes its time once, when it is made.
    with mock.patch("tuf.ngclient._internal.trusted_metadata_set.datetime", wraps=datetime) as clock:
        clock.datetime.now.return_value = datetime.datetime.fromisoformat(VECTOR["verify_at"])
        updater = Updater(str(folder), "http://edge.test", fetcher=Files(manifest), bootstrap=root)
    updater.refresh()
    return manifest


@pytest.mark.parametrize("name", ["rollout.json", "key_fingerprint.json", "manifest.json"])
def test_the_file_is_what_the_script_writes(name: str) -> None:
    assert (FOLDER / name).read_text() == make_manifests.written(make_manifests.vectors()[name])


def test_a_device_accepts_the_golden_body(tmp_path: Path) -> None:
    body = VECTOR["body"].encode()
    manifest = verify(body, tmp_path)
    assert etag(body) == VECTOR["etag"]
    assert manifest.revision == VECTOR["revision"]
    assert {name: data.decode() for name, data in tuf_files(manifest).items()} == VECTOR["files"]
    assert [make_manifests.release_json(release) for release in releases_of(manifest.targets)] == VECTOR["releases"]


@pytest.mark.parametrize("case", VECTOR["refused"], ids=lambda case: case["why"])
def test_a_device_refuses(case: dict[str, Any], tmp_path: Path) -> None:
    body = case["body"].encode()
    if not case["parse"]:
        with pytest.raises(InvalidManifest):
            parse_body(body)
        return
    parse_body(body)
    with pytest.raises(RepositoryError):
        verify(body, tmp_path)
