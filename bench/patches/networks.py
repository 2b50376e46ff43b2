"""Two small networks of the kinds that phones run, and the data that they are trained on.

A residual convolutional network sorts small images of shapes and textures, which are drawn here; a causal transformer
predicts the next byte of real text, which every Python brings along: first its standard library's source, then the
language reference in English. Needs PyTorch, so only the environment of the benchmarks imports it.
"""

from __future__ import annotations

import sysconfig
from collections.abc import Callable, Iterator
from pathlib import Path

import torch  # type: ignore[import-not-found, unused-ignore] # only in the environment of the benchmarks
from torch import nn  # type: ignore[import-not-found, unused-ignore]

__all__ = ["TextNetwork", "VisionNetwork", "images", "texts"]

# 1.3 million parameters: 5.4 MB of float32.
CHANNELS = (32, 64, 128, 256)
HIDDEN = 512
CLASSES = 10
IMAGE = 32

# 1.9 million parameters: 7.5 MB of float32.
WIDTH = 192
LAYERS = 4
HEADS = 6
CONTEXT = 64
BYTES = 256


class Block(nn.Module):  # type: ignore[misc, unused-ignore]
    """Two convolutions around a shortcut, as in ResNet-18."""

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(before, after, 3, stride=2 if after > before else 1, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(after)
        self.conv2 = nn.Conv2d(after, after, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(after)
        self.shortcut = nn.Conv2d(before, after, 1, stride=2, bias=False) if after > before else nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the block's output for a batch."""
        y = torch.relu(self.norm1(self.conv1(x)))
        return torch.relu(self.norm2(self.conv2(y)) + self.shortcut(x))


class VisionNetwork(nn.Module):  # type: ignore[misc, unused-ignore]
    """A residual network for images of 32 by 32 points; ``head`` is what a new task trains alone."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, CHANNELS[0], 3, stride=2, padding=1)
        pairs = zip((CHANNELS[0], *CHANNELS), CHANNELS, strict=False)
        self.blocks = nn.Sequential(*(Block(before, after) for before, after in pairs))
        self.head = nn.Sequential(nn.Linear(CHANNELS[-1], HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, CLASSES))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the classes' logits."""
        return self.head(self.blocks(torch.relu(self.stem(x))).mean((2, 3)))


class TextNetwork(nn.Module):  # type: ignore[misc, unused-ignore]
    """A causal transformer over bytes; ``head`` makes logits from the last layer."""

    def __init__(self) -> None:
        super().__init__()
        self.token = nn.Embedding(BYTES, WIDTH)
        self.place = nn.Embedding(CONTEXT, WIDTH)
        layer = nn.TransformerEncoderLayer(
            WIDTH, HEADS, 4 * WIDTH, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
        )
        self.layers = nn.TransformerEncoder(layer, LAYERS, enable_nested_tensor=False)
        self.norm = nn.LayerNorm(WIDTH)
        self.head = nn.Linear(WIDTH, BYTES)
        self.register_buffer("mask", nn.Transformer.generate_square_subsequent_mask(CONTEXT), persistent=False)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Return the logits of the byte after each."""
        x = self.token(tokens) + self.place.weight
        return self.head(self.norm(self.layers(x, mask=self.mask, is_causal=True)))


def images(batch: int, generator: torch.Generator, *, changed: bool) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yield batches of images with their classes for ever.

    Args:
        batch: images in each.
        generator: of all random numbers.
        changed: as another camera would see them: noisier, fainter and of other colours. What fine-tuning is for.
    """
    axis = torch.linspace(-1, 1, IMAGE)
    rows, columns = torch.meshgrid(axis, axis, indexing="ij")

    def uniform(low: float, high: float, *shape: int) -> torch.Tensor:
        return low + (high - low) * torch.rand(batch, *shape, generator=generator)

    while True:
        labels = torch.randint(CLASSES, (batch,), generator=generator)
        y, x = rows - uniform(-0.4, 0.4, 1, 1), columns - uniform(-0.4, 0.4, 1, 1)
        size, pitch = uniform(0.3, 0.6, 1, 1), uniform(8, 14, 1, 1)
        shapes = torch.stack([draw(x, y, size, pitch) for draw in DRAWINGS], dim=1)
        drawn = shapes[torch.arange(batch), labels].float()[:, None]
        front, back = uniform(0.4, 1, 3, 1, 1), uniform(0, 0.6, 3, 1, 1)
        if changed:
            front, back = front.roll(1, dims=1) * 0.7, back * 1.3
        noise = torch.randn(batch, 3, IMAGE, IMAGE, generator=generator) * (0.25 if changed else 0.1)
        yield drawn * front + (1 - drawn) * back + noise - 0.5, labels


Drawing = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]

DRAWINGS: tuple[Drawing, ...] = (
    lambda x, y, size, _: x**2 + y**2 < size**2,
    lambda x, y, size, _: (x.abs() < size) & (y.abs() < size),
    lambda x, y, size, _: x.abs() + y.abs() < size,
    lambda x, y, size, _: (x**2 + y**2 < size**2) & (x**2 + y**2 > (size / 2) ** 2),
    lambda x, y, size, _: (x.abs() < size / 4) | (y.abs() < size / 4),
    lambda x, _y, _size, pitch: torch.sin(pitch * x) > 0,
    lambda _x, y, _size, pitch: torch.sin(pitch * y) > 0,
    lambda x, y, _size, pitch: torch.sin(pitch * (x + y)) > 0,
    lambda x, y, _size, pitch: torch.sin(pitch * x) * torch.sin(pitch * y) > 0,
    lambda x, y, size, _: (y > -size) & (y < size) & (x.abs() * 2 < y + size),
)


def texts(batch: int, generator: torch.Generator, *, changed: bool) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yield batches of text with the byte after each byte for ever: source code, or the language reference."""
    library = Path(sysconfig.get_path("stdlib"))
    paths = [library / "pydoc_data" / "topics.py"] if changed else sorted(library.glob("[a-m]*.py"))
    content = b"\n".join(path.read_bytes() for path in paths)
    text = torch.frombuffer(bytearray(content), dtype=torch.uint8).long()
    while True:
        starts = torch.randint(len(text) - CONTEXT - 1, (batch, 1), generator=generator)
        pieces = text[starts + torch.arange(CONTEXT + 1)]
        yield pieces[:, :-1], pieces[:, 1:]
