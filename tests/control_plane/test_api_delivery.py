"""Applications, environments, models, versions and deployments over the management API, on SQLite and PostgreSQL."""

from __future__ import annotations

import io
import os
import time
import zipfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from typing import Any

import httpx
import pytest

from artifacts.patch.build import ENCODERS
from tests.control_plane.running import ORGANIZATION, Api

APPS = f"/v2/organizations/{ORGANIZATION}/apps"
_numbers = count(1)


def zipped(**files: bytes) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(zipfile.ZipInfo(name, (2026, 1, 1, 0, 0, 0)), data)  # the same bytes at any time
    return out.getvalue()


@pytest.fixture
def app(api: Api) -> str:
    """The path of a fresh application."""
    number = next(_numbers)
    body = {"name": f"app {number}", "bundle_id": f"org.example.app{number}", "platform": "ios"}
    return f"{APPS}/{api.post(APPS, body)['name']}"


@pytest.fixture
def model(api: Api, app: str) -> str:
    """The path of a fresh model of a fresh application."""
    return f"{app}/models/{api.post(f'{app}/models', {'name': 'tagger'})['name']}"


def deploy(api: Api, model: str, version: int | str, environment: str = "prod", **more: Any) -> Any:
    return api.post(f"{model}/deploy", {"version": version, "environment": environment} | more)


def offered(api: Api, model: str, environment: str = "prod") -> list[tuple[int, float]]:
    groups = {group["name"]: group for group in api.get(f"{model}/environment_groups")}
    return [(release["version"], release["percent"]) for release in groups[environment]["releases"]]


# --- Applications ----------------------------------------------------------------------------------------------------


def test_an_application_has_dev_and_prod_each_with_a_key_of_its_own(api: Api, app: str) -> None:
    environments = api.get(f"{app}/environments")
    assert [environment["name"] for environment in environments] == ["dev", "prod"]
    for environment in environments:
        assert environment["key"].startswith(f"{environment['name']}-")
        assert [key["key"] for key in environment["keys"]] == [environment["key"]]
        assert (environment["revision"], environment["root"]) == (1, 1)


def test_names_and_bundle_ids_are_unique_within_the_organization(api: Api, app: str) -> None:
    shown = api.get(app)
    for name, bundle_id in ((shown["name"], "org.example.other"), ("another name", shown["bundle_id"])):
        answer = api.call("POST", APPS, {"name": name, "bundle_id": bundle_id, "platform": "ios"})
        assert (answer.status_code, answer.json()["code"]) == (409, "taken")
    token = api.outsider("Neighbour", "neighbour@example.org")
    same = {"name": shown["name"], "bundle_id": shown["bundle_id"], "platform": "ios"}
    api.post("/v2/organizations/Neighbour/apps", same, token=token)


def test_an_application_is_renamed_and_found_by_its_id_and_its_new_name(api: Api, app: str) -> None:
    shown = api.get(app)
    renamed = api.patch(app, {"name": f"{shown['name']} renamed", "platform": "android"})
    assert renamed["platform"] == "android"
    assert api.get(f"{APPS}/{shown['id']}") == api.get(f"{APPS}/{renamed['name']}")
    assert api.call("GET", app).status_code == 404
    assert api.call("PATCH", f"{APPS}/{shown['id']}", {}).status_code == 400


def test_applications_are_listed_with_their_models_when_asked(api: Api, model: str) -> None:
    app = model.rpartition("/models/")[0]
    name = app.rpartition("/")[2]
    plain = next(item for item in api.get(APPS) if item["name"] == name)
    assert "models" not in plain
    full = next(item for item in api.get(f"{APPS}?with_models=true") if item["name"] == name)
    assert [item["name"] for item in full["models"]] == ["tagger"]
    assert full["models"][0]["updated_at"]
    assert api.get(f"{app}?with_models=true")["models"] == full["models"]


def test_a_deleted_application_is_gone_with_all_it_held(api: Api, model: str) -> None:
    api.upload(model, b"weights", "tagger.tflite")
    deploy(api, model, 1)
    app = model.rpartition("/models/")[0]
    api.delete(app)
    for path in (app, model, f"{app}/environments/prod"):
        assert api.call("GET", path).status_code == 404


# --- Environments and keys -------------------------------------------------------------------------------------------


def test_environments_are_added_and_deleted_but_dev_and_prod_stay(api: Api, app: str) -> None:
    added = api.post(f"{app}/environments", {"name": "staging"})
    assert added["key"].startswith("staging-")
    assert api.call("POST", f"{app}/environments", {"name": "staging"}).status_code == 409
    api.delete(f"{app}/environments/{added['id']}")
    assert api.call("GET", f"{app}/environments/staging").status_code == 404
    for name in ("dev", "prod"):
        assert api.call("DELETE", f"{app}/environments/{name}").status_code == 409


def test_an_added_environment_is_renamed_with_all_that_it_has_but_dev_and_prod_are_not(api: Api, model: str) -> None:
    app = model.rpartition("/models/")[0]
    added = api.post(f"{app}/environments", {"name": "staging"})
    api.upload(model, b"one", "tagger.tflite")
    deploy(api, model, 1, "staging")
    before = api.get(f"{app}/environments/staging")

    renamed = api.patch(f"{app}/environments/staging", {"name": "beta"})

    assert renamed | {"name": "staging", "updated_at": None} == before | {"updated_at": None}
    assert (renamed["id"], renamed["key"]) == (added["id"], added["key"]), "apps go on with the key that they ship"
    assert api.call("GET", f"{app}/environments/staging").status_code == 404
    assert offered(api, model, "beta") == [(1, 100.0)]
    assert [each["environment"] for each in api.get(f"{model}/deployments?environment=beta")] == ["beta"]
    assert api.post(f"{app}/environments/beta/keys", {"overlap_seconds": 60})["key"].startswith("beta-")
    assert api.post(f"{app}/environments", {"name": "staging"})["key"].startswith("staging-")
    taken = api.call("PATCH", f"{app}/environments/beta", {"name": "staging"})
    assert (taken.status_code, taken.json()["code"]) == (409, "taken")
    for name in ("dev", "prod"):
        refused = api.call("PATCH", f"{app}/environments/{name}", {"name": "other"})
        assert (refused.status_code, refused.json()["code"]) == (409, "needed")
        assert api.call("PATCH", f"{app}/environments/beta", {"name": name}).status_code == 409
    (entry,) = [
        each
        for each in api.get(f"/v2/organizations/{ORGANIZATION}/audit")
        if each["action"] == "environment.rename" and each["target"] == f"{app.rpartition('/')[2]}/beta"
    ]
    assert entry["detail"] == {"was": "staging"}


def test_a_key_is_replaced_with_both_valid_for_a_while_and_the_old_one_revoked(api: Api, app: str) -> None:
    keys = f"{app}/environments/prod/keys"
    old = api.get(keys)[0]
    new = api.post(keys, {"overlap_seconds": 3600})
    listed = api.get(keys)
    assert [key["id"] for key in listed] == [new["id"], old["id"]]
    assert listed[0]["expires_at"] is None
    assert listed[1]["expires_at"] is not None
    api.delete(f"{keys}/{old['id']}")
    assert [key["id"] for key in api.get(keys)] == [new["id"]]
    assert api.get(f"{app}/environments/prod")["key"] == new["key"]
    last = api.call("DELETE", f"{keys}/{new['id']}")
    assert last.status_code == 409


def test_root_and_online_keys_are_rotated(api: Api, app: str) -> None:
    environment = f"{app}/environments/prod"
    before = api.get(environment)
    after_root = api.post(f"{environment}/root/rotate")
    assert after_root["root"] == before["root"] + 1
    after_online = api.post(f"{environment}/online-key/rotate")
    assert after_online["root"] == before["root"] + 2
    assert after_online["revision"] > after_root["revision"] > before["revision"]
    assert after_online["key"] == before["key"], "apps in the field go on with the key that they ship"


def test_devices_are_listed(api: Api, app: str) -> None:
    assert api.get(f"{app}/environments/prod/devices") == []


# --- Models and versions ---------------------------------------------------------------------------------------------


def test_models_are_created_renamed_and_deleted(api: Api, app: str) -> None:
    created = api.post(f"{app}/models", {"name": "first"})
    assert created["latest_version"] is None
    assert api.call("POST", f"{app}/models", {"name": "first"}).status_code == 409
    assert api.patch(f"{app}/models/first", {"name": "second"})["id"] == created["id"]
    api.delete(f"{app}/models/second")
    assert api.get(f"{app}/models") == []


def test_a_version_has_a_number_once_its_upload_has_finished(api: Api, model: str) -> None:
    begun = api.post(f"{model}/model_versions", {"filename": "tagger.zip", "description": "first try"})
    path = f"{model}/model_versions/{begun['model_version_id']}"
    assert api.get(path)["version"] is None
    assert api.get(f"{model}/model_versions?order_by=version") == []
    early = api.call("PATCH", path, {"filepath": begun["filepath"]})
    assert early.status_code == 409, "no byte was sent"
    assert httpx.put(begun["presigned_url"], content=zipped(a=b"1", b=b"22")).status_code == 200
    finished = api.patch(path, {"filepath": begun["filepath"]})
    assert (finished["version"], finished["name"], finished["model"]) == (1, "tagger.zip", "tagger")
    assert finished["description"] == "first try"
    assert [(file["name"], file["length"]) for file in finished["files"]] == [("a", 1), ("b", 2)]
    assert api.patch(path, {"filepath": begun["filepath"]}) == finished, "asking again changes nothing"
    assert api.get(f"{model}/model_versions?order_by=version") == [finished]
    assert api.get(f"{model}/model_versions/1") == api.get(path) == finished
    assert api.get(model)["latest_version"] == 1


def test_a_version_is_described_anew_and_undescribed(api: Api, model: str) -> None:
    api.upload(model, b"weights", "tagger.tflite", "before")
    assert api.patch(f"{model}/model_versions/1", {"description": "after\nsecond line"})["description"].startswith(
        "after"
    )
    assert api.patch(f"{model}/model_versions/1", {"description": None})["description"] is None
    assert api.call("PATCH", f"{model}/model_versions/1", {}).status_code == 400


def test_a_version_is_renamed_and_its_bytes_stay_what_they_are(api: Api, model: str) -> None:
    version = f"{model}/model_versions/1"
    uploaded = api.upload(model, b"weights", "tagger.tflite")
    deploy(api, model, 1)
    renamed = api.patch(version, {"name": "Tagger of May.tflite", "description": "retrained"})
    assert (renamed["name"], renamed["filename"], renamed["description"]) == (
        *("Tagger of May.tflite", "Tagger of May.tflite", "retrained"),
    )
    same = ("artifact_sha256", "upload_sha256", "files", "version")
    assert {name: renamed[name] for name in same} == {name: uploaded[name] for name in same}
    fetched = api.call("GET", f"/download{model}")
    assert "Tagger%20of%20May.tflite" in fetched.headers["Content-Disposition"]
    assert fetched.content == b"weights"
    for name in ("tagger.zip", "", "a/b.tflite", "..", None, "x" * 256):
        assert api.call("PATCH", version, {"name": name}).status_code == 400
    assert api.get(version)["name"] == "Tagger of May.tflite"

    api.upload(model, zipped(m=b"weights"), "tagger.zip")
    assert api.call("PATCH", f"{model}/model_versions/2", {"name": "tagger.tflite"}).status_code == 400
    assert api.patch(f"{model}/model_versions/2", {"name": "May.ZIP"})["name"] == "May.ZIP"


def test_a_version_is_not_renamed_before_its_upload_has_finished(api: Api, model: str) -> None:
    begun = api.post(f"{model}/model_versions", {"filename": "tagger.tflite"})
    early = api.call("PATCH", f"{model}/model_versions/{begun['model_version_id']}", {"name": "other.tflite"})
    assert (early.status_code, early.json()["code"]) == (409, "not_finished")


def test_numbers_are_not_used_again_after_a_version_was_deleted(api: Api, model: str) -> None:
    api.upload(model, b"one", "tagger.tflite")
    api.upload(model, b"two", "tagger.tflite")
    api.delete(f"{model}/model_versions/2")
    assert api.get(model)["latest_version"] == 1
    assert api.upload(model, b"three", "tagger.tflite")["version"] == 3


def test_what_is_offered_can_neither_be_deleted_nor_renamed(api: Api, model: str) -> None:
    api.upload(model, b"one", "tagger.tflite")
    deploy(api, model, 1)
    for answer in (
        api.call("DELETE", f"{model}/model_versions/1"),
        api.call("PATCH", model, {"name": "other"}),
        api.call("DELETE", model),
    ):
        assert (answer.status_code, answer.json()["code"]) == (409, "offered")
        assert "prod" in answer.json()["error"]
    assert api.patch(model, {"name": "tagger"})["name"] == "tagger", "its own name is no change"


def test_a_model_that_is_offered_can_be_withdrawn_and_deleted(api: Api, model: str) -> None:
    api.upload(model, b"one", "tagger.tflite")
    deploy(api, model, 1)
    environment = f"{model.rpartition('/models/')[0]}/environments/prod"
    before = api.get(environment)["revision"]
    api.delete(f"{model}?withdraw=true")
    assert api.call("GET", model).status_code == 404
    assert api.get(environment)["revision"] == before + 1, "the environment was published without it"


# --- Deploying -------------------------------------------------------------------------------------------------------


def test_a_deploy_answers_with_the_version_as_its_last_word(api: Api, model: str) -> None:
    for data in (b"one", b"two", b"three"):
        api.upload(model, data, "tagger.tflite")
    for wanted, number in (("latest", 3), (1, 1)):
        answer = deploy(api, model, wanted)
        assert answer["success"].split(" ")[-1] == str(number)
        assert answer["deployment"]["version"] == number
    assert offered(api, model) == [(1, 100.0)]
    assert offered(api, model, "dev") == []


def test_a_partial_deploy_goes_on_top_and_a_roll_back_undoes_it(api: Api, model: str) -> None:
    api.upload(model, b"one", "tagger.tflite")
    api.upload(model, b"two", "tagger.tflite")
    deploy(api, model, 1)
    partial = deploy(api, model, 2, percent=12.5, conditions={"os_version": {"min": "15"}}, push=True)["deployment"]
    assert partial["push"] == {"status": "not_configured", "push_id": None}
    assert partial["conditions"] == {"os_version": {"min": "15"}}
    assert offered(api, model) == [(2, 12.5), (1, 100.0)]
    back = api.post(f"{model}/rollback", {"environment": "prod"})
    assert back["success"].endswith("version 1")
    assert (back["deployment"]["kind"], back["deployment"]["restores"]) == ("rollback", 1)
    assert offered(api, model) == [(1, 100.0)]
    nothing = api.call("POST", f"{model}/rollback", {"environment": "prod"})
    assert nothing.status_code == 409


def test_the_history_tells_every_deployment_of_an_environment_newest_first(api: Api, model: str) -> None:
    api.upload(model, b"one", "tagger.tflite")
    deploy(api, model, 1, "dev")
    deploy(api, model, 1, "prod")
    deploy(api, model, 1, "prod", percent=50)
    history = api.get(f"{model}/deployments")
    assert [(item["environment"], item["number"], item["percent"]) for item in history] == [
        ("prod", 2, 50.0),
        ("prod", 1, 100.0),
        ("dev", 1, 100.0),
    ]
    assert {item["actor"] for item in history} == {"owner@example.org"}
    assert [item["number"] for item in api.get(f"{model}/deployments?environment=prod")] == [2, 1]
    assert api.call("GET", f"{model}/deployments?environment=nowhere").status_code == 404


def test_what_is_not_there_cannot_be_deployed(api: Api, model: str) -> None:
    for body in (
        {"version": "latest", "environment": "prod"},
        {"version": 1, "environment": "prod"},
        {"version": 1, "environment": "qa"},
    ):
        answer = api.call("POST", f"{model}/deploy", body)
        assert answer.status_code == 400
        assert answer.json()["error"]
    assert api.call("POST", f"{model}/rollback", {"environment": "qa"}).status_code == 400


def test_patches_between_versions_are_told(api: Api, model: str) -> None:
    for data in (b"one" * 1000, b"two" * 1000):
        api.upload(model, data, "tagger.tflite")
        deploy(api, model, "latest")
    patch = api.get(f"{model}/patches")[0]
    assert (patch["from_version"], patch["to_version"]) == (1, 2)
    assert patch["state"] in ("pending", "running", "built", "skipped")
    assert patch["full_length"] > 0


def test_why_a_patch_was_skipped_is_told_wherever_versions_are_shown(api: Api, model: str) -> None:
    alike = os.urandom(20_000)
    for data in (alike, os.urandom(20_000), alike + b"more"):
        api.upload(model, data, "tagger.tflite")
    for version in (1, 2, 3):
        deploy(api, model, version)

    def ended() -> Any:
        found = api.get(f"{model}/patches?to_version=3")
        return found if all(patch["state"] not in ("pending", "running") for patch in found) else None

    patches = {patch["from_version"]: patch for patch in until(ended)}
    built, skipped = patches[1], patches[2]
    assert (built["state"], built["code"], built["encoding"] in ENCODERS) == ("built", None, True)
    assert built["length"] < 1000 < 20_000 < built["full_length"]
    assert (skipped["state"], skipped["code"], skipped["encoding"]) == ("skipped", "not_smaller", None)
    assert skipped["reason"].startswith("the patch has")
    nobody_counted = {"environment": "prod", "wanted": True, "code": None, "devices": None, "share": None}
    assert built["environments"] == [nobody_counted]

    assert api.get(f"{model}/model_versions/3")["patches"] == {
        "built": 1,
        "waiting": 0,
        "failed": 0,
        "skipped": {"not_smaller": 1},
    }
    listed = {version["version"]: version["patches"] for version in api.get(f"{model}/model_versions")}
    assert listed[1] == {"built": 0, "waiting": 0, "failed": 0, "skipped": {}}

    (prod,) = [group for group in api.get(f"{model}/environment_groups") if group["name"] == "prod"]
    (offer,) = prod["releases"]
    assert offer["full_length"] == built["full_length"]
    told = {patch["from_version"]: (patch["state"], patch["code"], patch["length"]) for patch in offer["patches"]}
    assert told == {1: ("built", None, built["length"]), 2: ("skipped", "not_smaller", None)}

    assert [patch["from_version"] for patch in api.get(f"{model}/patches?from_version=2")] == [2]
    assert api.get(f"{model}/patches?environment=dev") == []
    assert len(api.get(f"{model}/patches?environment=prod&to_version=3")) == 2
    for wrong, status in (("environment=qa", 404), ("to_version=0", 400), ("to_version=x", 400), ("other=1", 400)):
        assert api.call("GET", f"{model}/patches?{wrong}").status_code == status


def test_looks_at_what_devices_hold_and_skipped_patches_are_counted(api: Api, model: str) -> None:
    for _ in (1, 2):
        api.upload(model, os.urandom(5000), "tagger.tflite")
        deploy(api, model, "latest")

    def counted() -> bool:
        lines = httpx.get(f"{api.metrics_url}/metrics").text.splitlines()
        looks = [line for line in lines if line.startswith('skafos_control_patch_looks_total{source="history"}')]
        skipped = [
            line for line in lines if line.startswith('skafos_control_patches_skipped_total{code="not_smaller"}')
        ]
        return bool(looks and skipped)

    assert until(counted)


def until(found: Callable[[], Any]) -> Any:
    deadline = time.monotonic() + 60
    while not (result := found()):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    return result


# --- At once ---------------------------------------------------------------------------------------------------------


def test_of_many_who_take_one_name_at_once_one_gets_it(api: Api, app: str) -> None:
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: api.call("POST", f"{app}/models", {"name": "same"}).status_code, range(16)))
    assert sorted(answers) == [201] + [409] * 15
    assert [model["name"] for model in api.get(f"{app}/models")] == ["same"]


def test_deployments_at_once_come_in_one_order_and_all_are_in_the_history_and_the_audit_log(
    api: Api, model: str
) -> None:
    for data in (b"one", b"two"):
        api.upload(model, data, "tagger.tflite")
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda number: deploy(api, model, 1 + number % 2), range(8)))
    history = api.get(f"{model}/deployments?environment=prod")
    assert sorted(item["number"] for item in history) == list(range(1, 9))
    by_number = sorted(history, key=lambda item: item["number"])
    revisions = [item["revision"] for item in by_number]
    assert revisions == sorted(set(revisions)), "each made a manifest of its own, in the order of their numbers"
    assert {answer["deployment"]["id"] for answer in answers} == {item["id"] for item in history}
    assert offered(api, model) == [(by_number[-1]["version"], 100.0)], "the last in that order is in effect"
    log = api.get(f"/v2/organizations/{ORGANIZATION}/audit?limit=8")
    assert sorted(entry["detail"]["deployment"] for entry in log) == list(range(1, 9))


# --- Fetching --------------------------------------------------------------------------------------------------------


@pytest.fixture
def fetched(api: Api, model: str) -> Callable[..., httpx.Response]:
    """A model with two versions, and how to fetch from it."""
    for data in (b"one", b"two"):
        api.upload(model, zipped(weights=data * 50_000))
    path = model.replace("/v2/", "/download/v2/", 1)
    return lambda query="", method="GET", **headers: api.call(method, f"{path}{query}", headers=headers)


def test_a_version_is_fetched_byte_for_byte(fetched: Callable[..., httpx.Response]) -> None:
    for query, data in (("", b"two"), ("?version=1", b"one"), ("?version=2", b"two")):
        answer = fetched(query)
        assert answer.content == zipped(weights=data * 50_000)
        assert answer.headers["Content-Length"] == str(len(answer.content))
        assert answer.headers["Content-Disposition"] == "attachment; filename*=UTF-8''tagger.zip"


def test_a_fetch_is_resumed_by_range_while_the_file_is_the_same(fetched: Callable[..., httpx.Response]) -> None:
    whole = fetched()
    etag, length = whole.headers["ETag"], len(whole.content)
    for wanted, expected in (
        ("bytes=10-", whole.content[10:]),
        ("bytes=10-19", whole.content[10:20]),
        ("bytes=-7", whole.content[-7:]),
        (f"bytes=0-{length * 2}", whole.content),
    ):
        part = fetched(Range=wanted, **{"If-Range": etag})
        assert part.content == expected
        if len(expected) < length:
            assert part.status_code == 206
            start = whole.content.index(expected)
            assert part.headers["Content-Range"] == f"bytes {start}-{start + len(expected) - 1}/{length}"
    assert fetched(Range="bytes=10-", **{"If-Range": '"another"'}).content == whole.content
    for odd in ("bytes=5-1", "lines=1-2", "bytes=a-b", "bytes=0-1,3-4"):
        assert fetched(Range=odd).status_code in (200, 416)
    behind = fetched(Range=f"bytes={length}-")
    assert (behind.status_code, behind.headers["Content-Range"]) == (416, f"bytes */{length}")
    assert set(behind.json()) == {"error", "code"}


def test_a_head_tells_what_a_fetch_would_send(fetched: Callable[..., httpx.Response]) -> None:
    head, whole = fetched(method="HEAD"), fetched()
    assert head.content == b""
    assert head.headers["Content-Length"] == whole.headers["Content-Length"]
    assert head.headers["ETag"] == whole.headers["ETag"]


def test_what_was_never_finished_cannot_be_fetched(api: Api, model: str) -> None:
    path = model.replace("/v2/", "/download/v2/", 1)
    api.post(f"{model}/model_versions", {"filename": "tagger.zip"})
    assert api.call("GET", path).status_code == 404
    assert api.call("GET", f"{path}?version=1").status_code == 404


# --- Asking ClickHouse -----------------------------------------------------------------------------------------------


def test_adoption_of_a_model_without_devices_is_empty_and_not_an_error(api: Api, model: str) -> None:
    report = api.get(f"{model}/adoption?environment=prod&days=7")
    assert (report["by_day"], report["now"], report["installations"]) == ([], [], 0)
    assert api.call("GET", f"{model}/adoption?environment=qa").status_code == 404


def test_sql_is_answered_read_only_and_only_about_ones_own_events(api: Api) -> None:
    assert api.post("/v2/sql", {"query": "SELECT count() AS n FROM events"}) == {"rows": [{"n": 0}], "truncated": False}
    for query in (
        "DROP TABLE events",
        "SELECT 1; SELECT 2",
        "SELECT * FROM system.tables",
        "SELECT file('/etc/passwd')",
    ):
        refused = api.call("POST", "/v2/sql", {"query": query})
        assert (refused.status_code, refused.json()["code"]) == (400, "forbidden_query"), query
    wrong = api.call("POST", "/v2/sql", {"query": "SELECT no_such_column FROM events"})
    assert wrong.status_code == 400
    other = api.call("POST", "/v2/sql", {"query": "SELECT 1", "organization": "Nobody's"})
    assert other.status_code == 404


def test_a_person_without_an_organization_has_no_events_to_ask_for(api: Api) -> None:
    members = f"/v2/organizations/{ORGANIZATION}/members"
    api.post(members, {"email": "lonely@example.org", "role": "viewer"})
    token = api.token_of("lonely@example.org")
    api.delete(f"{members}/lonely@example.org")
    assert api.call("POST", "/v2/sql", {"query": "SELECT 1"}, token=token).status_code == 403


# --- Paging ----------------------------------------------------------------------------------------------------------


def pages(api: Api, path: str) -> list[list[Any]]:
    """Follow the Link headers of a list from its first page to its last."""
    found = []
    while True:
        answer = api.call("GET", path)
        assert answer.is_success, answer.text
        found.append(answer.json())
        link = answer.links.get("next")
        if link is None:
            return found
        path = link["url"]
        assert len(found) < 1000


def test_every_list_comes_in_pages_that_hold_each_item_once(api: Api, app: str) -> None:
    for number in range(5):
        api.post(f"{app}/models", {"name": f"model {number}"})
    model = f"{app}/models/model 0"
    for number in range(5):
        api.upload(model, b"data %d" % number, "m.tflite")
        deploy(api, model, "latest")
    org = f"/v2/organizations/{ORGANIZATION}"
    lists = [
        "/v2/organizations",
        "/v2/tokens",
        APPS,
        f"{org}/members",
        f"{org}/audit",
        f"{app}/environments",
        f"{app}/environments/prod/keys",
        f"{app}/environments/prod/devices",
        f"{app}/models",
        f"{model}/model_versions",
        f"{model}/environment_groups",
        f"{model}/deployments",
        f"{model}/patches",
    ]
    for path in lists:
        whole = api.get(path)
        for limit in (1, 2, 1000) if len(whole) < 20 else (17, 1000):
            paged = pages(api, f"{path}?limit={limit}")
            flat = [item for page in paged for item in page]
            assert [_key(item) for item in flat] == [_key(item) for item in whole], (path, limit)
            assert all(len(page) <= limit for page in paged)


def _key(item: dict[str, Any]) -> Any:
    return item.get("id") or item["device_id"]


def test_the_next_page_keeps_the_other_parts_of_the_query(api: Api, app: str) -> None:
    answer = api.call("GET", f"{APPS}?with_models=true&limit=1")
    assert "with_models=true" in answer.links["next"]["url"]
