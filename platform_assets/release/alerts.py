"""Alerts about a release."""

from __future__ import annotations

from platform_assets.model_spec import ModelSpec
from platform_assets.resources.webhook import escape
from serving_gateway.contract import Release, ReleaseState


def alert_text(spec: ModelSpec, release: Release, reason: str) -> str:
    """Return the alert about a release; empty while nothing needs attention."""
    version, name = release.version, spec.model_name
    match release.state:
        case ReleaseState.STOPPED:
            what = f":octagonal_sign: the release of version {version} of *{name}* was stopped"
        case ReleaseState.ROLLED_BACK:
            what = (
                f":rewind: *{name}* was rolled back from version {version} to "
                f"{release.previous_version}, and pinned there"
            )
        case ReleaseState.WAITING:
            what = f":raised_hand: version {version} of *{name}* waits for an approval"
        case _:
            return ""
    return f"{what}: {escape(reason)}"


def refusal_text(spec: ModelSpec, version: int, reason: str) -> str:
    """Return the alert about a version that passed its gates but cannot be released."""
    return (
        f":octagonal_sign: version {version} of *{spec.model_name}* passed its gates, and the "
        f"gateway refuses its release; production stays: {escape(reason)}"
    )
