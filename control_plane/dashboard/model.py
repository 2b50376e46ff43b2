"""A model: its versions and where they are offered, what was delivered, and how to integrate it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from control_plane.api.applications import show_one_application
from control_plane.api.call import Call
from control_plane.api.deployments import list_deployments, list_environment_groups
from control_plane.api.models import show_one_model
from control_plane.api.paging import Paging
from control_plane.api.patches import list_patches
from control_plane.api.pushes import credentials_of, list_pushes
from control_plane.api.schemas import (
    ApplicationQuery,
    DeploymentsQuery,
    EnvironmentGroupOut,
    EnvironmentGroupsQuery,
    ModelVersionOut,
    OfferedOut,
    PatchesQuery,
    PushesQuery,
)
from control_plane.api.versions import list_newest_versions, show_one_version, show_version_called
from control_plane.dashboard.differences import compare_files
from control_plane.dashboard.examples import example_of
from control_plane.dashboard.paging import cursor_of

# Each shows its files, inputs, outputs and patches.
VERSIONS_PER_PAGE = 30
DEPLOYMENTS_PER_PAGE = 50


async def show_manage(call: Call) -> Mapping[str, Any]:
    """Show the model's versions, newest first, and what each environment offers."""
    page = await list_newest_versions(call, Paging(limit=VERSIONS_PER_PAGE, cursor=cursor_of(call)))
    frame = await frame_of(call)
    offered = {version.version: _offers_of(frame["groups"], version) for version in page.items}
    return {**frame, "items": page.items, "next_cursor": page.next_cursor, "offered": offered}


async def show_version(call: Call) -> Mapping[str, Any]:
    """Show one version with all that is known of it."""
    version = await show_one_version(call)
    frame = await frame_of(call)
    return {**frame, "version": version, "offers": _offers_of(frame["groups"], version)}


async def show_compare(call: Call) -> Mapping[str, Any]:
    """Show what differs between two versions: the one in the path and the one that is asked for, or the one before."""
    version = await show_one_version(call)
    number = version.version or 0
    asked = call.request.query.get("with") or str(number - 1 if number > 1 else number + 1)
    other = await show_version_called(call, asked)
    patches = await list_patches(
        call, PatchesQuery(limit=1, from_version=other.version, to_version=version.version, environment=None)
    )
    return {
        **await frame_of(call),
        "version": version,
        "other": other,
        "files": compare_files(other.files, version.files),
        "patch": patches.items[0] if patches.items else None,
    }


async def show_deploy(call: Call) -> Mapping[str, Any]:
    """Show the question where and how a version is deployed."""
    version = await show_one_version(call)
    frame = await frame_of(call)
    groups: list[EnvironmentGroupOut] = frame["groups"]
    credentials = await credentials_of(call, [group.id for group in groups])
    return {**frame, "version": version, "can_push": {group.name: bool(credentials[group.id]) for group in groups}}


async def show_deliveries(call: Call) -> Mapping[str, Any]:
    """Show what was deployed and pushed, newest first."""
    environment = call.request.query.get("environment") or None
    deployments = await list_deployments(
        call, DeploymentsQuery(limit=DEPLOYMENTS_PER_PAGE, cursor=cursor_of(call), environment=environment)
    )
    pushes = await list_pushes(call, PushesQuery(limit=DEPLOYMENTS_PER_PAGE, environment=environment))
    return {
        **await frame_of(call),
        "deployments": deployments.items,
        "next_cursor": deployments.next_cursor,
        "pushes": pushes.items,
        "more_pushes": pushes.next_cursor is not None,
        "environment": environment,
    }


async def show_integrate(call: Call) -> Mapping[str, Any]:
    """Show the code that fetches this model, with the keys of its environments."""
    settings, frame = call.services.settings, await frame_of(call)
    example = example_of(frame["app"].bundle_id, frame["model"].name)
    return {**frame, "edge": settings.edge_public_url, "control": call.address, "example": example}


def _offers_of(
    groups: Sequence[EnvironmentGroupOut], version: ModelVersionOut
) -> list[tuple[EnvironmentGroupOut, OfferedOut]]:
    """Return where a version is offered, and how."""
    return [(group, offer) for group in groups for offer in group.releases if offer.version == version.version]


async def frame_of(call: Call) -> dict[str, Any]:
    """Return what the model's tabs have in common."""
    groups = await list_environment_groups(call, EnvironmentGroupsQuery(with_device_count=True))
    return {
        "app": await show_one_application(call, ApplicationQuery(with_models=False)),
        "model": await show_one_model(call),
        "groups": groups.items,
    }
