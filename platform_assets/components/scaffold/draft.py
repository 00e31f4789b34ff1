"""What is inferred of a model so far, each part with its reason."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Final

from platform_assets.model_spec import (
    CandidateSpec,
    Evaluation,
    EventTime,
    FeatureSpec,
    Gates,
    JoinKey,
    ModelSpec,
    Source,
    Target,
    Task,
)
from platform_assets.model_spec.feature_source import DEFAULT_TTL

KEY: Final = "join_key"
TIME: Final = "event_timestamp"
TTL: Final = "ttl"
TARGET: Final = "target"
TASK: Final = "task"
CANDIDATES: Final = "candidates"
EVALUATION: Final = "evaluation"
FLOOR: Final = "metric_floor"


@dataclass(frozen=True, slots=True)
class Draft:
    """A model without its floor, and why each part is as it is.

    `reasons` are those of the parts, by the constants above, `feature_reasons` those of the
    features by name, `left_out` headers with the reason why the model does not read them.
    """

    model_name: str
    task: Task
    source: Source
    join_key: JoinKey
    event_time: EventTime | None
    target: Target
    features: tuple[FeatureSpec, ...]
    reasons: dict[str, str]
    feature_reasons: dict[str, str]
    left_out: dict[str, str]
    ttl: timedelta = DEFAULT_TTL
    candidates: tuple[CandidateSpec, ...] = ()
    evaluation: Evaluation = field(default_factory=Evaluation)
    floor: float | None = None

    def spec(self) -> ModelSpec:
        """Return the model as the chain takes it; without a floor any value passes."""
        return ModelSpec(
            model_name=self.model_name,
            task=self.task,
            source=self.source,
            join_key=self.join_key,
            event_time=self.event_time,
            ttl=self.ttl,
            target=self.target,
            features=self.features,
            candidates=self.candidates,
            evaluation=self.evaluation,
            gates=Gates(metric_floor=0.0 if self.floor is None else self.floor),
        )

    def without(self, reasons: dict[str, str]) -> Draft:
        """Leave features out: name -> reason."""
        headers = {one.name: one.source_column or one.name for one in self.features}
        return replace(
            self,
            features=tuple(one for one in self.features if one.name not in reasons),
            left_out=self.left_out | {headers[name]: why for name, why in reasons.items()},
        )

    def because(self, **reasons: str) -> Draft:
        """Add or replace the reasons of parts."""
        return replace(self, reasons=self.reasons | reasons)
