"""The metric of each version on matured predictions, with 95 % bounds."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np

from platform_assets.model_spec import Label, ModelSpec
from platform_assets.quality.logged_answers import logged_answers
from platform_assets.quality.matching import MatchedPredictions
from platform_assets.quality.records import ANY_TIME, CONFIDENCE, FIXED_SAMPLE, VersionQuality
from platform_assets.training.floor import estimate_metric
from platform_assets.training.metrics import Metric, chosen_metric
from serving_gateway.contract import BoundedMean, Trials

MAX_ROWS: Final = 50_000
"""Rows of a version from which a metric without sums is computed, chosen by a hash of their ids."""
_ACCURACY: Final = "accuracy"
_ABSOLUTE_ERROR: Final = "mean_absolute_error"
_RIGHT: Final = """SELECT count(*) FILTER (answer = outcome), count(*) FROM known
    WHERE version = $version"""
_ERRORS: Final = "SELECT abs(answer - outcome) AS error FROM known WHERE version = $version"
_ROWS: Final = """SELECT answer, outcome, probabilities, coalesce(entity, id) AS unit FROM known
    WHERE version = $version ORDER BY md5(concat(id, ' ', row)), row LIMIT $limit"""


def matured_versions(found: MatchedPredictions) -> tuple[int, ...]:
    """Return the versions with matured rows whose outcome is known, in order."""
    rows = found.database.sql("SELECT DISTINCT version FROM known ORDER BY version").fetchall()
    return tuple(int(version) for (version,) in rows)


def measure(
    found: MatchedPredictions,
    spec: ModelSpec,
    version: int,
    *,
    classes: Sequence[Label],
    scale: float,
) -> VersionQuality:
    """Measure a version; `classes` and `scale` are those of its signature and held-out rows.

    The share of right answers and the mean absolute error have bounds that hold while they are
    watched; the latter needs a `scale`, beyond which errors count as that much. Other metrics
    have those of a fixed sample. NaN where the rows do not determine the metric.
    """
    metric = chosen_metric(spec.evaluation)
    if metric.name == _ACCURACY:
        return _accuracy(found, version)
    if metric.name == _ABSOLUTE_ERROR and 0 < scale < math.inf:
        return _absolute_error(found, version, scale)
    return _of_sample(found, spec, version, metric, classes)


def _accuracy(found: MatchedPredictions, version: int) -> VersionQuality:
    [[right, rows]] = found.database.execute(_RIGHT, {"version": version}).fetchall()
    trials = Trials(right, rows)
    bounds, share = trials.bounds(1 - CONFIDENCE), trials.share
    value = math.nan if share is None else share
    return VersionQuality(version, rows, value, bounds.low, bounds.high, ANY_TIME, rows)


def _absolute_error(found: MatchedPredictions, version: int, scale: float) -> VersionQuality:
    columns: Mapping[str, Any] = found.database.execute(_ERRORS, {"version": version}).fetchnumpy()
    errors = np.minimum(np.asarray(columns["error"], dtype=np.float64), scale).tolist()
    # Of any order of the rows the sums are the same, to the last bit.
    squares = math.fsum(one * one for one in errors)
    mean = BoundedMean(len(errors), math.fsum(errors), squares, 0.0, scale)
    bounds, value = mean.bounds(1 - CONFIDENCE), math.nan if mean.mean is None else mean.mean
    rows = len(errors)
    return VersionQuality(version, rows, value, bounds.low, bounds.high, ANY_TIME, rows)


def _of_sample(
    found: MatchedPredictions,
    spec: ModelSpec,
    version: int,
    metric: Metric,
    classes: Sequence[Label],
) -> VersionQuality:
    version_only = {"version": version}
    [[_, rows]] = found.database.execute(_RIGHT, version_only).fetchall()
    chosen = found.database.execute(_ROWS, version_only | {"limit": MAX_ROWS})
    columns: Mapping[str, Any] = chosen.fetchnumpy()
    answers, units = logged_answers(columns, spec, metric, classes)
    if not len(units):
        nothing = (math.nan, -math.inf, math.inf, FIXED_SAMPLE)
        return VersionQuality(version, rows, *nothing, measured_rows=0)
    found_estimate = estimate_metric(metric, answers, units, CONFIDENCE)
    return VersionQuality(
        version,
        rows,
        found_estimate.value,
        found_estimate.low,
        found_estimate.high,
        FIXED_SAMPLE,
        len(units),
    )
