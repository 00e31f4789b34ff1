"""The words that a model file may use: types, estimators, metrics, and names that are taken."""

from __future__ import annotations

from typing import Final

from platform_assets.model_spec import Task
from platform_assets.training.candidates import known
from serving_gateway.contract import DType

FEATURE_TYPES: Final[dict[str, DType]] = {
    "number": DType.FP32,
    "double": DType.FP64,
    "integer": DType.INT64,
    "boolean": DType.BOOL,
    "text": DType.BYTES,
}
NUMERIC_TYPES: Final = frozenset({"number", "double", "integer"})
TARGET_TYPES: Final[dict[str, DType]] = {
    "text": DType.BYTES,
    "integer": DType.INT64,
    "boolean": DType.BOOL,
    "number": DType.FP64,
}
CLASS_TYPES: Final[dict[str, type]] = {"text": str, "integer": int, "boolean": bool}
"""Target type -> type of a class label as YAML reads it."""

DEFAULT_CLASSIFIERS: Final = ("logistic_regression", "random_forest", "hist_gradient_boosting")
DEFAULT_REGRESSORS: Final = ("ridge", "random_forest", "hist_gradient_boosting")


METRIC_BOUNDS: Final[dict[str, tuple[float | None, float | None]]] = {
    "accuracy": (0.0, 1.0),
    "balanced_accuracy": (0.0, 1.0),
    "f1_macro": (0.0, 1.0),
    "roc_auc": (0.0, 1.0),
    "log_loss": (0.0, None),
    "r2": (None, 1.0),
    "mean_absolute_error": (0.0, None),
    "root_mean_squared_error": (0.0, None),
}
"""Least and most that a metric can be, inclusive; None: no bound on that side."""
DEFAULT_METRIC: Final[dict[Task, str]] = {
    Task.BINARY: "balanced_accuracy",
    Task.MULTICLASS: "balanced_accuracy",
    Task.REGRESSION: "r2",
}

DATASETS: Final = ("sklearn", "vega")
"""Packages whose data sets can be named."""

TIME_COLUMN: Final = "event_timestamp"
"""The time column of a model without one of its own."""
FEAST_COLUMNS: Final = frozenset({TIME_COLUMN, "entity_row_id", "event_expire_timestamp", "rn"})
"""What Feast calls columns of its own while it joins; letters of either case are the same."""
_RESERVED: Final = FEAST_COLUMNS | {"created_timestamp", "label", "label_true", "probabilities"}
_RESERVED_PREFIXES: Final = ("prediction", "probability_", "sample_")
LOST_SUFFIX: Final = "_y"
"""Feast drops features and times whose names end so from its join."""


def is_reserved(column: str) -> bool:
    """Whether the platform or Feast writes a column or a tensor of this name, in any case."""
    name = column.casefold()
    return name in _RESERVED or name.startswith(_RESERVED_PREFIXES)


def estimators(task: Task) -> tuple[str, ...]:
    """Names of the estimators that do `task`."""
    return tuple(known(task))
