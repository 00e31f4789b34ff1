"""One fit of a pipeline, with what the model file says of weights and calibration."""

from __future__ import annotations

import warnings
from typing import Any

from platform_assets.model_spec import ModelSpec
from platform_assets.training.calibration import deal, finish
from platform_assets.training.rows import Rows
from platform_assets.training.weights import fit_arguments


def fit_pipeline(pipeline: Any, rows: Rows, spec: ModelSpec) -> Any:
    """Return a pipeline fitted to rows; what its estimator raises is left as it is."""
    deal(pipeline.steps[-1][1], rows, spec)
    arguments = fit_arguments(pipeline, rows, spec)
    with warnings.catch_warnings():
        # Of a calibration: the weights for its estimator have a name of their own.
        warnings.filterwarnings("ignore", "Since Pipeline does not appear to accept sample_weight")
        fitted = pipeline.fit(rows.features, rows.labels, **arguments)
    finish(fitted.steps[-1][1], spec)
    return fitted
