"""Versions as the API shows them: whatever was uploaded, a model's list can be read."""

from __future__ import annotations

import json

from control_plane.api.schemas import PatchCountsOut
from control_plane.api.versions import show_version
from control_plane.tables import Model, ModelVersion, new_id, utc_now
from tests.control_plane.running import ORGANIZATION, Api
from tests.control_plane.world import zipped
from tests.models import mlmodelc

APPS = f"/v2/organizations/{ORGANIZATION}/apps"


def new_model(api: Api, name: str) -> str:
    """Make an application and a model of this name; return the model's path."""
    api.post(APPS, {"name": name, "bundle_id": f"org.example.{name}", "platform": "ios"})
    api.post(f"{APPS}/{name}/models", {"name": name})
    return f"{APPS}/{name}/models/{name}"


def test_a_model_whose_shapes_are_nonsense_is_finished_shown_and_listed(api: Api) -> None:
    model = new_model(api, "shapes")
    array = {"name": "x", "type": "MultiArray", "dataType": "Float32", "hasShapeFlexibility": "1"}
    for ranges in ("[[{},{}]]", "[[1.5,1.5]]", "[[Infinity,Infinity]]", "[[true,true]]", f"[[{10**30},{10**30}]]"):
        version = api.upload(model, zipped(mlmodelc([array | {"shapeRange": ranges}], [])))
        assert version["format"] == "coreml-mlmodelc"
        assert [tensor["shape"] for tensor in version["inputs"]] == [[None]]
        assert api.get(f"{model}/model_versions/{version['version']}") == version
    assert len(api.get(f"{model}/model_versions")) == 5


def test_a_stored_shape_that_is_none_is_shown_as_unknown() -> None:
    """A release that checked less may have stored it."""
    stored = [
        {"name": "x", "type": "float32", "shape": [1, "n", None, {}, 1.5, True]},
        {"name": "y", "type": "t", "shape": 3},
    ]
    now = utc_now()
    version = ModelVersion(
        id=new_id(),
        version=1,
        state="ready",
        filename="m.zip",
        files=[],
        inputs=stored,
        outputs=[],
        created_at=now,
        updated_at=now,
    )
    shown = json.loads(show_version(version, Model(name="m"), PatchCountsOut()).model_dump_json())
    assert [tensor["shape"] for tensor in shown["inputs"]] == [[1, "n", None, None, None, None], []]
