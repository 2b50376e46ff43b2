"""The lines of the integration guide's section on curl, run as they stand."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import httpx

from tests.command import ROOT
from tests.components import require
from tests.flows.running import Running, until
from tests.models import onnx_model

APP, MODEL = "Guide", "listening"


def test_the_lines_with_curl_fetch_a_model_and_report_it(skafos_up: Running, tmp_path: Path) -> None:
    require("curl")
    with skafos_up.client() as client:
        names = (skafos_up.organization, APP, MODEL)
        client.create_app(names[0], APP, "org.example.guide", "linux")
        client.create_model(*names)
        (tmp_path / "listening.onnx").write_bytes(onnx_model())
        client.upload_version(*names, tmp_path / "listening.onnx")
        client.deploy(*names, version=1, environment="dev")
        key = client.get_environment(names[0], APP, "dev").keys[0].key
    url = f"{skafos_up.edge_url}/v2/environments/{key}/manifest"
    until(lambda: f'"{MODEL}/1"' in httpx.get(url).text, "the version at the edge")

    guide = (ROOT / "docs" / "integration.md").read_text()
    (lines,) = re.findall(r"^```sh\n(EDGE=.*?)^```$", guide, re.MULTILINE | re.DOTALL)
    first, _, rest = lines.partition("\n")
    assert re.fullmatch(rf"EDGE=\S+ KEY=\S+ MODEL={MODEL}", first)
    script = f"EDGE={skafos_up.edge_url} KEY={key} MODEL={MODEL}\n{rest}"
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("304\n")
    assert (tmp_path / "version-1" / "listening.onnx").read_bytes() == onnx_model()
    assert '"accepted":1' in done.stdout.replace(" ", "")
    assert '"registered"' in done.stdout
    with skafos_up.client() as client:
        until(lambda: [each.version for each in client.adoption(*names, environment="dev").now] == [1], "the report")
