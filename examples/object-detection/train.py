"""Train a network that finds discs, squares and triangles, and deliver it; with `--again`, train it further."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np

HERE = Path(__file__).resolve().parent
sys.path.extend([str(HERE), str(HERE.parent)])

from networks import Convolution, Network, Relu, classification_gradient  # noqa: E402
from shapes import CELLS, KINDS, SIZE, draw, found, wanted  # noqa: E402

from skafos.training import publish  # noqa: E402

MODEL = "shapes"
BATCH = 16
TEST = 200
# Most cells are empty: how much a box's place counts beside whether there is one.
PLACE = 4.0


def network(random: np.random.Generator) -> Network:
    """Return an untrained network: 32 by 32 → 16 by 16 → 8 by 8 → 4 by 4 cells, each with its answer."""
    return Network(
        *(Convolution(3, 16, random), Relu()),
        *(Convolution(16, 32, random), Relu()),
        *(Convolution(32, 48, random), Relu()),
        Convolution(48, 4 + len(KINDS), random, stride=1),
    )


def gradient(cells: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Return the gradient of the loss: is there a shape, and where there is one, its place, width and kind."""
    slope = np.zeros_like(cells)
    there = truth[:, 0] > 0
    slope[:, 0] = 1 / (1 + np.exp(-cells[:, 0])) - truth[:, 0]
    slope[:, 1:4] = PLACE * (cells[:, 1:4] - truth[:, 1:4]) * there[:, None]
    count, rows, columns = np.nonzero(there)
    kinds = truth[count, 4:, rows, columns].argmax(1)
    slope[count, 4:, rows, columns] = classification_gradient(cells[count, 4:, rows, columns], kinds) * len(kinds)
    return slope / np.float32(len(cells))


def score(finder: Network, random: np.random.Generator) -> float:
    """Return the share of shapes in new pictures that are found: right kind, and half of the boxes in common."""
    drawn = [draw(random) for _ in range(TEST)]
    answers = finder(np.stack([picture for picture, _ in drawn]))
    hits = [
        any(box.kind == truth.kind and box.overlap(truth) > 0.5 for box in found(answer))
        for answer, (_, boxes) in zip(answers, drawn, strict=True)
        for truth in boxes
    ]
    return sum(hits) / len(hits)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--again", action="store_true", help="train the last version further, on new pictures")
    parser.add_argument("--pictures", type=int, default=12_000, help="how many are drawn to train on")
    parser.add_argument("--build", type=Path, default=HERE / "build", help="where weights and model are written")
    options = parser.parse_args()
    options.build.mkdir(parents=True, exist_ok=True)

    random = np.random.default_rng(2 if options.again else 1)
    finder = network(random)
    if options.again:
        finder.load(options.build / "weights.npz")
    steps = options.pictures // BATCH
    for step in range(steps):
        drawn = [draw(random) for _ in range(BATCH)]
        truth = np.stack([wanted(boxes) for _, boxes in drawn])
        # Large steps first; small ones to end with.
        rate = 0.003 if options.again else 0.01
        finder.learn(gradient(finder(np.stack([each for each, _ in drawn])), truth), rate * (1 - step / steps))
    share = score(finder, np.random.default_rng(3))
    print(f"trained on {steps * BATCH} pictures; finds {share:.1%} of the shapes in {TEST} others")

    finder.save(options.build / "weights.npz")
    finder.write_onnx(
        options.build / "shapes.onnx",
        ("picture", ["count", 3, SIZE, SIZE]),
        ("cells", ["count", 4 + len(KINDS), CELLS, CELLS]),
    )
    (options.build / "kinds.txt").write_text("\n".join(KINDS) + "\n")
    publish([options.build / "shapes.onnx", options.build / "kinds.txt"], model=MODEL, description=f"finds {share:.1%}")


if __name__ == "__main__":
    main()
