"""The step of the action that uploads and deploys: inputs come as variables, outputs go to the file GITHUB_OUTPUT."""

from __future__ import annotations

import os
import sys
from pathlib import Path

# The action is checked out with the whole repository, so it uses the client of its own commit.
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from skafos.exceptions import InvalidParamError, SkafosError
from skafos.training import Published, publish


def deliver() -> Published:
    """Do what the inputs say.

    Raises:
        SkafosError: an input is wrong, or the server refused.
    """
    environment = os.environ["INPUT_ENVIRONMENT"].strip()
    return publish(
        _files(os.environ["INPUT_FILE"]),
        environment=environment or None,
        deploy=bool(environment),
        percent=_percent(os.environ["INPUT_PERCENT"]),
        push=_switch("push", os.environ["INPUT_PUSH"]),
        description=os.environ["INPUT_DESCRIPTION"],
    )


def _files(text: str) -> list[str | Path]:
    return [line.strip() for line in text.splitlines() if line.strip()]


def _percent(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise InvalidParamError(f"percent is a number, not {text!r}.") from None


def _switch(name: str, text: str) -> bool:
    if text not in ("true", "false"):
        raise InvalidParamError(f"{name} is true or false, not {text!r}.")
    return text == "true"


def _tell(published: Published) -> None:
    """Write the outputs and, where there is one, the job's summary."""
    with Path(os.environ["GITHUB_OUTPUT"]).open("a", encoding="utf-8") as file:
        # Both are on one line each: a number, and an id of the server's, of which only the first word counts.
        deployment = (published.deployment or "").split()[:1]
        file.write(f"version={published.version}\ndeployment={''.join(deployment)}\n")
    if summary := os.environ.get("GITHUB_STEP_SUMMARY"):
        where = f"deployed to `{published.environment}`" if published.environment else "uploaded"
        with Path(summary).open("a", encoding="utf-8") as file:
            file.write(f"Skafos: version {published.version} ({published.format}) {where}.\n")


def _fail(sentence: str) -> None:
    """Show the error at the step. Signs that would end the command, and begin another one, are escaped."""
    escaped = sentence.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")
    print(f"::error title=Skafos::{escaped}", flush=True)
    sys.exit(1)


def main() -> None:
    """Upload and deploy, or fail the step with one sentence."""
    try:
        _tell(deliver())
    except SkafosError as error:
        _fail(str(error))


if __name__ == "__main__":
    main()
