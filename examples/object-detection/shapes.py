"""Pictures with shapes in them, drawn as needed, and how boxes are read out of what the network says."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

KINDS = ("disc", "square", "triangle")
# Pictures are SIZE by SIZE dots. The network looks at them in CELLS by CELLS cells; the one that holds a shape's middle
# tells of it.
SIZE, CELLS = 32, 4
CELL = SIZE // CELLS
SMALLEST, LARGEST = 7, 14


@dataclass(frozen=True)
class Box:
    """A shape in a picture: its kind, its middle and its width, in dots."""

    kind: int
    x: float
    y: float
    width: float

    def overlap(self, other: Box) -> float:
        """Return the common area of two boxes as a share of the area that they cover together."""
        across = min(self.x + self.width / 2, other.x + other.width / 2) - max(
            self.x - self.width / 2, other.x - other.width / 2
        )
        down = min(self.y + self.width / 2, other.y + other.width / 2) - max(
            self.y - self.width / 2, other.y - other.width / 2
        )
        common = max(across, 0) * max(down, 0)
        return common / (self.width**2 + other.width**2 - common)


def draw(random: np.random.Generator) -> tuple[np.ndarray, list[Box]]:
    """Return one noisy picture in three colours, and the one or two shapes in it."""
    picture = random.uniform(0, 0.35, (3, SIZE, SIZE)).astype(np.float32)
    boxes: list[Box] = []
    for _ in range(int(random.integers(1, 3))):
        width = float(random.uniform(SMALLEST, LARGEST))
        x, y = random.uniform(width / 2, SIZE - width / 2, 2)
        box = Box(int(random.integers(len(KINDS))), float(x), float(y), width)
        if all(max(abs(box.x - one.x), abs(box.y - one.y)) > (box.width + one.width) / 2 for one in boxes):
            boxes.append(box)
            picture[:, dots_of(box)] = random.uniform(0.5, 1, (3, 1))
    return picture, boxes


def dots_of(box: Box) -> np.ndarray:
    """Say of each dot whether it belongs to the shape."""
    down, across = np.mgrid[:SIZE, :SIZE] + 0.5
    down, across, half = down - box.y, across - box.x, box.width / 2
    if KINDS[box.kind] == "disc":
        return down**2 + across**2 <= half**2
    if KINDS[box.kind] == "square":
        return (abs(down) <= half) & (abs(across) <= half)
    return (abs(down) <= half) & (abs(across) <= (down + half) / 2)


def wanted(boxes: list[Box]) -> np.ndarray:
    """Return what the network should say: of each cell whether a shape is there, where, how wide, its kind."""
    cells = np.zeros((4 + len(KINDS), CELLS, CELLS), np.float32)
    for box in boxes:
        row, column = int(box.y // CELL), int(box.x // CELL)
        cells[:4, row, column] = 1, box.x / CELL - column, box.y / CELL - row, box.width / SIZE
        cells[4:, row, column] = 0
        cells[4 + box.kind, row, column] = 1
    return cells


def found(cells: np.ndarray, threshold: float = 0.5) -> list[Box]:
    """Return the boxes in what the network says of one picture, the surest first."""
    sure = 1 / (1 + np.exp(-cells[0]))
    rows, columns = np.nonzero(sure > threshold)
    order = np.argsort(-sure[rows, columns])
    return [
        Box(
            int(cells[4:, row, column].argmax()),
            float((column + cells[1, row, column]) * CELL),
            float((row + cells[2, row, column]) * CELL),
            float(cells[3, row, column] * SIZE),
        )
        for row, column in zip(rows[order], columns[order], strict=True)
    ]
