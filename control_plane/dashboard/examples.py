"""The examples that an application can begin with: programs in `examples/`, each from training to a device."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

BUNDLE_IDS: Final = "org.example."


@dataclass(frozen=True, slots=True)
class Example:
    """An example.

    Args:
        folder: below `examples/`.
        model: that its programs publish and fetch.
        title: of the application.
        does: what the model does, for people.
    """

    folder: str
    model: str
    title: str
    does: str

    @property
    def bundle_id(self) -> str:
        """By which an application is known to have begun with it."""
        return f"{BUNDLE_IDS}{self.folder}"


EXAMPLES: Final = (
    Example("image-classification", "digits", "Digits", "reads handwritten digits"),
    Example("object-detection", "shapes", "Shapes", "finds discs, squares and triangles in pictures"),
    Example("text-classification", "messages", "Messages", "sorts messages to the makers of an app"),
)


def example_of(bundle_id: str, model: str) -> Example | None:
    """Return the example that an application's model is of."""
    return next((one for one in EXAMPLES if (one.bundle_id, one.model) == (bundle_id, model)), None)
