"""Be a device that reads digits: fetch the newest version, verify it, swap it in, report, and run it."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

HERE = Path(__file__).resolve().parent
sys.path.append(str(HERE.parent))

from devices import updated  # noqa: E402

SHADES = " .:-=+*#%@"


def main() -> None:
    reader, _ = updated("digits", "digits.onnx", __doc__)
    # The camera of this device: three pictures that no version was trained on.
    table = np.loadtxt(HERE / "digits.csv.gz", delimiter=",", dtype=np.float32)[-3:]
    pictures = table[:, :64].reshape(-1, 1, 8, 8) / 16
    (shares,) = reader.run(["digits"], {"picture": pictures})
    for picture, share in zip(pictures, shares, strict=True):
        print("\n".join("".join(SHADES[round(9 * float(dot))] * 2 for dot in row) for row in picture[0]))
        print(f"reads {share.argmax()} ({share.max():.0%})")


if __name__ == "__main__":
    main()
