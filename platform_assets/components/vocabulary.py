"""The words that a model file may use: types, estimators, metrics, and names that are taken."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from platform_assets.model_spec import Task
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

CLASSIFIERS: Final = (
    "logistic_regression",
    "linear_discriminant",
    "random_forest",
    "extra_trees",
    "gradient_boosting",
    "hist_gradient_boosting",
    "decision_tree",
)
REGRESSORS: Final = (
    "linear_regression",
    "ridge",
    "random_forest",
    "extra_trees",
    "gradient_boosting",
    "hist_gradient_boosting",
    "decision_tree",
)
DEFAULT_CLASSIFIERS: Final = ("logistic_regression", "random_forest", "hist_gradient_boosting")
DEFAULT_REGRESSORS: Final = ("ridge", "random_forest", "hist_gradient_boosting")


@dataclass(frozen=True, slots=True)
class Metric:
    """Values that a metric can have, inclusive; None: no bound on that side."""

    regression: bool
    least: float | None
    most: float | None


METRICS: Final[dict[str, Metric]] = {
    "accuracy": Metric(regression=False, least=0.0, most=1.0),
    "balanced_accuracy": Metric(regression=False, least=0.0, most=1.0),
    "f1_macro": Metric(regression=False, least=0.0, most=1.0),
    "roc_auc": Metric(regression=False, least=0.0, most=1.0),
    "log_loss": Metric(regression=False, least=0.0, most=None),
    "r2": Metric(regression=True, least=None, most=1.0),
    "mean_absolute_error": Metric(regression=True, least=0.0, most=None),
    "root_mean_squared_error": Metric(regression=True, least=0.0, most=None),
}
DEFAULT_METRIC: Final[dict[Task, str]] = {
    Task.BINARY: "balanced_accuracy",
    Task.MULTICLASS: "balanced_accuracy",
    Task.REGRESSION: "r2",
}

DATASETS: Final = ("sklearn", "vega")
"""Packages whose data sets can be named."""

TIME_COLUMN: Final = "event_timestamp"
"""The time column of a model without one of its own."""
_RESERVED: Final = frozenset(
    {TIME_COLUMN, "created_timestamp", "label", "label_true", "probabilities"}
)
_RESERVED_PREFIXES: Final = ("prediction", "probability_", "sample_")


def is_reserved(column: str) -> bool:
    """Whether the platform itself writes a column or a tensor of this name."""
    return column in _RESERVED or column.startswith(_RESERVED_PREFIXES)


def estimators(task: Task) -> tuple[str, ...]:
    """Names of the estimators that do `task`."""
    return REGRESSORS if task is Task.REGRESSION else CLASSIFIERS


def metrics(task: Task) -> tuple[str, ...]:
    """Names of the metrics that measure `task`."""
    regression = task is Task.REGRESSION
    return tuple(name for name, metric in METRICS.items() if metric.regression is regression)
