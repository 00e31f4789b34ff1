"""How candidates are trained, compared and judged."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import field
from enum import StrEnum
from typing import Annotated, Any, Final, Self

from pydantic import (
    BeforeValidator,
    Field,
    StrictBool,
    StrictFloat,
    StrictInt,
    StrictStr,
    WithJsonSchema,
    model_validator,
)
from pydantic.dataclasses import dataclass

from platform_assets.model_spec.columns import FeatureName
from platform_assets.model_spec.fields import (
    CONFIG,
    Count,
    Duration,
    Positive,
    Share,
    full_match,
    reject,
)
from platform_assets.model_spec.search import Range

Scalar = bool | int | float | str | None

Portion = Annotated[StrictFloat, Field(ge=0, le=1)]
REPLAY_ROWS: Final = 2_000


class Task(StrEnum):
    """What is predicted."""

    BINARY = "binary"
    MULTICLASS = "multiclass"
    REGRESSION = "regression"


class WhenInconclusive(StrEnum):
    """What becomes of a candidate when the evaluation rows are too few to judge it."""

    WARN = "warn"
    BLOCK = "block"


class Split(StrEnum):
    """How rows are held out for the evaluation."""

    ENTITY = "entity"
    """All rows of an entity on the same side; the same entities each time."""
    TIME = "time"
    """The newest rows are evaluated; folds never learn from what comes after them."""
    ENTITY_AND_TIME = "entity_and_time"
    """The newest rows of held-out entities are evaluated; older rows of others are learned from."""

    @property
    def by_entity(self) -> bool:
        """Whether no entity is on both sides."""
        return self is not Split.TIME

    @property
    def by_time(self) -> bool:
        """Whether what is evaluated comes after what was learned from."""
        return self is not Split.ENTITY


PINBALL: Final = "pinball"
PERCENTAGE_ERROR: Final = "mean_absolute_percentage_error"
DEFAULT_QUANTILE: Final = 0.5
METRICS: Final[dict[str, tuple[bool, float | None, float | None]]] = {
    "balanced_accuracy": (False, 0, 1),
    "accuracy": (False, 0, 1),
    "f1_macro": (False, 0, 1),
    "roc_auc": (False, 0, 1),
    "average_precision": (False, 0, 1),
    "brier": (False, 0, 2),
    "log_loss": (False, 0, None),
    "r2": (True, None, 1),
    "mean_absolute_error": (True, 0, None),
    PERCENTAGE_ERROR: (True, 0, None),
    PINBALL: (True, 0, None),
    "root_mean_squared_error": (True, 0, None),
}
"""Whether a metric is for regression, and its least and greatest value (None: no bound). The
first one for a kind of task is its default."""
_ENSEMBLES: Final = (
    "random_forest",
    "hist_gradient_boosting",
    "extra_trees",
    "gradient_boosting",
    "decision_tree",
)
_BOOSTING: Final = ("lightgbm", "xgboost")
CLASSIFIERS: Final = ("logistic_regression", *_ENSEMBLES, "linear_discriminant", *_BOOSTING)
REGRESSORS: Final = ("ridge", *_ENSEMBLES, "linear_regression", *_BOOSTING)
"""Names of estimators; the first three of a task compete by default."""
UNWEIGHTED: Final = frozenset({"linear_discriminant"})
"""Estimators that do not support sample weights."""


def metrics(task: Task) -> tuple[str, ...]:
    """Return the names of the metrics for `task`, the default one first."""
    regression = task is Task.REGRESSION
    return tuple(name for name, (numeric, _, _) in METRICS.items() if numeric is regression)


def estimators(task: Task) -> tuple[str, ...]:
    """Return the names of the estimators for `task`, those that compete by default first."""
    return REGRESSORS if task is Task.REGRESSION else CLASSIFIERS


def _one_of(names: Iterable[str]) -> WithJsonSchema:
    """List the names for editors and readers; the task decides which of them fit."""
    return WithJsonSchema({"type": "string", "enum": sorted(names)})


def _listed(values: object) -> tuple[object, ...]:
    listed = tuple(values) if isinstance(values, (list, tuple)) else (values,)
    if not listed or any(isinstance(value, (list, dict)) for value in listed):
        raise ValueError("needs a list of numbers, texts, booleans or nulls to try")
    return listed


FunctionPath = Annotated[
    StrictStr,
    full_match(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*", "write package.module:name"),
]
Values = Annotated[tuple[Any, ...], BeforeValidator(_listed, json_schema_input_type=Any)]


@dataclass(frozen=True, config=CONFIG)
class CandidateSpec:
    """An estimator that competes, once for each point of its grid.

    Exactly one of `estimator`, `function` and `pipeline` is given.
    """

    estimator: Annotated[StrictStr, _one_of({*CLASSIFIERS, *REGRESSORS})] | None = None
    """logistic_regression and linear_discriminant are for classes, ridge and linear_regression for
    a regression, the others for both. lightgbm and xgboost need the extra `boosting`."""
    function: Annotated[FunctionPath, Field(examples=["my_package.models:forest"])] | None = None
    """`package.module:name` of a function that returns an unfitted scikit-learn estimator."""
    pipeline: Annotated[FunctionPath, Field(examples=["my_package.models:build"])] | None = None
    """`package.module:name` of a function that returns an unfitted scikit-learn Pipeline, which
    takes the place of the platform's own preprocessing: it reads a DataFrame with a column for each
    feature."""
    grid: Annotated[
        dict[StrictStr, Values],
        Field(examples=[{"max_depth": [4, 8]}, {"n_estimators": [50, 100]}]),
    ] = field(default_factory=dict)
    """Parameter -> values to try; each combination competes."""
    ranges: Annotated[
        dict[StrictStr, Range],
        Field(examples=[{"learning_rate": {"low": 0.01, "high": 0.3, "log": True}}]),
    ] = field(default_factory=dict)
    """Parameter -> where `search` looks for it, instead of the platform's own range. A named
    estimator without a grid has such ranges; a function or a pipeline is searched by these alone.
    """

    @model_validator(mode="after")
    def _check_kind(self) -> Self:
        if [self.estimator, self.function, self.pipeline].count(None) != 2:
            raise ValueError("needs exactly one of `estimator`, `function` and `pipeline`")
        if self.grid and self.ranges:
            message = "a candidate has a grid or ranges: list it twice to have both"
            reject([(("ranges",), message)])
        return self

    @property
    def own_code(self) -> str | None:
        """`package.module:name` of the user's function, if there is one."""
        return self.function or self.pipeline

    @property
    def name(self) -> str:
        """The estimator or the function, as named in the model file."""
        return str(self.estimator or self.own_code)


@dataclass(frozen=True, config=CONFIG)
class Evaluation:
    """How candidates are compared and the best one is measured."""

    metric: Annotated[StrictStr, _one_of(METRICS)] = ""
    """By default balanced_accuracy, or r2 for a regression. The errors by name and pinball are for
    a regression too, the others for classes. average_precision and roc_auc average over several
    classes, each against the others."""
    quantile: Share | None = None
    """Quantile that pinball measures, by default 0.5; a candidate has to predict it."""
    folds: Annotated[StrictInt, Field(ge=2, le=100)] = 5
    """Folds of the cross-validation; fewer are used where the data allows only fewer."""
    fraction: Share = 0.2
    """Share of the data that is held out."""
    split: Split | None = None
    """`time` evaluates the newest rows, and is the default with an event timestamp; `entity`
    keeps all rows of an entity on one side; `entity_and_time` evaluates the newest rows (a
    `fraction`) of held-out entities (a `fraction` as well) and learns from older rows of the
    others."""
    group: FeatureName | None = None
    """A feature whose equal values stay on one side, in the place of entities; they also are what
    intervals count as one."""
    gap: Duration | None = None
    """Length of time before what is evaluated, or tested by a fold, that is not learned from, such
    as the delay of the labels; for splits by time. By default `labels.outcome_delay`."""
    seed: Annotated[StrictInt, Field(ge=0, lt=2**32)] = 20240301
    """Random seed."""
    threads: Annotated[StrictInt, Field(ge=1, le=1024)] = 1
    """Maximum number of threads of the training."""


@dataclass(frozen=True, config=CONFIG)
class ReplayLimits:
    """Limits of the gate `replay`; a version fails when it is shown to be beyond one of them."""

    disagreement: Portion = 0.2
    """Maximum share of logged rows that the version labels differently from production; 1 for a
    version that is meant to answer differently."""
    score_shift: Annotated[StrictFloat, Field(ge=0)] = 0.25
    """Maximum distance of the mean of its probabilities, or predictions, from production's, in
    standard deviations on the held-out rows (of probabilities at least 0.1)."""
    latency_p99: Annotated[StrictFloat, Field(ge=1)] = 1.5
    """Maximum ratio of its 99th percentile for single rows to production's; up to 5 ms more than
    production's always passes."""
    outcome: Portion = 0.02
    """Maximum loss against production on rows whose outcome has matured: for a classifier in the
    share of wrong labels, for a regression in standard deviations of its predictions."""
    rows_shown: Annotated[StrictInt, Field(ge=0, le=100)] = 10
    """Number of rows that the check shows, those that differ most. They hold clients' data; 0 shows
    none."""


@dataclass(frozen=True, config=CONFIG)
class Gates:
    """The conditions for production."""

    metric_floor: StrictFloat
    """The worst value of the metric that passes: the lowest score, or the highest error."""
    regression_tolerance: Annotated[StrictFloat, Field(ge=0)] = 0.02
    """How much worse than production a version may be: in the unit of a score, or as a share of
    production's error (log_loss, brier, pinball, and the errors by name)."""
    confidence: Share = 0.95
    """Confidence of the intervals by which the floor and the comparison are judged."""
    min_rows: Count = 10
    """Minimum number of evaluation rows. With fewer, no version passes the floor, and a comparison
    is inconclusive."""
    when_inconclusive: WhenInconclusive = WhenInconclusive.WARN
    """What happens to a version when there are too few evaluation rows to tell."""
    parity_tolerance: Positive = 1e-4
    """Largest difference between scikit-learn and the served version: of a probability, or of a
    prediction as a share of the standard deviation of all predictions."""
    latency_ms: Positive = 200.0
    """Latency budget of a single row at the 99th percentile, in milliseconds."""
    allow_breaking: StrictBool = False
    """Accept a version that breaks present clients. One that reads other columns or answers other
    labels is then not compared with production."""
    slices: tuple[StrictStr, ...] = ()
    """Features (texts, booleans or integers) for each of whose values the floor and the comparison
    with production are judged as well, corrected for the number of slices."""
    replay_rows: Annotated[StrictInt, Field(ge=0, le=100_000)] = REPLAY_ROWS
    """Number of logged rows that a version answers before it receives live traffic; 0 for none."""
    replay: ReplayLimits = ReplayLimits()
    """How differently from production it may answer them."""
    drift_limit: Positive = 0.2
    """Population stability index above which a feature has drifted."""
