"""Train a network that reads handwritten digits, and deliver it: `python train.py`, then `python train.py --again`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np

HERE = Path(__file__).resolve().parent
sys.path.append(str(HERE.parent))

from networks import Convolution, Dense, Flatten, Network, Relu, accuracy, train_classifier  # noqa: E402

from skafos.training import publish  # noqa: E402

MODEL = "digits"
# Of the 1,797 pictures the last ones are never trained on. The first version knows some of the rest, the next one all.
TEST, FIRST = 360, 700


def pictures() -> tuple[np.ndarray, np.ndarray]:
    """Return the pictures, 8 by 8 numbers between 0 and 1 each, and which digits they are."""
    table = np.loadtxt(HERE / "digits.csv.gz", delimiter=",", dtype=np.float32)
    return table[:, :64].reshape(-1, 1, 8, 8) / 16, table[:, 64].astype(int)


def network(random: np.random.Generator) -> Network:
    """Return an untrained network: 8 by 8 → 8 by 8 → 4 by 4 → ten scores."""
    return Network(
        *(Convolution(1, 12, random, stride=1), Relu()),
        *(Convolution(12, 24, random), Relu()),
        *(Flatten(), Dense(24 * 4 * 4, 10, random)),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--again", action="store_true", help="train the last version further, on more pictures")
    parser.add_argument("--rounds", type=int, default=15, help="how often every picture is shown")
    parser.add_argument("--build", type=Path, default=HERE / "build", help="where weights and model are written")
    options = parser.parse_args()
    options.build.mkdir(parents=True, exist_ok=True)

    random = np.random.default_rng(7)
    x, labels = pictures()
    reader = network(random)
    if options.again:
        reader.load(options.build / "weights.npz")
    count = len(x) - TEST if options.again else FIRST
    rate = 0.0005 if options.again else 0.003
    train_classifier(reader, x[:count], labels[:count], rounds=options.rounds, rate=rate, random=random)
    right = accuracy(reader, x[-TEST:], labels[-TEST:])
    print(f"trained on {count} pictures; reads {right:.1%} of {TEST} others rightly")

    reader.save(options.build / "weights.npz")
    reader.write_onnx(
        options.build / "digits.onnx", ("picture", ["count", 1, 8, 8]), ("digits", ["count", 10]), last="Softmax"
    )
    publish(options.build / "digits.onnx", model=MODEL, description=f"{right:.1%} of {TEST} test pictures")


if __name__ == "__main__":
    main()
