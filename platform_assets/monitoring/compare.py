"""From two tables to a drift report. Pure, but for what it is given to read."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from platform_assets.monitoring.records import FEATURE, PREDICTION, ColumnDrift, DriftReport
from platform_assets.monitoring.reference import feature_columns, sampled_predictions
from platform_assets.monitoring.stability import compare_columns

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from platform_assets.model_spec import ModelSpec
    from platform_assets.resources.samples import Samples

    Columns = dict[str, NDArray[Any]]


def drift_report(
    spec: ModelSpec,
    version: int,
    samples: Samples,
    features: Columns,
    predictions: Columns | str,
    *,
    min_rows: int,
) -> DriftReport:
    """Compare a window with its reference.

    Args:
        spec: the model.
        version: the version that answered.
        samples: the window.
        features: the training rows, comparable.
        predictions: the answers for the held-out rows, comparable, or why there are none.
        min_rows: with fewer samples nothing is compared.
    """
    columns: list[ColumnDrift] = []
    left_out = [f"file {reason}" for reason in samples.unreadable]
    if samples.rows >= min_rows:
        limit = spec.gates.drift_limit
        answered = feature_columns(samples.table, spec)
        left_out += [f"{name}: no sample holds it" for name in features if name not in answered]
        shared = {name: values for name, values in features.items() if name in answered}
        columns += compare_columns(shared, answered, kind=FEATURE, drift_limit=limit)
        if isinstance(predictions, str):
            left_out.append(f"predictions: {predictions}")
        else:
            now = sampled_predictions(samples.table, spec)
            left_out += _silent(predictions, now)
            told = {k: v for k, v in predictions.items() if not _empty(now[k])}
            columns += compare_columns(told, now, kind=PREDICTION, drift_limit=limit)
    return DriftReport(
        model_name=spec.model_name,
        version=version,
        rows=samples.rows,
        min_rows=min_rows,
        reference_rows=max((len(values) for values in features.values()), default=0),
        drift_limit=spec.gates.drift_limit,
        columns=tuple(columns),
        not_compared=tuple(left_out),
    )


def _silent(predictions: Columns, now: Columns) -> Iterator[str]:
    for name in predictions:
        if _empty(now[name]):
            yield f"{name}: no sample holds it"


def _empty(values: NDArray[Any]) -> bool:
    # Answers are never missing: a column without any was not sampled.
    return all(value is None or value != value for value in values)  # noqa: PLR0124 # NaN
