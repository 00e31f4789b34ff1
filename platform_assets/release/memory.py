"""The pilot's memory of a model between two sensor ticks, and the result of a tick."""

from __future__ import annotations

from dataclasses import dataclass, field

import dagster as dg
import msgspec

from platform_assets.release.record import Event
from serving_gateway.contract import BoundedMean, PairedOutcomes, Release


class PilotMemory(msgspec.Struct, omit_defaults=True):
    """State that spares repeated reads, reports and requests; times in seconds since the epoch."""

    place: tuple[str, str, int] | None = None
    """Release, state and step of the newest record."""
    recorded_at: float = 0.0
    released_load: str = ""
    """Load that the last release began with."""
    waiting_load: str = ""
    """Load last checked for a release, when, and the obstacle found."""
    asked_at: float = 0.0
    obstacle: str = ""
    joined_for: str = ""
    """Release and side of the switch that the losses belong to, and when they were joined."""
    joined_at: float = 0.0
    paired: PairedOutcomes | None = None
    mean: BoundedMean | None = None
    messages: list[tuple[str, float]] = []
    """Messages that the webhook has not accepted yet, oldest first, and since when."""


@dataclass(slots=True)
class TickResult:
    """The outcome of one sensor tick for one model."""

    events: list[Event] = field(default_factory=list)
    requests: list[dg.RunRequest] = field(default_factory=list)
    summary: str = ""
    alerts: list[str] = field(default_factory=list)
    """For people, at once."""


def release_place(release: Release) -> tuple[str, str, int]:
    """Return the release, state and step that a record is about."""
    return release.id, release.state.value, release.step
