"""What the pilot remembers of a model from one look to the next, and what comes of a look."""

from __future__ import annotations

from dataclasses import dataclass, field

import dagster as dg
import msgspec

from platform_assets.release.record import Event
from serving_gateway.contract import BoundedMean, PairedOutcomes, Release


class Memory(msgspec.Struct, omit_defaults=True):
    """What the pilot need not find out, say or ask again; times in seconds since the epoch."""

    place: tuple[str, str, int] | None = None
    """Release, state and step of the newest record."""
    recorded_at: float = 0.0
    released_load: str = ""
    """Load with which the last release began."""
    waiting_load: str = ""
    """Load of which was asked whether it may be released, when, and what was in its way."""
    asked_at: float = 0.0
    obstacle: str = ""
    joined_for: str = ""
    """Release, and side of the switch, whose losses these are, and when they were joined."""
    joined_at: float = 0.0
    paired: PairedOutcomes | None = None
    mean: BoundedMean | None = None
    message: str = ""
    """That the webhook has not taken yet, and since when."""
    message_at: float = 0.0


@dataclass(slots=True)
class Turn:
    """What comes of one look at a model."""

    events: list[Event] = field(default_factory=list)
    requests: list[dg.RunRequest] = field(default_factory=list)
    said: str = ""
    alert: str = ""
    """For people, at once."""


def place_of(release: Release) -> tuple[str, str, int]:
    """What a record tells of: release, state and step."""
    return release.id, release.state.value, release.step
