"""What the serving assets hand on."""

from __future__ import annotations

from dataclasses import dataclass

from serving_gateway.contract import ReloadResponse


@dataclass(frozen=True, slots=True)
class ServingState:
    """What Triton said after it was asked to load a version."""

    model_name: str
    version: int
    run_id: str
    ready: bool
    reason: str
    """Why it is not READY; empty when it is."""
    ready_versions: tuple[int, ...]
    """All READY versions of the model at that moment, ascending."""
    load_id: str
    """Of this load alone: what ties a check's verdict to it."""


@dataclass(frozen=True, slots=True)
class GateVerdict:
    """What `no_regression` said of a version before it was switched to."""

    metric: str
    """Against the floor and against production, in one line."""
    description: str
    picture: str
    """The comparison with production as a data URL; empty where nothing was compared."""


@dataclass(frozen=True, slots=True)
class Promotion:
    """A switch that was carried out and confirmed by every replica."""

    model_name: str
    version: int
    run_id: str
    answer: ReloadResponse
    verdict: GateVerdict
