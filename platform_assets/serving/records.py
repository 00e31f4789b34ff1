"""Records that the serving assets pass on."""

from __future__ import annotations

from dataclasses import dataclass

from serving_gateway.contract import ReloadResponse


@dataclass(frozen=True, slots=True)
class ServingState:
    """Triton's state after it was asked to load a version."""

    model_name: str
    version: int
    run_id: str
    ready: bool
    reason: str
    """Why the version is not READY; empty when it is."""
    ready_versions: tuple[int, ...]
    """All READY versions of the model at that moment, ascending."""
    load_id: str
    """Unique id of this load, which ties a check's verdict to it."""


@dataclass(frozen=True, slots=True)
class GateVerdict:
    """The verdict of `no_regression` on a version before the switch to it."""

    metric: str
    """Result against the floor and against production, in one line."""
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
