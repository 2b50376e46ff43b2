"""Train a network that sorts messages to an app's makers, and deliver it; with `--again`, train it further on more."""

from __future__ import annotations

import argparse
import csv
import sys
from pathlib import Path

import numpy as np

HERE = Path(__file__).resolve().parent
sys.path.extend([str(HERE), str(HERE.parent)])

from networks import Dense, Network, Relu, accuracy, train_classifier  # noqa: E402
from words import PLACES, numbers  # noqa: E402

from skafos.training import publish  # noqa: E402

MODEL = "messages"
# Every fifth message is never trained on. The first version knows a third of the rest, the next one all.
TEST_EVERY = 5


def messages() -> tuple[list[str], np.ndarray, np.ndarray]:
    """Return the names of the kinds, and of each message its numbers and its kind."""
    with (HERE / "messages.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    kinds = sorted({row["kind"] for row in rows})
    return kinds, np.stack([numbers(row["message"]) for row in rows]), np.array([kinds.index(r["kind"]) for r in rows])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--again", action="store_true", help="train the last version further, on more messages")
    parser.add_argument("--rounds", type=int, default=40, help="how often every message is shown")
    parser.add_argument("--build", type=Path, default=HERE / "build", help="where weights and model are written")
    options = parser.parse_args()
    options.build.mkdir(parents=True, exist_ok=True)

    random = np.random.default_rng(5)
    kinds, x, labels = messages()
    sorter = Network(Dense(PLACES, 24, random), Relu(), Dense(24, len(kinds), random))
    if options.again:
        sorter.load(options.build / "weights.npz")
    test = np.arange(len(x)) % TEST_EVERY == 0
    known = np.flatnonzero(~test)
    known = known if options.again else known[::3]
    rate = 0.0005 if options.again else 0.005
    train_classifier(sorter, x[known], labels[known], rounds=options.rounds, rate=rate, random=random, batch=8)
    right = accuracy(sorter, x[test], labels[test])
    print(f"trained on {len(known)} messages; sorts {right:.1%} of {test.sum()} others rightly")

    sorter.save(options.build / "weights.npz")
    sorter.write_onnx(
        options.build / "messages.onnx", ("words", ["count", PLACES]), ("kinds", ["count", len(kinds)]), last="Softmax"
    )
    (options.build / "kinds.txt").write_text("\n".join(kinds) + "\n")
    publish(
        [options.build / "messages.onnx", options.build / "kinds.txt"],
        model=MODEL,
        description=f"{right:.1%} of {test.sum()} test messages",
    )


if __name__ == "__main__":
    main()
