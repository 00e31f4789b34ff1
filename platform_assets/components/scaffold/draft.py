"""The parts of a model inferred so far, each with its reason."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Final

from platform_assets.model_spec import ModelSpec

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
    """A model with the reasons of its parts; its floor is 0 until there is a reason for one.

    `reasons` are keyed by the constants above, `feature_reasons` by feature name; `left_out` has
    headers with the reason why the model does not read them.
    """

    spec: ModelSpec
    reasons: dict[str, str]
    feature_reasons: dict[str, str]
    left_out: dict[str, str]

    def drop_features(self, reasons: dict[str, str]) -> Draft:
        """Remove features, given as name -> reason."""
        features = self.spec.features
        headers = {feature.name: feature.source_column or feature.name for feature in features}
        return replace(
            self,
            spec=replace(
                self.spec,
                features=tuple(feature for feature in features if feature.name not in reasons),
            ),
            left_out=self.left_out | {headers[name]: why for name, why in reasons.items()},
        )

    def revise(self, reasons: dict[str, str], **fields: Any) -> Draft:
        """Change fields of the model, with the reasons for these parts."""
        return replace(self, spec=replace(self.spec, **fields), reasons=self.reasons | reasons)
