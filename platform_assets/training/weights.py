"""How much each row counts in a fit; metrics and gates count every row once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from platform_assets.model_spec import BALANCED, ModelSpec
from platform_assets.training.rows import Rows

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


def is_weighted(spec: ModelSpec) -> bool:
    """Whether rows count differently in a fit of this model."""
    return spec.weight is not None or spec.class_weight is not None


def fit_arguments(pipeline: Any, rows: Rows, spec: ModelSpec) -> dict[str, NDArray[np.float64]]:
    """Return the extra arguments for fitting a pipeline to these rows.

    A calibration weights rows by their column alone, and so undoes the effect of class weights on
    probabilities.
    """
    weights = row_weights(rows, spec)
    if weights is None:
        return {}
    arguments = {_weight_argument(pipeline): weights}
    if rows.weights is not None and spec.calibration is not None:
        arguments[f"{pipeline.steps[-1][0]}__sample_weight"] = rows.weights
    return arguments


def row_weights(rows: Rows, spec: ModelSpec) -> NDArray[np.float64] | None:
    """Return the weight of each row, shape (rows,): that of the column times that of the class.

    `balanced` gives all classes of these rows the same total before the column applies. None if
    the model file asks for neither.
    """
    classes = _class_weights(rows, spec)
    if rows.weights is None or classes is None:
        return rows.weights if classes is None else classes
    return rows.weights * classes


def _class_weights(rows: Rows, spec: ModelSpec) -> NDArray[np.float64] | None:
    import pandas as pd
    from sklearn.utils.class_weight import compute_sample_weight

    if spec.class_weight is None:
        return None
    if spec.class_weight == BALANCED:
        return compute_sample_weight(BALANCED, rows.labels)  # type: ignore[no-any-return] # untyped
    # A boolean label equals the number that encodes it.
    places, labels = pd.factorize(rows.labels)
    values = pd.Series(
        [spec.class_weight.get(label, 1.0) for label in labels.tolist()], dtype=float
    )
    return values.to_numpy()[places]


def takes_weights(model: Any) -> bool:
    """Whether an unfitted estimator, or the last step of a pipeline, takes row weights."""
    from sklearn.pipeline import Pipeline
    from sklearn.utils.validation import has_fit_parameter

    if isinstance(model, Pipeline):
        return takes_weights(model.steps[-1][1])
    return bool(has_fit_parameter(model, "sample_weight"))


def _weight_argument(pipeline: Any) -> str:
    """Return the name under which a pipeline passes weights to its innermost estimator."""
    from sklearn.calibration import CalibratedClassifierCV
    from sklearn.pipeline import Pipeline

    name: list[str] = []
    step = pipeline
    while True:
        if isinstance(step, Pipeline):
            last, step = step.steps[-1]
            name.append(last)
        elif isinstance(step, CalibratedClassifierCV) and isinstance(step.estimator, Pipeline):
            step = step.estimator  # which gets the calibration's arguments
        else:
            break
    return "__".join([*name, "sample_weight"])
