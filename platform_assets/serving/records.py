"""What the serving assets hand on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

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

    description: str
    numbers: Mapping[str, Any]
    """Its metadata by name, those that are numbers or words."""
    picture: str
    """The comparison with production as a data URL; empty where nothing was compared."""

    @property
    def summary(self) -> str:
        """The metric against the floor and against production, in one line."""
        said, metric = self.numbers, str(self.numbers.get("metric"))
        if metric not in said:
            return self.description
        parts = [
            f"{metric} {said[metric]:.4g} ({said['low']:.4g} to {said['high']:.4g})",
            f"floor {said['floor']:.4g}",
        ]
        if "production_version" in said:
            before = said.get(f"production_{metric}")
            value = "the same graph" if before is None else f"{before:.4g}"
            parts.append(f"version {said['production_version']}, in production before: {value}")
        if "gain" in said:
            interval = f"{said['gain_low']:+.4g} to {said['gain_high']:+.4g}"
            parts.append(f"gain {said['gain']:+.4g} ({interval}): {said['verdict']}")
        return "; ".join(parts)


@dataclass(frozen=True, slots=True)
class Promotion:
    """A switch that was carried out and confirmed by every replica."""

    model_name: str
    version: int
    run_id: str
    answer: ReloadResponse
    verdict: GateVerdict
