"""Write the notebooks: `python examples/notebooks/make.py`. They differ in where the token is kept, and little else."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent


@dataclass(frozen=True)
class Platform:
    """Where a notebook runs: its name, how a secret is put there, and how it is read."""

    name: str
    about: str
    secret: str


COLAB = Platform(
    "Google Colab",
    "In the side bar, open *Secrets* (the key), add `SKAFOS_URL` and `SKAFOS_API_TOKEN`, and let this notebook read "
    "them.",
    """
import os


def secret(name):
    try:
        from google.colab import userdata
    except ImportError:  # not in Colab
        return os.environ[name]
    return userdata.get(name)
""",
)
SAGEMAKER = Platform(
    "Amazon SageMaker",
    "Keep a secret named `skafos` in AWS Secrets Manager, with the keys `SKAFOS_URL` and `SKAFOS_API_TOKEN`, and let "
    "the notebook's execution role read it (`secretsmanager:GetSecretValue`).",
    """
import json
import os


def secret(name):
    if name in os.environ:  # set for this kernel: nothing is asked
        return os.environ[name]
    import boto3

    return json.loads(boto3.client("secretsmanager").get_secret_value(SecretId="skafos")["SecretString"])[name]
""",
)
AZURE = Platform(
    "Azure Machine Learning",
    "Keep the secrets `SKAFOS-URL` and `SKAFOS-API-TOKEN` in a key vault, let the compute instance's identity read "
    "them (*Key Vault Secrets User*), and name the vault in `SKAFOS_KEY_VAULT`. Choose a kernel with Python 3.11 or "
    "newer.",
    """
import os


def secret(name):
    if name in os.environ:  # set for this kernel: nothing is asked
        return os.environ[name]
    from azure.identity import DefaultAzureCredential
    from azure.keyvault.secrets import SecretClient

    vault = SecretClient(os.environ["SKAFOS_KEY_VAULT"], DefaultAzureCredential())
    return vault.get_secret(name.replace("_", "-")).value
""",
)
# Key vaults are read with two libraries of Azure's; Colab and SageMaker have theirs.
LIBRARIES = {"colab": "onnx", "sagemaker": "onnx boto3", "azure-ml": "onnx azure-identity azure-keyvault-secrets"}
PLATFORMS = {"colab": COLAB, "sagemaker": SAGEMAKER, "azure-ml": AZURE}

BEGINNING = """
# From {name} to devices

Trains a small model, uploads it to your Skafos as the next version of `waves`, deploys it to `dev`, and looks who has
it. The training stands for yours; what matters are the file and `publish`.

Your Skafos needs an address that this notebook reaches, and an app and a model:
`skafos apps create Examples --bundle-id org.example.examples --platform linux` and
`skafos models create waves --app Examples`.
"""
SECRETS = """
## The token

{about} Elsewhere, environment variables of the same names do.

Never write the token into a cell.
"""
TRAIN = """
import numpy as np

KINDS = ("sine", "square", "sawtooth")
random = np.random.default_rng()


def waves(count):
    \"\"\"Return noisy waves of 32 samples, and of which kind each is.\"\"\"
    kinds = random.integers(len(KINDS), size=count)
    turns = np.linspace(0, 2, 32, endpoint=False) + random.uniform(0, 0.2, (count, 1))
    shapes = np.stack([np.sin(2 * np.pi * turns), np.sign(np.sin(2 * np.pi * turns)), 2 * (turns % 1) - 1])
    return (shapes[kinds, np.arange(count)] + random.normal(0, 0.3, (count, 32))).astype(np.float32), kinds


weights, bias = np.zeros((32, len(KINDS)), np.float32), np.zeros(len(KINDS), np.float32)
for _ in range(300):
    x, kinds = waves(64)
    shares = np.exp(x @ weights + bias)
    shares /= shares.sum(1, keepdims=True)
    shares[np.arange(len(kinds)), kinds] -= 1
    weights -= 0.05 * x.T @ shares / len(kinds)
    bias -= 0.05 * shares.mean(0)

x, kinds = waves(1000)
right = float(((x @ weights + bias).argmax(1) == kinds).mean())
print(f"{right:.1%} of 1,000 new waves are told rightly")
"""
EXPORT = """
import onnx
from onnx import TensorProto, helper, numpy_helper

graph = helper.make_graph(
    [
        helper.make_node("Gemm", ["wave", "weights", "bias"], ["scores"]),
        helper.make_node("Softmax", ["scores"], ["kinds"]),
    ],
    "waves",
    [helper.make_tensor_value_info("wave", TensorProto.FLOAT, ["count", 32])],
    [helper.make_tensor_value_info("kinds", TensorProto.FLOAT, ["count", len(KINDS)])],
    [numpy_helper.from_array(weights, "weights"), numpy_helper.from_array(bias, "bias")],
)
onnx.save(helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", 17)]), "waves.onnx")
"""
PUBLISH = """
from skafos.client import Client
from skafos.training import publish

APP, MODEL = "Examples", "waves"
url, token = secret("SKAFOS_URL"), secret("SKAFOS_API_TOKEN")
published = publish(
    "waves.onnx", app=APP, model=MODEL, environment="dev", description=f"{right:.1%}", url=url, token=token
)
"""
ADOPTION = """
with Client(url, token) as client:
    organization = client.list_organizations()[0].name
    held = client.adoption(organization, APP, MODEL, environment="dev").now
for share in held:
    print(f"version {share.version}: {share.devices} devices, {share.share:.0%}")
print("" if held else "No device has reported yet.")
"""


def cells(name: str) -> list[dict[str, Any]]:
    """Return the cells of a notebook."""
    platform = PLATFORMS[name]
    texts = [
        ("markdown", BEGINNING.format(name=platform.name)),
        ("markdown", "## Install\n\nThe client is in Skafos' own repository: put its address here."),
        ("code", f"%pip install --quiet git+ADDRESS_OF_YOUR_SKAFOS_REPOSITORY {LIBRARIES[name]}"),
        ("markdown", SECRETS.format(about=platform.about)),
        ("code", platform.secret),
        ("markdown", "## Train"),
        ("code", TRAIN),
        ("markdown", "## Write it as a file\n\nONNX here; Core ML, TensorFlow Lite and any other file do as well."),
        ("code", EXPORT),
        ("markdown", '## Upload and deploy\n\nTo `dev`; `environment="prod", percent=10` begins a careful rollout.'),
        ("code", PUBLISH),
        ("markdown", "## Who has it\n\nRun this again while devices look for updates."),
        ("code", ADOPTION),
    ]
    return [_cell(number, kind, text.strip()) for number, (kind, text) in enumerate(texts)]


def _cell(number: int, kind: str, text: str) -> dict[str, Any]:
    cell = {"cell_type": kind, "id": f"cell-{number}", "metadata": {}, "source": text.splitlines(keepends=True)}
    return cell | ({"execution_count": None, "outputs": []} if kind == "code" else {})


def notebook(name: str) -> str:
    """Return a notebook, in the format 4.5 of Jupyter's."""
    document = {
        "cells": cells(name),
        "metadata": {
            "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
            "language_info": {"name": "python"},
        },
        "nbformat": 4,
        "nbformat_minor": 5,
    }
    return json.dumps(document, indent=1, ensure_ascii=False) + "\n"


def main() -> None:
    """Write all of them."""
    for name in PLATFORMS:
        (HERE / f"{name}.ipynb").write_text(notebook(name))


if __name__ == "__main__":
    main()
