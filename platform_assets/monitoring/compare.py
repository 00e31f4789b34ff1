"""From two tables to a drift report. Pure, but for what it is given to read."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from platform_assets.monitoring.records import (
    FEATURE,
    FEWEST_UNITS,
    PREDICTION,
    ColumnDrift,
    DriftReport,
)
from platform_assets.monitoring.reference import (
    CONFIDENCE_COLUMN,
    PREDICTION_COLUMN,
    feature_columns,
    sampled_predictions,
)
from platform_assets.monitoring.stability import ComparedRows, compare_columns
from platform_assets.monitoring.units import is_identifying, window_units

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from platform_assets.model_spec import ModelSpec
    from platform_assets.resources.samples import Samples

    Columns = dict[str, NDArray[Any]]


def drift_report(
    spec: ModelSpec,
    version: int,
    samples: Samples,
    features: ComparedRows | str,
    predictions: ComparedRows | str,
    *,
    min_rows: int,
) -> DriftReport:
    """Compare a window with its reference.

    Args:
        spec: the model.
        version: the version that answered.
        samples: the window.
        features: the training rows, comparable, or why there are none.
        predictions: the answers for the held-out rows, comparable, or why there are none.
        min_rows: with fewer samples nothing is compared.
    """
    answered = feature_columns(samples.table, spec)
    known = not isinstance(features, str) and is_identifying(features.columns, features.units)
    units = window_units(samples.table, answered, identifying=known)
    columns: list[ColumnDrift] = []
    left_out = [f"file {reason}" for reason in samples.unreadable]
    if _enough(samples, units, min_rows):
        now = sampled_predictions(samples.table, spec)
        for kind, reference, window in (
            (FEATURE, features, answered),
            (PREDICTION, predictions, now),
        ):
            if isinstance(reference, str):
                left_out.append(f"{kind}s: {reference}")
                continue
            silent = _silent(reference.columns, window)
            left_out += [f"{name}: no sample holds it" for name in silent]
            shared = {k: v for k, v in reference.columns.items() if k not in silent}
            columns += compare_columns(
                ComparedRows(shared, reference.units),
                ComparedRows(window, units),
                kind=kind,
                drift_limit=spec.gates.drift_limit,
            )
    return DriftReport(
        model_name=spec.model_name,
        version=version,
        rows=samples.rows,
        units=_count(units),
        min_rows=min_rows,
        reference_rows=0 if isinstance(features, str) else len(features.units),
        drift_limit=spec.gates.drift_limit,
        columns=tuple(columns),
        not_compared=tuple(left_out),
    )


def _enough(samples: Samples, units: NDArray[np.int64], min_rows: int) -> bool:
    return samples.rows >= min_rows and _count(units) >= FEWEST_UNITS


def _count(units: NDArray[np.int64]) -> int:
    return int(units.max(initial=-1)) + 1


def _silent(reference: Columns, window: Columns) -> list[str]:
    """Columns that no sample holds."""
    predicted = {PREDICTION_COLUMN, CONFIDENCE_COLUMN}
    return [
        name
        for name in reference
        if name not in window or (name in predicted and _empty(window[name]))
    ]


def _empty(values: NDArray[Any]) -> bool:
    # Answers are never missing: a column without any was not sampled.
    return all(value is None or value != value for value in values)  # noqa: PLR0124 # NaN
