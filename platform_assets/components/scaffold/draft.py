"""What is inferred of a model so far, each part with its reason."""

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
    """A model, and why each part is as it is; its floor is 0 until there is a reason for one.

    `reasons` are those of the parts, by the constants above, `feature_reasons` those of the
    features by name, `left_out` headers with the reason why the model does not read them.
    """

    spec: ModelSpec
    reasons: dict[str, str]
    feature_reasons: dict[str, str]
    left_out: dict[str, str]

    def without(self, reasons: dict[str, str]) -> Draft:
        """Leave features out: name -> reason."""
        features = self.spec.features
        headers = {one.name: one.source_column or one.name for one in features}
        return replace(
            self,
            spec=replace(
                self.spec, features=tuple(one for one in features if one.name not in reasons)
            ),
            left_out=self.left_out | {headers[name]: why for name, why in reasons.items()},
        )

    def because(self, reasons: dict[str, str], **fields: Any) -> Draft:
        """Change fields of the model, with the reasons of these parts."""
        return replace(self, spec=replace(self.spec, **fields), reasons=self.reasons | reasons)
