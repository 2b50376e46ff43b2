"""Be a device that sorts messages: fetch the newest version, verify it, swap it in, report, and run it."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

HERE = Path(__file__).resolve().parent
sys.path.extend([str(HERE), str(HERE.parent)])

from devices import updated  # noqa: E402
from words import numbers  # noqa: E402

# What somebody types on this device. No version was trained on it.
TYPED = (
    "Since this morning it crashes whenever I open the camera",
    "Please send me the receipt for the yearly plan",
    "I never get the mail to reset my password",
    "It would be lovely to have a widget for the lock screen",
)


def main() -> None:
    sorter, folder = updated("messages", "messages.onnx", __doc__)
    # The names came with the network, in the same version.
    kinds = (folder / "kinds.txt").read_text().split()
    (shares,) = sorter.run(["kinds"], {"words": np.stack([numbers(message) for message in TYPED])})
    for message, share in zip(TYPED, shares, strict=True):
        print(f"{kinds[share.argmax()]:<8} {share.max():>4.0%}  {message}")


if __name__ == "__main__":
    main()
