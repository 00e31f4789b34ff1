"""The metric of each version on matured predictions, with 95 % bounds."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from platform_assets.model_spec import Label, ModelSpec, Task
from platform_assets.quality.matching import MatchedPredictions
from platform_assets.quality.queries import finite
from platform_assets.quality.records import ANY_TIME, CONFIDENCE, FIXED_SAMPLE, VersionQuality
from platform_assets.resources.records import Estimate
from platform_assets.training.floor import estimate_metric
from platform_assets.training.metrics import Answers, Metric, chosen_metric
from serving_gateway.contract import BoundedMean, Interval, Trials

if TYPE_CHECKING:
    from numpy.typing import NDArray

MAX_ROWS: Final = 50_000
"""Most rows used for a metric that is not a sum, chosen by a hash of their ids."""
_ACCURACY: Final = "accuracy"
_ABSOLUTE_ERROR: Final = "mean_absolute_error"
_RIGHT: Final = """SELECT count(*) FILTER (answer = outcome), count(*),
    count(*) FILTER (NOT {finite}) FROM known WHERE version = $version"""
_ERRORS: Final = """SELECT abs(answer - outcome) AS error FROM known
    WHERE version = $version AND {finite}"""
_ROWS: Final = """SELECT answer, outcome, probabilities, coalesce(entity, id) AS unit FROM known
    WHERE version = $version AND {finite}
    ORDER BY md5(concat(id, ' ', row)), row LIMIT $limit"""


def matured_versions(matched: MatchedPredictions) -> tuple[int, ...]:
    """Return the versions with matured rows of known outcome, in order."""
    rows = matched.database.sql("SELECT DISTINCT version FROM known ORDER BY version").fetchall()
    return tuple(int(version) for (version,) in rows)


def measure(
    matched: MatchedPredictions,
    spec: ModelSpec,
    version: int,
    *,
    classes: Sequence[Label],
    scale: float,
) -> VersionQuality:
    """Measure a version; `classes` and `scale` are those of its signature and held-out rows.

    The share of right answers and the mean absolute error have bounds that hold while they are
    watched; the latter needs a `scale`, beyond which errors count as that much. Other metrics
    have those of a fixed sample. NaN where the rows do not determine the metric. Answers that are
    not finite are counted apart.
    """
    metric, this = chosen_metric(spec.evaluation), {"version": version}
    is_finite = finite(spec)
    query = _RIGHT.format(finite=is_finite)
    [[right, rows, not_finite]] = matched.database.execute(query, this).fetchall()
    kind, used = ANY_TIME, rows
    value: float | None = None
    bounds: Estimate | Interval = Interval(-math.inf, math.inf)
    if metric.name == _ACCURACY:
        trials = Trials(right, rows)
        value, bounds = trials.share, trials.bounds(1 - CONFIDENCE)
    elif metric.name == _ABSOLUTE_ERROR and 0 < scale < math.inf:
        query, used = _ERRORS.format(finite=is_finite), rows - not_finite
        columns: Mapping[str, Any] = matched.database.execute(query, this).fetchnumpy()
        errors = np.minimum(np.asarray(columns["error"], dtype=np.float64), scale).tolist()
        # Of any order of the rows the sums are the same, to the last bit.
        squares = math.fsum(one * one for one in errors)
        mean = BoundedMean(used, math.fsum(errors), squares, 0.0, scale)
        value, bounds = mean.mean, mean.bounds(1 - CONFIDENCE)
    else:
        query = _ROWS.format(finite=is_finite)
        columns = matched.database.execute(query, this | {"limit": MAX_ROWS}).fetchnumpy()
        answers, units = _logged_answers(columns, spec, metric, classes)
        kind, used = FIXED_SAMPLE, len(units)
        if used:
            bounds = estimate_metric(metric, answers, units, CONFIDENCE)
            value = bounds.value
    known = math.nan if value is None else value
    return VersionQuality(version, rows, known, bounds.low, bounds.high, kind, used, not_finite)


def _logged_answers(
    columns: Mapping[str, Any], spec: ModelSpec, metric: Metric, classes: Sequence[Label]
) -> tuple[Answers, NDArray[Any]]:
    """Return the answers, and the entity or request of each row.

    `columns`: `answer`, `outcome`, `probabilities` and `unit`, shape (rows,). Rows of a class not
    in `classes`, or without the probabilities that the metric needs, are left out.
    """
    units = np.asarray(columns["unit"], dtype=object)
    if spec.task is Task.REGRESSION:
        true, predicted = (np.asarray(columns[name], np.float64) for name in ("outcome", "answer"))
        return Answers(true, predicted), units
    by_text = {_text(label): label for label in classes}
    usable = np.isin(columns["outcome"], [*by_text]) & np.isin(columns["answer"], [*by_text])
    needs_probabilities = metric.largest_steps is None
    if needs_probabilities:
        # An answer without probabilities has the shape of a null.
        of_classes = [np.shape(row) == (len(classes),) for row in columns["probabilities"]]
        usable &= np.array(of_classes, dtype=bool)
    probabilities = None
    if needs_probabilities and usable.any():
        rows = columns["probabilities"][usable]
        probabilities = np.stack([np.asarray(row, np.float64) for row in rows])
    true, labels = (
        _labels([by_text[text] for text in columns[name][usable]]) for name in ("outcome", "answer")
    )
    return Answers(true, labels, probabilities, tuple(classes)), units[usable]


def _labels(labels: list[Label]) -> NDArray[Any]:
    if all(isinstance(label, str) for label in labels):
        return np.array(labels, dtype=object)
    return np.array(labels)


def _text(label: Label) -> str:
    return str(label).lower() if isinstance(label, bool) else str(label)
