"""Train the two networks, then fine-tune each in several ways: ``python -m bench.patches.training FOLDER``.

Runs in the environment of the benchmarks, which has PyTorch, on one core. For every state it writes the weights as
``<network>-<way>.npz`` and the module as TorchScript, ``<network>-<way>.pt``. On one machine the same state comes out
of every run; another processor may add in another order, and then the last bits differ.
"""

from __future__ import annotations

import copy
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch  # type: ignore[import-not-found, unused-ignore] # only in the environment of the benchmarks
from torch import nn  # type: ignore[import-not-found, unused-ignore]

from bench.patches.networks import TextNetwork, VisionNetwork, images, texts

SEED = 17
BATCH = {"vision": 32, "text": 8}
# Enough for both to have left their random start far behind: the loss goes from 2.3 to 0.2, and from 4.0 to 2.3 (of a
# byte of text: from 5.7 bits to 3.3).
BASE_STEPS = {"vision": 250, "text": 350}
BASE_RATE = 2e-3

Optimizer = Callable[[list[nn.Parameter]], torch.optim.Optimizer]


@dataclass(frozen=True, slots=True)
class Way:
    """A way to fine-tune: with which optimizer, for how many steps, and whether only the head moves."""

    name: str
    steps: int
    optimizer: Optimizer
    head_only: bool = False


# Rates and optimizers as they are usual for fine-tuning; `far` is a long training at a high rate, which leaves little
# of the old weights' bits.
WAYS = {
    "vision": (
        Way("adam", 60, lambda weights: torch.optim.Adam(weights, lr=2e-5)),
        Way("sgd", 60, lambda weights: torch.optim.SGD(weights, lr=1e-3, momentum=0.9)),
        Way("head", 60, lambda weights: torch.optim.Adam(weights, lr=1e-4), head_only=True),
    ),
    "text": (
        Way("adam", 60, lambda weights: torch.optim.AdamW(weights, lr=5e-5)),
        Way("sgd", 60, lambda weights: torch.optim.SGD(weights, lr=1e-3)),
        Way("head", 60, lambda weights: torch.optim.AdamW(weights, lr=1e-4), head_only=True),
        Way("far", 150, lambda weights: torch.optim.AdamW(weights, lr=5e-4)),
    ),
}


def main() -> int:
    """Train everything and write it to the folder that the command line names; return the exit code."""
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    for name, module, data in (("vision", VisionNetwork, images), ("text", TextNetwork, texts)):
        torch.manual_seed(SEED)
        network = module()
        base = Way("base", BASE_STEPS[name], lambda weights: torch.optim.Adam(weights, lr=BASE_RATE))
        train(network, base, data(BATCH[name], torch.Generator().manual_seed(SEED), changed=False), name)
        write(network, folder / f"{name}-base")
        for number, way in enumerate(WAYS[name], start=1):
            tuned = copy.deepcopy(network)
            train(tuned, way, data(BATCH[name], torch.Generator().manual_seed(SEED + number), changed=True), name)
            write(tuned, folder / f"{name}-{way.name}")
    return 0


def train(network: nn.Module, way: Way, data: Iterator[tuple[torch.Tensor, torch.Tensor]], name: str) -> None:
    """Train ``network`` in place, and print how its loss went."""
    began = time.monotonic()
    # What does not learn must not drift either: statistics of batches are taken only where everything learns.
    network.train(not way.head_only)
    learning = list(network.head.parameters() if way.head_only else network.parameters())
    optimizer = way.optimizer(learning)
    losses = []
    for _ in range(way.steps):
        inputs, wanted = next(data)
        loss = nn.functional.cross_entropy(network(inputs).flatten(0, -2), wanted.flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    told = f"loss {np.mean(losses[:5]):.3f} to {np.mean(losses[-5:]):.3f}"
    print(f"{name}, {way.name}: {way.steps} steps, {told}, {time.monotonic() - began:.0f} s", flush=True)


def write(network: nn.Module, path: Path) -> None:
    """Write the weights and the module beside each other; each file appears whole."""
    network.eval()
    part = path.with_name(f".{path.name}.part")
    with part.open("wb") as file:
        np.savez(file, **{name: value.numpy() for name, value in network.state_dict().items()})
    part.replace(path.with_name(f"{path.name}.npz"))
    make = images if isinstance(network, VisionNetwork) else texts
    example, _ = next(make(1, torch.Generator().manual_seed(SEED), changed=False))
    # The check would trace once more, where attention chooses another of its implementations.
    torch.jit.save(torch.jit.trace(network, example, check_trace=False), part)
    part.replace(path.with_name(f"{path.name}.pt"))


if __name__ == "__main__":
    sys.exit(main())
