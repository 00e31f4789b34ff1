"""Probabilities corrected on rows that the estimator did not learn from."""

from __future__ import annotations

from itertools import pairwise
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from platform_assets.model_spec import ModelSpec
from platform_assets.training.boosting import hide_decision_function
from platform_assets.training.folds import scoring_folds
from platform_assets.training.preprocessing import MODEL_STEP
from platform_assets.training.rows import Rows

_STEEPEST: Final = 100.0
"""Maximum slope of an isotonic calibration, per unit of the largest score.

A steeper one would turn the rounding of single precision into differences that a client sees.
"""


def with_calibration(model: Any, spec: ModelSpec) -> Any:
    """Return an unfitted classifier, with calibrated probabilities if the model file asks for them.

    One estimator learns from all rows; its calibration learns from out-of-fold scores.
    """
    if spec.calibration is None:
        return model
    from sklearn.calibration import CalibratedClassifierCV
    from sklearn.pipeline import Pipeline

    # In a pipeline: class weights are for the estimator alone, and the calibration undoes their
    # effect on probabilities.
    inner = Pipeline([(MODEL_STEP, hide_decision_function(model))])
    return CalibratedClassifierCV(inner, method=spec.calibration.value, ensemble=False)


def unwrap_calibration(model: Any) -> Any:
    """Return the estimator in a model made by `with_calibration`; any other one unchanged."""
    from sklearn.calibration import CalibratedClassifierCV
    from sklearn.pipeline import Pipeline

    if isinstance(model, CalibratedClassifierCV) and isinstance(model.estimator, Pipeline):
        return model.estimator.steps[-1][1]
    return model


def set_folds(model: Any, rows: Rows, spec: ModelSpec) -> None:
    """Set the folds of rows by which a model from `with_calibration`, unfitted, is cross-fitted."""
    if spec.calibration is not None:
        model.set_params(cv=scoring_folds(rows, spec))


def finalize(model: Any, spec: ModelSpec) -> None:
    """Turn a fitted model from `with_calibration` into one that can be served and stored."""
    if spec.calibration is None:
        return
    model.set_params(cv=len(model.cv))  # the folds name rows, which the model must not keep
    for fitted in model.calibrated_classifiers_:
        fitted.calibrators = [_limit_slope(calibrator) for calibrator in fitted.calibrators]


def _limit_slope(calibrator: Any) -> Any:
    """Return a calibrator whose slope single precision can follow, if it is isotonic."""
    from sklearn.isotonic import IsotonicRegression

    if not isinstance(calibrator, IsotonicRegression):
        return calibrator
    places, values = limit_slopes(
        np.asarray(calibrator.X_thresholds_, np.float64),
        np.asarray(calibrator.y_thresholds_, np.float64),
    )
    return IsotonicRegression(out_of_bounds="clip").fit(places, values)


def limit_slopes(
    places: NDArray[np.float64], values: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the knots of a function that follows a rising one with a limited slope.

    Both are linear between knots. It is nowhere above the given one, and equal to it once it has
    caught up.
    """
    steepest = _STEEPEST / max(1.0, float(np.abs(places).max()))
    knots = [(float(places[0]), float(values[0]))]
    for (start, low), (end, high) in pairwise(zip(places.tolist(), values.tolist(), strict=True)):
        behind, slope = low - knots[-1][1], (high - low) / (end - start)
        if slope < steepest:
            caught_up = start + behind / (steepest - slope)
            if start < caught_up < end:
                knots.append((caught_up, low + slope * (caught_up - start)))
        knots.append((end, min(high, knots[-1][1] + steepest * (end - knots[-1][0]))))
    array = np.array(knots)
    return array[:, 0], array[:, 1]
