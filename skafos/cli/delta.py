"""Patches between plain files."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from skafos.cli import options
from skafos.cli.output import print_json

if TYPE_CHECKING:
    from artifacts.patch.zstd_prefix import PatchLimits
    from skafos.delta import PatchInfo

app = options.family("Patches between plain files: make, apply, info.")

Old = Annotated[Path, typer.Argument(metavar="OLD", help="The file that the patch leads from.")]
New = Annotated[Path, typer.Argument(metavar="NEW", help="The file that the patch leads to.")]
Patch = Annotated[Path, typer.Argument(metavar="PATCH", help="The patch.")]
MaxMemory = Annotated[
    int | None, typer.Option("--max-memory", min=1, metavar="MIB", help="Memory that it may take, in MiB.")
]


@app.command()
def make(old: Old, new: New, patch: Patch, max_memory: MaxMemory = None, json: options.Json = False) -> None:
    """Write the patch from OLD to NEW, and try it."""
    from skafos import delta
    from skafos.progress import progress_display

    with progress_display() as display:
        display.remark("Making the patch")
        made = delta.make(old, new, patch, _limits(max_memory))
    if json:
        print_json(delta.as_json(made))
    else:
        print(f"{patch}: {made.length} bytes, {_share(made)} of {new}.")


@app.command()
def apply(old: Old, patch: Patch, new: New, max_memory: MaxMemory = None, json: options.Json = False) -> None:
    """Write NEW from OLD and PATCH; it appears once its hash is right."""
    from skafos import delta
    from skafos.progress import progress_display

    with progress_display() as display:
        display.remark("Applying the patch")
        known = delta.apply(old, patch, new, _limits(max_memory))
    if json:
        print_json(delta.as_json(known))
    else:
        print(f"{new}: {known.new_length} bytes, verified.")


@app.command()
def info(patch: Patch, json: options.Json = False) -> None:
    """Show what a patch leads from and to."""
    from skafos import delta

    known = delta.info(patch)
    if json:
        print_json(delta.as_json(known))
        return
    print(f"encoding  {known.encoding}")
    print(f"patch     {known.length} bytes, {_share(known)} of the new file")
    print(f"old       {known.old_length} bytes, sha256 {known.old_sha256}")
    print(f"new       {known.new_length} bytes, sha256 {known.new_sha256}")


def _limits(max_memory: int | None) -> PatchLimits | None:
    from artifacts.patch.zstd_prefix import PatchLimits

    return None if max_memory is None else PatchLimits(max_memory << 20, max_memory << 20)


def _share(patch: PatchInfo) -> str:
    return f"{patch.length / patch.new_length:.1%}" if patch.new_length else "all"
