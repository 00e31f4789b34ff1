"""Compare the samples of a window with the reference. Pure."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from numpy.typing import NDArray

from platform_assets.model_spec import ModelSpec, Task
from platform_assets.monitoring.binning import comparable
from platform_assets.monitoring.records import FEATURE, PREDICTION, ColumnDrift, DriftReport
from platform_assets.monitoring.stability import ComparedRows, compare_columns
from platform_assets.monitoring.units import Columns, is_identifying, window_units
from platform_assets.resources.records import EvaluationSet
from platform_assets.resources.reference import read_reference
from platform_assets.resources.samples import Samples
from serving_gateway.contract import LOG_PREDICTION, LOG_SCORE, DType

if TYPE_CHECKING:
    import pandas as pd

PREDICTION_COLUMN: Final = "prediction"
CONFIDENCE_COLUMN: Final = "largest probability"


def drift_report(
    spec: ModelSpec,
    version: int,
    samples: Samples,
    features: ComparedRows | str,
    predictions: ComparedRows | str,
    *,
    min_rows: int,
) -> DriftReport:
    """Compare the samples of a version with its training rows and its held-out predictions.

    A text instead of rows says why there are none. With fewer than `min_rows` samples nothing is
    compared.
    """
    rows = samples.table.to_pandas()
    sampled = feature_columns(rows, spec)
    known = not isinstance(features, str) and is_identifying(features.columns, features.units)
    window = ComparedRows(sampled, window_units(samples.table, sampled, identifying=known))
    report = DriftReport(
        model_name=spec.model_name,
        version=version,
        rows=samples.rows,
        units=window.unit_count,
        min_rows=min_rows,
        reference_rows=0 if isinstance(features, str) else len(features.units),
        drift_limit=spec.gates.drift_limit,
        not_compared=tuple(f"file {reason}" for reason in samples.unreadable),
    )
    if not report.enough:
        return report
    columns: list[ColumnDrift] = []
    reasons: list[str] = []
    now = ComparedRows(sampled_predictions(rows, spec), window.units)
    for kind, reference, current in (
        (FEATURE, features, window),
        (PREDICTION, predictions, now),
    ):
        if isinstance(reference, str):
            reasons.append(f"{kind}s: {reference}")
            continue
        silent = _silent(reference.columns, current.columns)
        reasons += [f"{name}: no sample holds it" for name in silent]
        shared = {k: v for k, v in reference.columns.items() if k not in silent}
        columns += compare_columns(
            ComparedRows(shared, reference.units),
            current,
            kind=kind,
            drift_limit=spec.gates.drift_limit,
        )
    return replace(report, columns=tuple(columns), not_compared=(*report.not_compared, *reasons))


def _silent(reference: Columns, window: Columns) -> list[str]:
    """Return the columns without any sample."""
    predicted = {PREDICTION_COLUMN, CONFIDENCE_COLUMN}
    return [
        name
        for name in reference
        if name not in window or (name in predicted and _empty(window[name]))
    ]


def _empty(values: NDArray[Any]) -> bool:
    # Answers are never missing: a column without values was not sampled.
    return all(value is None or value != value for value in values)  # noqa: PLR0124 # NaN


def reference_features(data: bytes, spec: ModelSpec) -> ComparedRows:
    """Return a version's training features, comparable; raises as `read_reference` does."""
    sample = read_reference(data)
    return ComparedRows(feature_columns(sample.features, spec), sample.units)


def feature_columns(rows: pd.DataFrame, spec: ModelSpec) -> Columns:
    """Return the model's features that are present in the rows, comparable."""
    return {
        feature.name: comparable(rows[feature.name], feature.dtype)
        for feature in spec.features
        if feature.name in rows
    }


def reference_predictions(evaluation: EvaluationSet, spec: ModelSpec) -> ComparedRows:
    """Return scikit-learn's answers to the held-out rows, comparable."""
    import pandas as pd

    answers = pd.Series(evaluation.labels)
    units = pd.factorize(evaluation.groups)[0].astype("int64")
    if spec.task is Task.REGRESSION:
        return ComparedRows({PREDICTION_COLUMN: comparable(answers, DType.FP32)}, units)
    columns = {PREDICTION_COLUMN: comparable(answers, DType.BYTES)}
    if evaluation.probabilities is not None:
        largest = pd.Series(evaluation.probabilities.max(axis=1))
        columns[CONFIDENCE_COLUMN] = comparable(largest, DType.FP32)
    return ComparedRows(columns, units)


def sampled_predictions(rows: pd.DataFrame, spec: ModelSpec) -> Columns:
    """Return the gateway's answers, comparable with `reference_predictions`."""
    rows = rows.reindex(columns=[LOG_PREDICTION, LOG_SCORE])
    scores = comparable(rows[LOG_SCORE], DType.FP32)
    if spec.task is Task.REGRESSION:
        return {PREDICTION_COLUMN: scores}
    labels = rows[LOG_PREDICTION].astype(object)
    if spec.target.answer_dtype is DType.BOOL:
        labels = labels.str.lower()
    return {PREDICTION_COLUMN: comparable(labels, DType.BYTES), CONFIDENCE_COLUMN: scores}
