"""What a page says after a form has done its work, and which forms need more care than others."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from control_plane.api.route import Route
from control_plane.api.schemas import DeployedOut
from control_plane.api.table import APP, ENV, MODEL, ORG, PUSH, VERSION

# By method and path; in braces are parts of the path and fields of the form.
_SENTENCES: Final = {
    ("PUT", "/v2/me/password"): "Your password is set. Other browsers were signed out.",
    ("DELETE", "/v2/me/sessions"): "You are signed out everywhere.",
    ("DELETE", "/v2/me/sessions/{session}"): "The browser is signed out.",
    ("DELETE", "/v2/me/identities/{identity}"): "Unlinked. Who signs in there with your address links it again.",
    ("POST", "/v2/organizations"): "The organization {name} is there, and you own it.",
    ("PATCH", ORG): "The organization is called {name} now.",
    ("DELETE", ORG): "The organization {org} and all it held are deleted.",
    ("POST", f"{ORG}/members"): "{email} is a member now.",
    ("PATCH", f"{ORG}/members/{{member}}"): "The member is {role} now.",
    ("DELETE", f"{ORG}/members/{{member}}"): "The member was removed.",
    ("POST", f"{ORG}/invitations"): "{email} is invited.",
    ("DELETE", f"{ORG}/invitations/{{invitation}}"): "The invitation was taken back; its link works no more.",
    ("POST", f"{ORG}/erasures"): "The erasure has begun.",
    ("POST", "/v2/tokens"): "The token {name} is made.",
    ("DELETE", "/v2/tokens/{token}"): "The token is revoked.",
    ("POST", f"{ORG}/apps"): "The application {name} is there, with the environments dev and prod.",
    ("PATCH", APP): "The application was changed.",
    ("DELETE", APP): "The application {app} and all it held are deleted.",
    ("POST", f"{APP}/environments"): "The environment {name} is there.",
    ("PATCH", ENV): "The environment is called {name} now.",
    ("DELETE", ENV): "The environment {env} is deleted; its keys work no more.",
    ("POST", f"{ENV}/keys"): "{env} has a new key. The one before stays valid for a while; ship the new one.",
    ("DELETE", f"{ENV}/keys/{{key}}"): "The key is revoked.",
    ("POST", f"{ENV}/root/rotate"): "The root keys of {env} are replaced.",
    ("POST", f"{ENV}/online-key/rotate"): "The key that signs the manifests of {env} is replaced.",
    ("PUT", f"{ENV}/push_credentials/{{service}}"): "{env} can push now.",
    ("DELETE", f"{ENV}/push_credentials/{{service}}"): "The credential is forgotten; {env} pushes no more with it.",
    ("POST", f"{APP}/models"): "The model {name} is there. Upload its first version.",
    ("PATCH", MODEL): "The model is called {name} now.",
    ("DELETE", MODEL): "The model {model} and its versions are deleted.",
    ("POST", f"{MODEL}/model_versions"): "The upload has begun.",
    ("PATCH", VERSION): "Version {version} was changed.",
    ("DELETE", VERSION): "Version {version} is deleted.",
    ("POST", f"{MODEL}/pushes"): "Devices of {environment} are being woken.",
    ("POST", f"{PUSH}/pause"): "The push is paused.",
    ("POST", f"{PUSH}/resume"): "The push goes on.",
    ("POST", f"{PUSH}/cancel"): "The push is cancelled.",
    ("POST", f"{MODEL}/deploy"): "Deployed.",
    ("POST", f"{MODEL}/rollback"): "Rolled back.",
    ("POST", "/v2/sql"): "Asked.",
}
# What the answer to these holds is never shown again, so it is the next page.
SHOWN_ONCE: Final = {("POST", "/v2/tokens"): "token", ("POST", f"{ORG}/invitations"): "url"}
# What is gone with them cannot be had back, so a name has to be typed: by which part of the path.
CONFIRMED: Final = {
    ("DELETE", ORG): "org",
    ("DELETE", APP): "app",
    ("DELETE", ENV): "env",
    ("DELETE", f"{ENV}/keys/{{key}}"): "env",
    ("DELETE", MODEL): "model",
    ("DELETE", VERSION): "version",
}


def sentence_of(route: Route, answer: Any, names: Mapping[str, Any]) -> str:
    """Return what to say of what a form has done.

    Args:
        route: that it has called.
        answer: of its handler.
        names: the parts of its path, and the form's fields.
    """
    if isinstance(answer, DeployedOut):
        return f"{answer.success}."
    return _SENTENCES[route.method, route.path].format_map(names)
