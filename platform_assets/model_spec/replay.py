"""How differently from production a version may answer requests that production has answered."""

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
    """Share of the logged rows that the version may label otherwise than production; 1 for one
    that is meant to answer differently."""
    score_shift: Annotated[StrictFloat, Field(ge=0)] = 0.25
    """How far the mean of its probabilities, or of its predictions, may lie from production's, in
    standard deviations on the held-out rows (of probabilities at least 0.1)."""
    latency_p99: Annotated[StrictFloat, Field(ge=1)] = 1.5
    """Its 99th percentile for single rows over production's; 5 ms more than production's always
    pass."""
    outcome: Portion = 0.02
    """How much worse than production it may be on rows whose outcome has matured: of a classifier
    in the share of wrong labels, of a regression in standard deviations of its predictions."""
    rows_shown: Annotated[StrictInt, Field(ge=0, le=100)] = 10
    """Rows that the check shows, those that differ most. They are clients' data; 0 shows none."""
