"""Answers that are made when a manifest arrives."""

from __future__ import annotations

from edge.check import fresh_for
from edge.manifest_cache import ManifestCache
from edge.prepared import MAX_HEADS, MAX_PREPARED_BYTES, Answer, Clock, PreparedManifests
from manifests.store import Publication
from tests.edge.site import LABELS

KEY = "prod-aeaqcaibaeaq-3h67b25qnr4y7iaglxhhd3xhiu"
LINE = f"GET /v2/environments/{KEY}/manifest HTTP/1.1".encode()


def publication(revision: int, body: bytes = b"{}", key: str = KEY) -> Publication:
    return Publication(key, revision, body, f'"{revision}"', {}, LABELS)


def prepared() -> tuple[ManifestCache, PreparedManifests]:
    cache = ManifestCache()
    return cache, PreparedManifests(cache, fresh_for(30, 60))


def test_both_answers_are_whole_and_tell_the_date() -> None:
    cache, manifests = prepared()
    cache.take(publication(7))
    manifest = manifests.by_request_line[LINE]
    assert manifest.modified is not None
    for answer in (manifest.modified, manifest.not_modified):
        answer.refresh(Clock(unix_time=0).date)
    fields = b'ETag: "7"\r\nCache-Control: public, max-age=30, stale-if-error=60\r\n'
    date = b"Date: Thu, 01 Jan 1970 00:00:00 GMT\r\n\r\n"
    assert manifest.not_modified.content == b"HTTP/1.1 304 Not Modified\r\n" + fields + date
    body = b"Content-Type: application/json\r\nContent-Length: 2\r\n"
    assert manifest.modified.content == b"HTTP/1.1 200 OK\r\n" + fields + body + date + b"{}"


def test_the_clock_tells_each_second() -> None:
    clock = Clock(unix_time=59.9, monotonic=5.0)
    before = clock.date
    clock.tick(60.1, 6.0)
    assert (before, clock.date) == (b"Thu, 01 Jan 1970 00:00:59 GMT", b"Thu, 01 Jan 1970 00:01:00 GMT")
    assert clock.now == 6.0


def test_what_is_withdrawn_or_replaced_is_answered_no_more() -> None:
    cache, manifests = prepared()
    cache.take(publication(1))
    old = manifests.by_request_line[LINE]
    manifests.by_head.add(b"head", old.not_modified)
    cache.take(publication(2))
    assert manifests.by_head == {}
    assert manifests.by_request_line[LINE].etag == b'"2"'
    manifests.by_head.add(b"head", old.not_modified)
    cache.withdraw(KEY)
    assert (manifests.by_request_line, manifests.by_head) == ({}, {})


def test_counts_go_on_when_a_manifest_changes() -> None:
    cache, manifests = prepared()
    cache.take(publication(1))
    tally = manifests.by_request_line[LINE].not_modified.tally
    cache.take(publication(2))
    assert manifests.by_request_line[LINE].not_modified.tally is tally


def test_what_is_large_is_not_kept_twice() -> None:
    cache, manifests = prepared()
    cache.take(publication(1, b"x" * MAX_PREPARED_BYTES))
    assert manifests.by_request_line[LINE].modified is not None
    cache.take(publication(2, b"x" * (MAX_PREPARED_BYTES + 1)))
    assert manifests.by_request_line[LINE].modified is None


def test_a_key_that_a_path_would_encode_is_aiohttps() -> None:
    cache, manifests = prepared()
    for key in ("a b", "ä", "a/b", "a%20b", "", "A\r\nHost: x"):
        cache.take(publication(1, key=key))
    assert manifests.by_request_line == {}


def test_a_million_distinct_heads_are_not_remembered() -> None:
    _, manifests = prepared()
    cache_entry = _answer()
    for number in range(2 * MAX_HEADS):
        manifests.by_head.add(b"%d" % number, cache_entry)
        assert len(manifests.by_head) <= MAX_HEADS
    manifests.by_head.add(b"x" * 1025, cache_entry)
    assert b"x" * 1025 not in manifests.by_head


def _answer() -> Answer:
    cache, manifests = prepared()
    cache.take(publication(1))
    return manifests.by_request_line[LINE].not_modified
