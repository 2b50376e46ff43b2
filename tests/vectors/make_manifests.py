"""Writes `rollout.json`, `key_fingerprint.json` and `manifest.json`: run `python -m tests.vectors.make_manifests`.

Expected answers of the rule are written here by hand, and buckets are computed from the definition, not by the code
that the vectors test. Keys come from fixed seeds and times are fixed, so that every byte of the signed files is too.
"""

from __future__ import annotations

import hashlib
import json
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from tuf.api.metadata import Metadata

from manifests.canonical_json import canonical
from manifests.keys import fingerprint, make_key
from manifests.model import Condition, Encoding, Release, Rule, release_to_custom
from manifests.trust import (
    Lifetimes,
    SignedManifest,
    etag,
    first_root,
    next_root,
    render_body,
    resign,
    root_file_name,
    sign_content,
    tuf_files,
)
from tests.manifests.builders import signer

FOLDER = Path(__file__).parent
LIFETIMES = Lifetimes()
SIGNED_AT = datetime.fromisoformat("2026-01-01T00:00:00+00:00")
SEEDS = {"root_1": b"r" * 32, "root_2": b"R" * 32, "online_1": b"o" * 32, "online_2": b"O" * 32}
ANYONE = {"salt": "5a17", "buckets": 10_000}


def vectors() -> dict[str, Any]:
    """Return the content of every file by its name."""
    return {
        "rollout.json": rollout(),
        "key_fingerprint.json": key_fingerprint(),
        "manifest.json": manifest(),
    }


def written(content: Any) -> str:
    """Return a file's text."""
    return json.dumps(content, indent=2, ensure_ascii=False) + "\n"


# --- The rollout rule ---


def rollout() -> dict[str, Any]:
    return {
        "about": "The rollout rule. `bucket`: SHA-256 of salt, a colon and the device id, its first eight bytes, "
        "big-endian, modulo 10,000. `compare_versions`: -1, 0, 1, or null when one is no version. `matches`: one rule "
        "against one device. `choose`: the version that the device takes, or null.",
        "bucket": [bucket(salt, device) for salt, device in BUCKET_INPUTS],
        "compare_versions": [{"left": a, "right": b, "order": order} for a, b, order in VERSION_ORDERS],
        "matches": [*share_cases(), *(condition_case(*case) for case in CONDITION_CASES), *UNKNOWN_CASES],
        "choose": CHOICES,
    }


def bucket_of(salt: str, device: str) -> int:
    return int(hashlib.sha256(salt.encode() + b":" + device.encode()).hexdigest()[:16], 16) % 10_000


def bucket(salt: str, device: str) -> dict[str, Any]:
    return {"salt": salt, "device_id": device, "bucket": bucket_of(salt, device)}


BUCKET_INPUTS = [
    ("", ""),
    ("a", "b"),
    ("5a17", "device-1"),
    ("5a17", "device-2"),
    ("5a18", "device-1"),
    ("a:b", "c"),
    ("a", "b:c"),
    ("größe", "gerät"),
    ("5a17", "📱"),
    ("0123456789abcdef", "6f1c0f5e-3f2b-4a57-9a5f-0c8f3f2f9e11"),
    ("0123456789abcdef", "6F1C0F5E-3F2B-4A57-9A5F-0C8F3F2F9E11"),
    ("s" * 64, "d" * 64),
]

VERSION_ORDERS: list[tuple[str, str, int | None]] = [
    ("17", "17", 0),
    ("17", "17.0", 0),
    ("17.0.0", "17", 0),
    ("0", "0.0.0", 0),
    ("017", "17", 0),
    ("17.9", "17.10", -1),
    ("9", "10", -1),
    ("17.4.1", "17.4", 1),
    ("2.0", "1.99.99.99", 1),
    ("1.0-beta", "1.0", -1),
    ("1.0-beta", "1.0-alpha", 0),
    ("1.1-beta", "1.0", 1),
    ("1.0+7", "1.0+8", 0),
    ("1.0-rc.1+7", "1.0-rc.1", 0),
    ("999999999999999999", "1000000000000000000", None),
    ("999999999999999999", "999999999999999998", 1),
    ("1.2.3.4.5.6.7.8", "1.2.3.4.5.6.7.8.9", None),
    ("", "1", None),
    ("1", "1.", None),
    ("1", ".1", None),
    ("1", "1..1", None),
    ("1", "v1", None),
    ("1", "1.0b2", None),
    ("1", " 1", None),
    ("1", "1\n", None),
    ("1", "-1", None),
    ("1", "1-", None),
    ("1", "\u0661", None),
]


def share_cases() -> list[dict[str, Any]]:
    device = "device-1"
    own = bucket_of("5a17", device)
    return [
        {"why": why, "rule": {"salt": "5a17", "buckets": buckets}, "facts": {"device_id": device}, "matches": matches}
        for why, buckets, matches in [
            ("a share of nobody", 0, False),
            ("a share of everybody", 10_000, True),
            ("a share that ends at the device's bucket", own, False),
            ("a share that ends behind the device's bucket", own + 1, True),
        ]
    ]


def condition_case(why: str, conditions: dict[str, Any], facts: dict[str, str], matches: bool) -> dict[str, Any]:
    rule = {**ANYONE, "conditions": conditions}
    return {"why": why, "rule": rule, "facts": {"device_id": "device-1", **facts}, "matches": matches}


CONDITION_CASES: list[tuple[str, dict[str, Any], dict[str, str], bool]] = [
    ("no conditions", {}, {}, True),
    ("min is included", {"os_version": {"min": "17.0"}}, {"os_version": "17"}, True),
    ("above min", {"os_version": {"min": "17.9"}}, {"os_version": "17.10"}, True),
    ("under min", {"os_version": {"min": "17.4"}}, {"os_version": "17.3.9"}, False),
    ("below is excluded", {"app_version": {"below": "3.0"}}, {"app_version": "3"}, False),
    ("under below", {"app_version": {"below": "3.0"}}, {"app_version": "2.99"}, True),
    ("a pre-release is under its release", {"app_version": {"min": "3.0"}}, {"app_version": "3.0-beta"}, False),
    ("within a range", {"os_version": {"min": "16", "below": "18"}}, {"os_version": "17.7.2"}, True),
    ("above a range", {"os_version": {"min": "16", "below": "18"}}, {"os_version": "18.0"}, False),
    ("a version that cannot be read", {"os_version": {"min": "1"}}, {"os_version": "Tiramisu"}, False),
    ("a limit that cannot be read", {"os_version": {"min": "new"}}, {"os_version": "17"}, False),
    ("a fact without an order has no min", {"locale": {"min": "1"}}, {"locale": "2"}, False),
    ("a fact without an order has no below", {"os": {"below": "9"}}, {"os": "1"}, False),
    ("the device lacks the fact", {"os_version": {"min": "1"}}, {}, False),
    ("the device lacks the fact that is excluded", {"os": {"none_of": ["ios"]}}, {}, False),
    ("a condition without parts asks for the fact", {"os": {}}, {"os": "ios"}, True),
    ("a condition without parts, and no fact", {"os": {}}, {}, False),
    ("one of several", {"os": {"any_of": ["android", "ios"]}}, {"os": "ios"}, True),
    ("none of several", {"os": {"any_of": ["android", "linux"]}}, {"os": "ios"}, False),
    ("exact match knows case", {"os": {"any_of": ["iOS"]}}, {"os": "ios"}, False),
    ("a device model", {"device_model": {"any_of": ["iPhone15,2"]}}, {"device_model": "iPhone15,2"}, True),
    ("a device model has no prefix", {"device_model": {"any_of": ["iPhone15"]}}, {"device_model": "iPhone15,2"}, False),
    ("an excluded device model", {"device_model": {"none_of": ["Pixel 6"]}}, {"device_model": "Pixel 6"}, False),
    ("not an excluded one", {"device_model": {"none_of": ["Pixel 6"]}}, {"device_model": "Pixel 6a"}, True),
    ("a version as a text", {"os_version": {"any_of": ["17.0"]}}, {"os_version": "17"}, False),
    ("min and an excluded version", {"os_version": {"min": "17", "none_of": ["17.2"]}}, {"os_version": "17.2"}, False),
    ("min and another version", {"os_version": {"min": "17", "none_of": ["17.2"]}}, {"os_version": "17.2.1"}, True),
    ("a language", {"locale": {"any_of": ["de"]}}, {"locale": "de"}, True),
    ("a language with a region", {"locale": {"any_of": ["de"]}}, {"locale": "de-AT"}, True),
    ("a language is no beginning of another", {"locale": {"any_of": ["de"]}}, {"locale": "den"}, False),
    ("a region asks for the region", {"locale": {"any_of": ["de-AT"]}}, {"locale": "de"}, False),
    ("another region", {"locale": {"any_of": ["de-AT"]}}, {"locale": "de-CH"}, False),
    ("a script in between", {"locale": {"any_of": ["zh-TW"]}}, {"locale": "zh-Hant-TW"}, False),
    ("a script", {"locale": {"any_of": ["zh-Hant"]}}, {"locale": "zh-Hant-TW"}, True),
    ("an underscore is a hyphen", {"locale": {"any_of": ["pt_BR"]}}, {"locale": "pt-BR"}, True),
    ("an underscore on the device", {"locale": {"any_of": ["pt"]}}, {"locale": "pt_BR"}, True),
    ("a locale has no case", {"locale": {"any_of": ["DE-at"]}}, {"locale": "de_AT"}, True),
    ("only ASCII has no case", {"locale": {"any_of": ["É"]}}, {"locale": "é"}, False),
    ("an excluded language", {"locale": {"none_of": ["de"]}}, {"locale": "de-AT"}, False),
    ("a language less a region", {"locale": {"any_of": ["de"], "none_of": ["de-AT"]}}, {"locale": "de-CH"}, True),
    (
        "a language in an excluded region",
        {"locale": {"any_of": ["de"], "none_of": ["de-AT"]}},
        {"locale": "de-AT"},
        False,
    ),
    (
        "two conditions that hold",
        {"os": {"any_of": ["ios"]}, "os_version": {"min": "17"}},
        {"os": "ios", "os_version": "17"},
        True,
    ),
    (
        "one of two that fails",
        {"os": {"any_of": ["ios"]}, "os_version": {"min": "17"}},
        {"os": "ios", "os_version": "16"},
        False,
    ),
    ("an unknown fact", {"battery": {"min": "50"}}, {"os": "ios"}, False),
    ("an unknown fact without parts", {"battery": {}}, {"os": "ios"}, False),
    ("the device id is no fact", {"device_id": {"any_of": ["device-1"]}}, {}, False),
    ("the interface is no fact", {"interface": {"any_of": ["x"]}}, {"interface": "x"}, False),
    ("an unknown part", {"os": {"matches": "i.*"}}, {"os": "ios"}, False),
    ("an unknown part beside one that holds", {"os": {"any_of": ["ios"], "or": {}}}, {"os": "ios"}, False),
    ("one of an empty list", {"os": {"any_of": []}}, {"os": "ios"}, False),
    ("an empty list that excludes", {"os": {"none_of": []}}, {"os": "ios"}, False),
    ("a min that is null", {"os_version": {"min": None}}, {"os_version": "17"}, False),
    ("a min that is empty", {"app_version": {"below": "2", "min": None}}, {"app_version": "1"}, False),
]

UNKNOWN_CASES = [
    {
        "why": "an unknown member of the rule",
        "rule": {**ANYONE, "after": "2027-01-01"},
        "facts": {"device_id": "device-1"},
        "matches": False,
    },
]


def offer(version: int, position: int, rule: dict[str, Any] | None = None, interface: str | None = None) -> Any:
    return {"version": version, "position": position, "interface": interface, "rule": rule or ANYONE}


NOBODY = {"salt": "5a17", "buckets": 0}
IOS_ONLY = {**ANYONE, "conditions": {"os": {"any_of": ["ios"]}}}
DEVICE = {"device_id": "device-1", "os": "android"}
CHOICES: list[dict[str, Any]] = [
    {"why": "nothing is offered", "releases": [], "facts": DEVICE, "version": None},
    {"why": "one for all", "releases": [offer(1, 0)], "facts": DEVICE, "version": 1},
    {"why": "the lowest position wins", "releases": [offer(9, 1), offer(1, 0)], "facts": DEVICE, "version": 1},
    {"why": "positions may have gaps", "releases": [offer(2, 70), offer(1, 900)], "facts": DEVICE, "version": 2},
    {
        "why": "at one position the higher version wins",
        "releases": [offer(1, 0), offer(3, 0), offer(2, 0)],
        "facts": DEVICE,
        "version": 3,
    },
    {
        "why": "the share of a rollout leaves the device with the version before",
        "releases": [offer(2, 0, NOBODY), offer(1, 1)],
        "facts": DEVICE,
        "version": 1,
    },
    {
        "why": "a condition leaves the device with the version before",
        "releases": [offer(2, 0, IOS_ONLY), offer(1, 1)],
        "facts": DEVICE,
        "version": 1,
    },
    {
        "why": "a condition that holds",
        "releases": [offer(2, 0, IOS_ONLY), offer(1, 1)],
        "facts": {"device_id": "device-1", "os": "ios"},
        "version": 2,
    },
    {"why": "no rule matches", "releases": [offer(1, 0, NOBODY)], "facts": DEVICE, "version": None},
    {
        "why": "an app takes the first release of its interface",
        "releases": [offer(3, 0, interface="new"), offer(2, 1, interface="old"), offer(1, 2, interface="old")],
        "facts": {"device_id": "device-1", "interface": "old"},
        "version": 2,
    },
    {
        "why": "an app without an interface takes any",
        "releases": [offer(3, 0, interface="new"), offer(2, 1)],
        "facts": DEVICE,
        "version": 3,
    },
    {
        "why": "an app with an interface takes no release whose interface is unknown",
        "releases": [offer(3, 0), offer(2, 1, interface="old")],
        "facts": {"device_id": "device-1", "interface": "old"},
        "version": 2,
    },
    {
        "why": "no release fits the app",
        "releases": [offer(3, 0, interface="new")],
        "facts": {"device_id": "device-1", "interface": "old"},
        "version": None,
    },
]


# --- Environment keys ---


def key_fingerprint() -> dict[str, Any]:
    keys = [signer(bytes([number]) * 32) for number in range(1, 5)]
    online, other = signer(SEEDS["online_1"]), signer(SEEDS["online_2"])
    one = first_root(keys[:1], online, SIGNED_AT, LIFETIMES)
    three = first_root(keys[:3], online, SIGNED_AT, LIFETIMES, threshold=2)
    roots = {
        "one key": one,
        "the same key with another online key and another time": first_root(
            keys[:1], other, SIGNED_AT + timedelta(days=9), LIFETIMES
        ),
        "the same key in the next root": next_root(one, keys[:1], keys[:1], other, SIGNED_AT, LIFETIMES),
        "another key": first_root(keys[1:2], online, SIGNED_AT, LIFETIMES),
        "three keys of which two sign": three,
        "the same three in another order": first_root(keys[2::-1], online, SIGNED_AT, LIFETIMES, threshold=2),
        "the same three of which one signs": first_root(keys[:3], online, SIGNED_AT, LIFETIMES),
        "another of the three": next_root(three, keys[:2], [keys[3], *keys[1:3]], online, SIGNED_AT, LIFETIMES),
    }
    return {
        "about": "The fingerprint of a root's keys: the first 16 bytes of the SHA-256 of the canonical JSON of "
        '{"keys": [{"keytype", "public", "scheme"}, …], "threshold"}, in lower-case base32 without padding. A key is '
        "the environment's name, an id and that fingerprint; it certifies a root that has the fingerprint and that "
        "enough of its own keys signed.",
        "fingerprints": [
            {"why": why, "root": root.decode(), "hashed": hashed(root).decode(), "fingerprint": fingerprint(root)}
            for why, root in roots.items()
        ],
        "keys": [key_case(*case) for case in KEY_CASES],
        "certified": certified_cases(one, three),
    }


def hashed(root: bytes) -> bytes:
    signed = json.loads(root)["signed"]
    role = signed["roles"]["root"]
    members = sorted(
        (key["keytype"], key["scheme"], key["keyval"]["public"])
        for key in (signed["keys"][key_id] for key_id in role["keyids"])
    )
    keys = [{"keytype": keytype, "public": public, "scheme": scheme} for keytype, scheme, public in members]
    return canonical({"keys": keys, "threshold": role["threshold"]})


ID, PRINT = "abcdefghij27", "abcdefghijklmnopqrstuvwx27"
KEY_CASES: list[tuple[str, tuple[str, str, str] | None]] = [
    (f"prod-{ID}-{PRINT}", ("prod", ID, PRINT)),
    (f"d-{ID}-{PRINT}", ("d", ID, PRINT)),
    (f"pre-prod-2-{ID}-{PRINT}", ("pre-prod-2", ID, PRINT)),
    (f"a--{ID}-{PRINT}", ("a-", ID, PRINT)),
    (f"{'a' * 31}-{ID}-{PRINT}", ("a" * 31, ID, PRINT)),
    (f"{'a' * 32}-{ID}-{PRINT}", None),
    (f"Prod-{ID}-{PRINT}", None),
    (f"2prod-{ID}-{PRINT}", None),
    (f"-{ID}-{PRINT}", None),
    (f"{ID}-{PRINT}", None),
    (f"prod-{ID[:-1]}-{PRINT}", None),
    (f"prod-{ID}-{PRINT[:-1]}", None),
    (f"prod-{ID}-{PRINT.upper()}", None),
    (f"prod-{ID[:-1]}1-{PRINT}", None),
    (f"prod_{ID}_{PRINT}", None),
    (f"prod-{ID}-{PRINT}\n", None),
    (f" prod-{ID}-{PRINT}", None),
    ("", None),
]


def key_case(text: str, parts: tuple[str, str, str] | None) -> dict[str, Any]:
    names = ("name", "id", "fingerprint")
    return {"text": text, "parts": None if parts is None else dict(zip(names, parts, strict=True))}


def certified_cases(one: bytes, three: bytes) -> list[dict[str, Any]]:
    unsigned = Metadata.from_bytes(one).to_dict() | {"signatures": []}
    lone = Metadata.from_bytes(three).to_dict()
    lone["signatures"] = lone["signatures"][:1]
    key = make_key("prod", one, b"\x00" * 8)
    return [
        {"why": "the key's own root", "key": key, "root": one.decode(), "certified": True},
        {"why": "a root of other keys", "key": key, "root": three.decode(), "certified": False},
        {"why": "a root that nobody signed", "key": key, "root": canonical(unsigned).decode(), "certified": False},
        {
            "why": "a root that too few signed",
            "key": make_key("prod", three, b"\x00" * 8),
            "root": canonical(lone).decode(),
            "certified": False,
        },
        {"why": "no root at all", "key": key, "root": "{}", "certified": False},
    ]


# --- A whole signed manifest ---


def manifest() -> dict[str, Any]:
    roots = {1: first_root([signer(SEEDS["root_1"])], signer(SEEDS["online_1"]), SIGNED_AT, LIFETIMES)}
    roots[2] = next_root(
        roots[1],
        [signer(SEEDS["root_1"])],
        [signer(SEEDS["root_2"])],
        signer(SEEDS["online_2"]),
        SIGNED_AT + timedelta(days=1),
        LIFETIMES,
    )
    signed = history()
    body = render_body(signed, 1)
    return {
        "about": "A manifest as a device fetches it, with the roots that lead to it. Every key is Ed25519 from a fixed "
        "seed, so every byte is known. `verify_at` is a time at which nothing has expired. `refused` holds bodies that "
        "a device must not accept: `parse` says whether reading them already fails, or only verifying them does.",
        "seeds": {name: seed.hex() for name, seed in SEEDS.items()},
        "key": make_key("prod", roots[1], bytes(range(8))),
        "verify_at": "2026-01-03T00:00:00Z",
        "roots": {root_file_name(number): data.decode() for number, data in roots.items()},
        "body": body.decode(),
        "etag": etag(body),
        "revision": signed.revision,
        "files": {name: data.decode() for name, data in tuf_files(signed).items()},
        "releases": [release_json(r) for r in sorted(RELEASES, key=lambda r: (r.model, r.position))],
        "refused": refused(body, signed),
    }


RELEASES = (
    Release(
        "silero vad",
        6,
        hashlib.sha256(b"vad 6").hexdigest(),
        2_327_524,
        0,
        Rule("0123456789abcdef", 2_500, {"os_version": Condition(min="17.0"), "locale": Condition(none_of=("de-AT",))}),
        (
            Encoding("identity", hashlib.sha256(b"vad 6").hexdigest(), 2_327_524),
            Encoding("zstd", hashlib.sha256(b"vad 6 zstd").hexdigest(), 1_907_112),
            Encoding(
                "zstd-prefix",
                hashlib.sha256(b"vad 5 to 6").hexdigest(),
                1_400_320,
                hashlib.sha256(b"vad 5").hexdigest(),
            ),
        ),
        "0123456789abcdef0123456789abcdef",
    ),
    Release(
        "silero vad",
        5,
        hashlib.sha256(b"vad 5").hexdigest(),
        2_243_022,
        1,
        Rule("fedcba9876543210"),
        (Encoding("identity", hashlib.sha256(b"vad 5").hexdigest(), 2_243_022),),
        "0123456789abcdef0123456789abcdef",
    ),
    Release(
        'größe "数字" \\',
        1,
        hashlib.sha256(b"").hexdigest(),
        0,
        0,
        Rule("x"),
        (Encoding("identity", hashlib.sha256(b"").hexdigest(), 0),),
    ),
)


def history() -> SignedManifest:
    """Publish twice with the first online key, then sign anew with the second."""
    first = sign_content([], None, signer(SEEDS["online_1"]), 1, SIGNED_AT, LIFETIMES)
    second = sign_content(RELEASES, first, signer(SEEDS["online_1"]), 1, SIGNED_AT, LIFETIMES)
    return resign(second, signer(SEEDS["online_2"]), 2, SIGNED_AT + timedelta(days=1), LIFETIMES)


def release_json(release: Release) -> dict[str, Any]:
    return {
        "path": release.path,
        "length": release.length,
        "sha256": release.artifact,
        "custom": release_to_custom(release),
    }


def refused(body: bytes, signed: SignedManifest) -> list[dict[str, Any]]:
    stranger = sign_content(RELEASES, None, signer(b"s" * 32), 2, SIGNED_AT, LIFETIMES)
    mixed = SignedManifest(2, signed.timestamp, signed.snapshot, history_before(signed).targets)
    cases = [
        ("a changed hash", True, body.replace(RELEASES[0].artifact.encode(), b"0" * 64)),
        ("a changed share", True, body.replace(b'"buckets":2500', b'"buckets":9999')),
        ("signed by a stranger", True, render_body(stranger, 1)),
        ("targets of the revision before", True, render_body(mixed, 1)),
        ("a fraction", False, body.replace(b'"buckets":2500', b'"buckets":2500.0')),
        ("a member twice", False, body.replace(b'"buckets":2500', b'"buckets":2500,"buckets":2500')),
        ("another format", False, body.replace(b'"skafos":1', b'"skafos":2', 1)),
        ("cut off", False, body[:-1]),
    ]
    return [{"why": why, "parse": parses, "body": data.decode()} for why, parses, data in cases]


def history_before(signed: SignedManifest) -> SignedManifest:
    first = sign_content([], None, signer(SEEDS["online_2"]), 2, SIGNED_AT, LIFETIMES)
    assert first.targets != signed.targets
    return first


def main() -> None:
    """Write every file."""
    for name, content in vectors().items():
        (FOLDER / name).write_text(written(content))


if __name__ == "__main__":
    main()
