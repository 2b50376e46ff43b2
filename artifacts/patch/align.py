"""Which tensor of the old file a tensor of the new one is best coded against."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from artifacts.patch.tensors import Buffer, Tensor

__all__ = ["align"]


def align(
    base: Sequence[Tensor], target: Sequence[Tensor], base_data: Buffer, target_data: Buffer
) -> list[tuple[Tensor, Tensor | None]]:
    """Pair each target tensor with the base tensor that it comes from.

    Args:
        base: the old file's tensors.
        target: the new file's.
        base_data: the old file's bytes.
        target_data: the new file's.

    Returns:
        Pairs of a target tensor and its base, in the order of ``target``: of one length and type of elements. Where
        lengths differ, both are cut to the common part and the rest of the target follows as a tensor without a base.
    """
    del base_data, target_data
    by_name: dict[tuple[str, str], list[Tensor]] = {}
    for tensor in base:
        by_name.setdefault((tensor.name, tensor.dtype), []).append(tensor)
    pairs: list[tuple[Tensor, Tensor | None]] = []
    for tensor in target:
        candidates = by_name.get((tensor.name, tensor.dtype), [])
        best = min(candidates, key=lambda one: abs(one.length - tensor.length), default=None)
        pairs.extend(_cut(tensor, best))
    return pairs


def _cut(target: Tensor, base: Tensor | None) -> list[tuple[Tensor, Tensor | None]]:
    if base is None or base.length == target.length:
        return [(target, base)]
    common = min(target.length, base.length)
    pairs: list[tuple[Tensor, Tensor | None]] = [(_part(target, 0, common), _part(base, 0, common))]
    if common < target.length:
        pairs.append((_part(target, common, target.length), None))
    return pairs


def _part(tensor: Tensor, start: int, end: int) -> Tensor:
    length = end - start
    return replace(tensor, start=tensor.start + start, length=length, shape=(length // tensor.width,))
