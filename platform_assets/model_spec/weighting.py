"""How much a row counts while a model is fitted."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Annotated, Any, Final

from pydantic import BeforeValidator, Field, WithJsonSchema
from pydantic.dataclasses import dataclass

from platform_assets.model_spec.columns import FeatureName, Label, SourceColumn
from platform_assets.model_spec.fields import CONFIG, as_yaml, reject

BALANCED: Final = "balanced"
ClassWeights = Mapping[Label, float]


@dataclass(frozen=True, config=CONFIG)
class WeightColumn:
    """The column that says how much a row counts."""

    name: Annotated[FeatureName, Field(validation_alias="column")]
    """The column: numbers from 0."""
    source_column: SourceColumn = ""
    """The column's name in the source, where it differs."""


def _as_column(value: object) -> object:
    return {"column": value} if isinstance(value, str) else value


Weight = Annotated[
    WeightColumn, BeforeValidator(_as_column, json_schema_input_type=WeightColumn | str)
]


def _class_weight(value: object) -> str | ClassWeights | None:
    if value is None or value == BALANCED:
        return value
    if not isinstance(value, Mapping) or not value:
        raise ValueError(f"must be {BALANCED} or a mapping of classes to weights")
    reject(
        ((str(label),), f"{as_yaml(weight)} is not a weight: write a number above 0")
        for label, weight in value.items()
        if isinstance(weight, bool)
        or not isinstance(weight, (int, float))
        or not 0 < weight <= sys.float_info.max
    )
    return {label: float(weight) for label, weight in value.items()}


ClassWeight = Annotated[
    Any,
    BeforeValidator(_class_weight),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "string", "enum": [BALANCED]},
                {"type": "object", "additionalProperties": {"type": "number"}},
            ],
            "examples": [BALANCED, {"fraud": 20}],
        }
    ),
]
