"""Be a device that finds shapes: fetch the newest version, verify it, swap it in, report, and run it."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

HERE = Path(__file__).resolve().parent
sys.path.extend([str(HERE), str(HERE.parent)])

from devices import updated  # noqa: E402
from shapes import draw, found  # noqa: E402

SHADES = " .:-=+*#%@"


def main() -> None:
    finder, folder = updated("shapes", "shapes.onnx", __doc__)
    # The names came with the network, in the same version.
    kinds = (folder / "kinds.txt").read_text().split()
    # The camera of this device. No training draws with this seed.
    picture, _ = draw(np.random.default_rng(99))
    (cells,) = finder.run(["cells"], {"picture": picture[None]})
    print("\n".join("".join(SHADES[round(9 * float(dot))] * 2 for dot in row) for row in picture.mean(0)))
    for box in found(cells[0]):
        print(f"a {kinds[box.kind]}, {box.width:.0f} dots wide, around ({box.x:.0f}, {box.y:.0f})")


if __name__ == "__main__":
    main()
