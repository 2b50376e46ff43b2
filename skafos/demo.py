"""The demonstration of `skafos up --demo`: an example app with two real models and a fleet of simulated devices.

``python -m skafos.demo`` is started by `skafos up`. It makes the app, uploads two releases of each model and deploys
the first to everybody; once all devices run it, the second is rolled out to a part of them. Everything goes through the
public API, and whatever is there already is left as it is, so that it can be started again at any time.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from skafos.client import Client
from skafos.demo_fleet import Fleet, Held, play
from skafos.demo_models import AUDIO, IMAGE, MODELS, DemoModel, ModelsMissing, models_folder
from skafos.exceptions import NotFoundError, SkafosError
from skafos.packing import Naming, packed, zip_name

APP, BUNDLE_ID, PLATFORM = "Field Notes", "org.example.fieldnotes", "ios"
ENVIRONMENT = "prod"
DEVICES = 240
ROLLOUT_PERCENT = 30

CONNECTION_VARIABLE = "SKAFOS_DEMO_CONNECTION"
DEVICES_VARIABLE = "SKAFOS_DEMO_DEVICES_DIR"
SIZE_VARIABLE = "SKAFOS_DEMO_DEVICES"
READY_VARIABLE = "SKAFOS_DEMO_READY_FILE"


@dataclass(frozen=True)
class Demonstration:
    """The example app in the organization of one installation.

    Args:
        client: speaks with the control plane.
        connection: the content of ``connection.json``.
        size: how many devices there are.
    """

    client: Client
    connection: Mapping[str, str]
    size: int = DEVICES
    rolled_out: set[str] = field(default_factory=set)

    @property
    def organization(self) -> str:
        """Return the organization's name."""
        return self.connection["organization"]

    def set_up(self, folder: Path) -> None:
        """Make the app, its models and their versions from the files in ``folder``, and deploy the first of each."""
        self._make_app()
        for model in MODELS:
            self._make_model(model)
            self._upload_missing(model, folder)
            self._deploy_once(model, version=1, environment=ENVIRONMENT, percent=100)
            self._deploy_once(model, version=2, environment="dev", percent=100)

    def _make_app(self) -> None:
        try:
            self.client.get_app(self.organization, APP)
        except NotFoundError:
            self.client.create_app(self.organization, APP, bundle_id=BUNDLE_ID, platform=PLATFORM)

    def _make_model(self, model: DemoModel) -> None:
        try:
            self.client.get_model(self.organization, APP, model.name)
        except NotFoundError:
            self.client.create_model(self.organization, APP, model.name)

    def _upload_missing(self, model: DemoModel, folder: Path) -> None:
        there = len(self.client.list_versions(self.organization, APP, model.name))
        for release in model.releases[there:]:
            with packed(release.files(folder), model.name, Naming.LAST_PART) as archive:
                self.client.upload_version(
                    *(self.organization, APP, model.name),
                    archive,
                    filename=zip_name(model.name),
                    description=release.description,
                )

    def _deploy_once(self, model: DemoModel, version: int, environment: str, percent: float) -> bool:
        """Deploy ``version`` unless it ever was: what users did with it since is theirs. Return whether it was now."""
        deployments = self.client.list_deployments(self.organization, APP, model.name, environment=environment)
        if any(deployment.version >= version for deployment in deployments):
            return False
        self.client.deploy(
            self.organization, APP, model.name, version=version, environment=environment, percent=percent
        )
        return True

    def roll_out_when_adopted(self, held: Held) -> None:
        """Offer the second version to a part of the devices, once all of them hold a version."""
        for model in MODELS:
            if model.name in self.rolled_out or held.count(model.name) < self.size:
                continue
            try:
                deployed = self._deploy_once(model, version=2, environment=ENVIRONMENT, percent=ROLLOUT_PERCENT)
            except SkafosError as error:
                say(f"{model.name}: {error} (tried again after the next check)")
                continue
            self.rolled_out.add(model.name)
            if deployed:
                say(f"{model.name}: version 2 is offered to {ROLLOUT_PERCENT} % of the devices")

    def fleet(self, directory: Path) -> Fleet:
        """Return the devices of the example app, which live in ``directory``."""
        key = self.client.get_environment(self.organization, APP, ENVIRONMENT).key
        if key is None:
            raise SkafosError(f"The environment {ENVIRONMENT} of {APP} has no key any more.")
        models = tuple(model.name for model in MODELS)
        return Fleet(self.connection["edge_url"], key, models, directory, self.size)

    def guide(self, fleet: Fleet) -> dict[str, Any]:
        """Return what to tell the user: what there is, and five commands to try."""
        edge, audio = fleet.edge_url, AUDIO.name
        return {
            "summary": self._summary(),
            "commands": [
                f'export SKAFOS_ORG_NAME="{self.organization}" SKAFOS_APP_NAME="{APP}" SKAFOS_MODEL_NAME={audio}',
                "skafos versions",
                f"skafos adoption --env {ENVIRONMENT}",
                f"skafos device sync --edge {edge} --key {fleet.key} --model {audio} --dir /tmp/my-device",
                f"skafos deploy 2 --env {ENVIRONMENT} --percent 60",
                'skafos sql "SELECT model, version, uniq(device_id) AS devices FROM events GROUP BY model, version"',
            ],
        }

    def _summary(self) -> str:
        """Say what the devices do: the first time what will happen, later what they go on with."""
        devices = f"{self.size} simulated devices of the app {APP!r}"
        offers = {model.name: self._offered(model) for model in MODELS}
        if not all(any(version > 1 for version, _ in offered) for offered in offers.values()):
            return (
                f"{devices} fetch {IMAGE.name!r} and {AUDIO.name!r} one after the other; "
                f"when all have them, in about two minutes, version 2 goes to {ROLLOUT_PERCENT} % of them."
            )
        told = (
            f"{name!r} in version " + " and ".join(f"{version} to {percent:g} %" for version, percent in offered)
            for name, offered in offers.items()
        )
        return f"{devices} go on where they were. They are offered {'; '.join(told)}."

    def _offered(self, model: DemoModel) -> list[tuple[int, float]]:
        """Return the versions of a model that are offered, in the order in which devices try them, and percents."""
        groups = self.client.list_environment_groups(self.organization, APP, model.name)
        return [
            (each.version, each.percent) for group in groups if group.name == ENVIRONMENT for each in group.releases
        ]


def main(settings: Mapping[str, str] = os.environ) -> int:
    """Set the demonstration up and play it until SIGTERM or SIGINT; return the exit code."""
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    connection = json.loads(Path(settings[CONNECTION_VARIABLE]).read_bytes())
    try:
        with Client(connection["control_url"], connection["api_token"]) as client:
            demonstration = Demonstration(client, connection, int(settings.get(SIZE_VARIABLE, DEVICES)))
            demonstration.set_up(models_folder(settings))
            fleet = demonstration.fleet(Path(settings[DEVICES_VARIABLE]))
            write_ready_file(Path(settings[READY_VARIABLE]), demonstration.guide(fleet))
            play(fleet, stop, demonstration.roll_out_when_adopted, say)
    except (SkafosError, ModelsMissing, OSError) as error:
        say(f"error: {error}")
        return 1
    return 0


def write_ready_file(path: Path, guide: Mapping[str, Any]) -> None:
    """Tell `skafos up` that the demonstration runs; written aside and renamed, so that nobody reads half of it."""
    aside = path.with_name(f"{path.name}.partial")
    aside.write_text(json.dumps(guide))
    aside.replace(path)


def say(sentence: str) -> None:
    """Write one line to the log, with the time."""
    print(f"{time.strftime('%H:%M:%S')}  {sentence}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
