"""Patches between plain files."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from skafos.cli import options
from skafos.cli.output import print_json, print_table

if TYPE_CHECKING:
    from artifacts.patch.encode import EncodeReport, Region
    from skafos.delta import Limits, PatchInfo

app = options.family("Patches between plain files: make, apply, info.")

Old = Annotated[Path, typer.Argument(metavar="OLD", help="The file that the patch leads from.")]
New = Annotated[Path, typer.Argument(metavar="NEW", help="The file that the patch leads to.")]
Patch = Annotated[Path, typer.Argument(metavar="PATCH", help="The patch.")]
MaxMemory = Annotated[
    int | None, typer.Option("--max-memory", min=1, metavar="MIB", help="Memory that it may take, in MiB.")
]
MaxSeconds = Annotated[
    float | None,
    typer.Option(
        "--max-seconds", min=0.001, metavar="SECONDS", help="After this time nothing more is tried to make it smaller."
    ),
]
Encoding = Annotated[
    str,
    typer.Option(
        "--encoding",
        metavar="NAME",
        help="skafos-delta knows tensors and leaves least; zstd-prefix is what the zstd program decodes.",
        show_default=True,
    ),
]
Profile = Annotated[
    str,
    typer.Option(
        "--profile",
        metavar="NAME",
        help="best is smallest; zstd-only is for decoders without LZMA. Of skafos-delta.",
        show_default=True,
    ),
]
Explain = Annotated[
    bool, typer.Option("--explain", help="Show for each tensor or region what was done, and what it saved.")
]


@app.command()
def make(
    old: Old,
    new: New,
    patch: Patch,
    encoding: Encoding = "skafos-delta",
    profile: Profile = "best",
    explain: Explain = False,
    max_memory: MaxMemory = None,
    max_seconds: MaxSeconds = None,
    json: options.Json = False,
) -> None:
    """Write the patch from OLD to NEW, and try it."""
    from skafos import delta
    from skafos.progress import progress_display

    with progress_display() as display:
        display.remark("Making the patch")
        made = delta.make(
            old,
            new,
            patch,
            _limits(max_memory, max_seconds),
            encoding=encoding,
            profile=profile,
            making=display.bytes("Making the patch", before="Making the patch", then="Trying the patch"),
        )
    if json:
        print_json(delta.as_json(made.info) | (_as_json(made.report) if explain else {}))
        return
    print(f"{patch}: {made.info.length} bytes, {_share(made.info)} of {new}.")
    if explain:
        _explain(made.report, made.info)


@app.command()
def apply(old: Old, patch: Patch, new: New, max_memory: MaxMemory = None, json: options.Json = False) -> None:
    """Write NEW from OLD and PATCH; it appears once its hash is right."""
    from skafos import delta
    from skafos.progress import progress_display

    with progress_display() as display:
        progress = display.bytes("Applying the patch", before="Applying the patch")
        known = delta.apply(old, patch, new, _limits(max_memory), progress=progress)
    if json:
        print_json(delta.as_json(known))
    else:
        print(f"{new}: {known.new_length} bytes, verified.")


@app.command()
def info(patch: Patch, json: options.Json = False) -> None:
    """Show what a patch leads from and to, and what applying it takes."""
    from skafos import delta

    known = delta.info(patch)
    if json:
        print_json(delta.as_json(known))
        return
    print(f"encoding  {known.encoding}")
    print(f"patch     {known.length} bytes, {_share(known)} of the new file")
    beginning = "" if len(known.old_sha256) == 64 else "…"
    print(f"old       {known.old_length} bytes, sha256 {known.old_sha256}{beginning}")
    print(f"new       {known.new_length} bytes, sha256 {known.new_sha256}")
    disk = f", and {known.scratch_bytes} bytes of disk for a while" if known.scratch_bytes else ""
    print(f"to apply  {known.memory_bytes / 2**20:.1f} MiB of memory{disk}")


def _limits(max_memory: int | None, max_seconds: float | None = None) -> Limits:
    from skafos.delta import Limits

    return Limits(None if max_memory is None else max_memory << 20, max_seconds)


def _share(patch: PatchInfo) -> str:
    return f"{patch.length / patch.new_length:.1%}" if patch.new_length else "all"


def _explain(report: EncodeReport | None, made: PatchInfo) -> None:
    """Print what was tried, and each region of the new file in its order."""
    if report is None:
        print(f"{made.encoding} has no regions: the new file is one frame, with the old one as its prefix.")
        return
    tried = ", ".join(f"{name} {size}" for name, size in sorted(report.sizes.items(), key=lambda one: one[1]))
    print(f"tried     {tried} bytes; took {report.seconds:.1f} s")
    rows = [_row(region) for region in report.regions]
    print_table(["REGION", "HOW", "BYTES", "IN THE PATCH", "SAVED", "LEFT"], rows, "The new file is empty.")


def _row(region: Region) -> list[Any]:
    if region.how.startswith("deflate"):  # the regions behind it are what is deflated, and are shown themselves
        how = region.how.replace("deflate", "deflate what follows", 1)
        return [region.name or None, how, region.length, region.patched or None, None, None]
    left = f"{region.patched / region.length:.1%}" if region.length else None
    return [region.name or None, region.how, region.length, region.patched, region.length - region.patched, left]


def _as_json(report: EncodeReport | None) -> dict[str, Any]:
    if report is None:
        return {"tried": {}, "regions": []}
    regions = [
        {"name": one.name, "how": one.how, "length": one.length, "patched": one.patched} for one in report.regions
    ]
    return {"candidate": report.candidate, "tried": report.sizes, "seconds": report.seconds, "regions": regions}
