"""Rules for what lets one row count more than another."""

from __future__ import annotations

import pyarrow.compute as pc

from platform_assets.features.rules import refuse_rows
from platform_assets.features.sources.reader import SourceTable
from platform_assets.model_spec import ModelSpec, SourceSpec
from platform_assets.resources.source import SourceError


def check_weights(rows: SourceTable, spec: SourceSpec) -> None:
    """Raise SourceError where a row with a label has no weight, or one that is not from 0 up."""
    weight, target = spec.weight_column, spec.label_column
    if weight is None or target is None:
        return
    name = weight.name
    weights, labelled = rows.table[name], rows.table[target.name].is_valid()
    known = pc.and_(pc.is_finite(weights), pc.greater_equal(weights, 0.0)).fill_null(False)
    refuse_rows(
        rows,
        "weights that are not numbers from 0 up",
        {name: pc.and_(labelled, pc.invert(known))},
        "give each row with a label a weight, or remove `weight` in the model file, and run again",
    )
    if not pc.any(pc.and_(labelled, pc.greater(weights, 0.0).fill_null(False))).as_py():
        raise SourceError(
            f"{rows.name} has no row with a {name} above 0, so nothing can be learned",
            "correct the weights, and run again",
        )


def check_class_weights(rows: SourceTable, spec: ModelSpec) -> None:
    """Raise SourceError where the model file weighs a class that the rows do not have."""
    weights = spec.class_weight
    if weights is None or isinstance(weights, str):
        return
    unknown = [label for label in weights if label not in rows.classes]
    if unknown:
        raise SourceError(
            f"class_weight names {', '.join(map(str, unknown))}, and the classes in "
            f"{spec.target.name} of {rows.name} are {', '.join(map(str, rows.classes))}",
            "correct the model file, and run again",
        )
