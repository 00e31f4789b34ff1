"""Limits of the gate `replay`: how far a candidate may differ on logged requests."""

from __future__ import annotations

from typing import Annotated, Final

from pydantic import Field, StrictFloat, StrictInt
from pydantic.dataclasses import dataclass

from platform_assets.model_spec.fields import CONFIG

Portion = Annotated[StrictFloat, Field(ge=0, le=1)]
REPLAY_ROWS: Final = 2_000


@dataclass(frozen=True, config=CONFIG)
class ReplayLimits:
    """Limits of the gate `replay`; a version fails when it is shown to be beyond one of them."""

    disagreement: Portion = 0.2
    """Maximum share of logged rows that the version labels differently from production; 1 for a
    version that is meant to answer differently."""
    score_shift: Annotated[StrictFloat, Field(ge=0)] = 0.25
    """Maximum distance of the mean of its probabilities, or predictions, from production's, in
    standard deviations on the held-out rows (of probabilities at least 0.1)."""
    latency_p99: Annotated[StrictFloat, Field(ge=1)] = 1.5
    """Maximum ratio of its 99th percentile for single rows to production's; up to 5 ms more than
    production's always passes."""
    outcome: Portion = 0.02
    """Maximum loss against production on rows whose outcome has matured: for a classifier in the
    share of wrong labels, for a regression in standard deviations of its predictions."""
    rows_shown: Annotated[StrictInt, Field(ge=0, le=100)] = 10
    """Number of rows that the check shows, those that differ most. They hold clients' data; 0 shows
    none."""
