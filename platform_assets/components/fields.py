"""The fields of a model file, with their meaning: what editors show and `schema` prints.

Types alone are checked here; what fits together is checked in `rules` and `column_rules`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    WithJsonSchema,
)

from platform_assets.components.durations import duration
from platform_assets.model_spec import MAX_INSTANCES
from serving_gateway.contract import MAX_BATCH_SIZE


def _checked_duration(text: str) -> str:
    duration(text)
    return text


Duration = Annotated[str, AfterValidator(_checked_duration), Field(examples=["24h", "90d"])]
AnyScalar = Annotated[Any, WithJsonSchema({"type": ["string", "integer", "number", "boolean"]})]


class Fields(BaseModel):
    """Base of all groups of fields: nothing unknown, nothing converted."""

    model_config = ConfigDict(
        extra="forbid",
        strict=True,
        frozen=True,
        allow_inf_nan=False,
        use_attribute_docstrings=True,
    )


class SqlFields(Fields):
    """The rows of a query."""

    url: str
    """SQLAlchemy's URL of the database; `${SOURCE_NAME}` stands for an environment variable,
    which is the place for passwords."""
    query: str
    """The SELECT whose columns are the model's, run exactly as it is written."""
    timeout: Duration = "1h"
    """Time that reading all rows may take."""


class SourceFields(Fields):
    """Where the rows are; exactly one of the three."""

    file: str | None = None
    """A CSV (also .csv.gz, .tsv) or Parquet file, a folder of them (also of Hive's partitions) or
    a glob pattern, relative to the model file; `${SOURCE_NAME}` stands for an environment
    variable."""
    separator: Annotated[str | None, Field(examples=[";"], min_length=1, max_length=1)] = None
    """What stands between the values of a CSV; by default the one of , ; | and the tab by which
    the columns are there."""
    sql: SqlFields | None = None
    """The rows of a query."""
    dataset: Annotated[str | None, Field(examples=["sklearn.wine", "vega.cars"])] = None
    """A data set that a package brings: `sklearn.<name>` or `vega.<name>`."""


class ColumnFields(Fields):
    """One column of the source."""

    from_: Annotated[str | None, Field(alias="from", examples=["fixed acidity"])] = None
    """The column's name in the source, where it is another one."""


class JoinKeyFields(ColumnFields):
    """What names the entity of a row; exactly one of `column` and `row_number`."""

    column: str | None = None
    """The column with the entity's id."""
    type: Literal["integer", "text"] = "integer"
    """Type of that column."""
    row_number: str | None = None
    """A name for the number of the row, from 1, where the source has no such column and each
    row is an entity of its own."""


class EventTimestampFields(ColumnFields):
    """When a row was true."""

    column: str
    """The column with the time."""
    timezone: Annotated[str | None, Field(examples=["UTC", "Asia/Seoul"])] = None
    """Time zone of times that are written without one; without it those are refused."""


FeatureType = Literal["number", "double", "integer", "boolean", "text"]


class FeatureOptions(ColumnFields):
    """One column that the model reads."""

    type: FeatureType = "number"
    """`number` is a 32-bit float, `double` a 64-bit one, `integer` a 64-bit integer."""
    nullable: bool = False
    """Whether values may be missing."""
    minimum: float | None = None
    """Least value that the range check accepts, inclusive; numbers only."""
    maximum: float | None = None
    """Greatest value that the range check accepts, inclusive; numbers only."""


class FeatureFields(FeatureOptions):
    """One column that the model reads, in the form of a list."""

    name: str
    """The column."""


class TargetFields(ColumnFields):
    """The column to predict."""

    column: str
    """The column with the truth."""
    type: Literal["text", "integer", "boolean", "number"] | None = None
    """Type of the labels: that of `classes` where they are listed, else `text`; `number` for
    a regression."""
    classes: list[AnyScalar] = []
    """The labels in the order of the probabilities; by default those of the data, sorted."""
    class_names: list[str] = []
    """Words for people, in the order of `classes`; pictures use them."""
    drop_missing: bool = False
    """Train on the rows with a label, instead of refusing the source; those without one are
    features all the same."""


class CandidateFields(Fields):
    """An estimator that competes; exactly one of `estimator` and `function`."""

    estimator: str | None = None
    """A name that the platform knows."""
    function: Annotated[str | None, Field(examples=["my_package.models:forest"])] = None
    """`package.module:name` of a function that returns an unfitted scikit-learn estimator."""
    grid: Annotated[
        dict[str, Any], Field(examples=[{"max_depth": [4, 8]}, {"n_estimators": [50, 100]}])
    ] = {}
    """Parameter -> values to try; each combination competes."""


class EvaluationFields(Fields):
    """How candidates are compared and the best one is measured."""

    metric: str | None = None
    """balanced_accuracy (the default of classes), accuracy, f1_macro, roc_auc, log_loss; for a
    regression r2 (the default), mean_absolute_error, root_mean_squared_error."""
    folds: Annotated[int, Field(ge=2, le=100)] = 5
    """Folds of the cross-validation; fewer are used where the data has fewer."""
    fraction: Annotated[float, Field(gt=0, lt=1)] = 0.2
    """Part of the data that is held out."""
    split: Literal["entity", "time"] | None = None
    """`time` evaluates the newest rows, and is the default with an event timestamp; `entity`
    keeps all rows of an entity on one side."""
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 20240301
    """Start of all chance."""
    threads: Annotated[int, Field(ge=1, le=1024)] = 1
    """Threads of the training at most."""


class GatesFields(Fields):
    """What keeps a version out of production."""

    metric_floor: float
    """The worst value of the metric that is let through: the least of a score, the most of an
    error."""
    regression_tolerance: Annotated[float, Field(ge=0)] = 0.02
    """How much worse than production a version may be: of a score in its unit, of an error
    (log_loss, mean_absolute_error, root_mean_squared_error) as a part of production's."""
    confidence: Annotated[float, Field(gt=0, lt=1)] = 0.95
    """Confidence of the intervals that the floor and the comparison are judged by."""
    min_rows: Annotated[int, Field(ge=1)] = 10
    """Evaluation rows without which nothing counts as proven."""
    when_inconclusive: Literal["warn", "block"] = "warn"
    """What becomes of a version when the evaluation rows are too few to tell."""
    parity_tolerance: Annotated[float, Field(gt=0)] = 1e-4
    """Largest difference between scikit-learn and what is served: of a probability, or of a
    prediction as a part of the spread (standard deviation) of all."""
    latency_ms: Annotated[float, Field(gt=0)] = 200.0
    """Budget of a single row at the 99th percentile, in milliseconds."""
    allow_breaking: bool = False
    """Let a version through that clients of the present one cannot ask."""
    drift_limit: Annotated[float, Field(gt=0)] = 0.2
    """Population stability index from which a feature has drifted."""


class ServingFields(Fields):
    """How Triton runs the model, and how many versions are kept."""

    max_batch_size: Annotated[int, Field(ge=1, le=MAX_BATCH_SIZE)] = MAX_BATCH_SIZE
    """Rows of one inference at most; the gateway takes no more in a request."""
    dynamic_batching: bool = False
    """Let Triton put requests together."""
    instances: Annotated[int, Field(ge=1, le=MAX_INSTANCES)] = 1
    """Copies of the model that run at once."""
    retention: Annotated[int, Field(ge=1)] = 2
    """READY versions, production included; with 2 a rollback is instant."""
    keep_versions: Annotated[int, Field(ge=1)] = 5
    """Version directories kept on disk."""
    warm_up_rows: Annotated[int, Field(ge=0)] = 16
    """Evaluation rows that a version answers before it is judged."""


class AutomationFields(Fields):
    """When the chain runs by itself; nothing does unless it is said here."""

    schedule: Annotated[str | None, Field(examples=["0 3 * * *"])] = None
    """Cron string, in UTC: the whole chain."""
    on_new_data: bool = False
    """The whole chain when the source's content has changed."""
    on_drift: bool = False
    """The whole chain when a drift report says so; needs `drift_schedule`."""
    drift_schedule: Annotated[str | None, Field(examples=["0 * * * *"])] = None
    """Cron string, in UTC: compare answered requests with the training set."""
    freshness: Duration | None = None
    """Oldest that `features` may be before the UI calls the asset stale; a minute at least."""


def _quantity(value: object) -> object:
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return f"{value:g}"
    return value


Quantity = Annotated[str, BeforeValidator(_quantity, json_schema_input_type=str | int | float)]


class ComputeFields(Fields):
    """What the pod of a step asks for."""

    cpu: Annotated[Quantity | None, Field(examples=["2", "500m"])] = None
    """Cores, or thousandths of them (500m)."""
    memory: Annotated[str | None, Field(examples=["4Gi", "512Mi"])] = None
    """Memory with its unit; a step that takes more is ended."""


class KubernetesFields(Fields):
    """How the model's steps run on Kubernetes; nothing of it counts elsewhere."""

    resources: Annotated[
        dict[str, ComputeFields], Field(examples=[{"trained_model": {"cpu": "2", "memory": "4Gi"}}])
    ] = {}
    """Asset -> what the pods of its step and of its checks ask for."""


def _features(value: object) -> object:
    if isinstance(value, Mapping):
        return [_feature(name, options) for name, options in value.items()]
    if isinstance(value, list):
        return [{"name": item} if isinstance(item, str) else item for item in value]
    return value


def _feature(name: object, options: object) -> object:
    if options is None:
        return {"name": name}
    if not isinstance(options, Mapping):
        return {"name": name, "type": options}
    if "name" in options:
        raise ValueError(f"{name}: in a mapping the key is the name; remove `name:`")
    return {"name": name, **options}


def _candidates(value: object) -> object:
    if isinstance(value, (str, Mapping)):
        value = [value]
    if isinstance(value, list):
        return [{"estimator": item} if isinstance(item, str) else item for item in value]
    return value


FeatureList = Annotated[
    list[FeatureFields],
    BeforeValidator(
        _features,
        json_schema_input_type=list[FeatureFields | str]
        | dict[str, FeatureOptions | FeatureType | None],
    ),
]
CandidateList = Annotated[
    list[CandidateFields],
    BeforeValidator(
        _candidates,
        json_schema_input_type=list[CandidateFields | str] | CandidateFields | str,
    ),
]


class ModelFields(Fields):
    """One tabular model: its source, columns, target, candidates and gates."""

    model_name: str | None = None
    """The name in MLflow and Triton; by default that of the folder."""
    description: str = ""
    """What it is for."""
    owners: list[str] = ["team:ml-platform"]
    """Email addresses, or `team:<name>`."""
    tags: dict[str, str] = {}
    """Tags of all of the model's assets."""
    source: SourceFields
    """Where the rows are."""
    join_key: JoinKeyFields
    """What names the entity of a row."""
    event_timestamp: EventTimestampFields | None = None
    """When a row was true; leave it out where the source does not know."""
    ttl: Duration | None = None
    """Age after which the feature store's values count as expired (default 3650d); needs
    `event_timestamp`."""
    features: Annotated[FeatureList, Field(min_length=1)]
    """The columns that the model reads, in order: a list, or a mapping from name to type or
    options."""
    target: TargetFields
    """The column to predict."""
    task: Literal["binary", "multiclass", "regression"]
    """What is predicted: one of two classes, one of several, or a number."""
    candidates: Annotated[CandidateList, Field(min_length=1)] | None = None
    """What competes; by default a linear model, a random forest and gradient boosting."""
    evaluation: EvaluationFields = EvaluationFields()
    """How candidates are compared and the best one is measured."""
    gates: GatesFields
    """What keeps a version out of production."""
    serving: ServingFields = ServingFields()
    """How Triton runs the model."""
    automation: AutomationFields = AutomationFields()
    """When the chain runs by itself."""
    kubernetes: KubernetesFields = KubernetesFields()
    """How the steps run on Kubernetes."""
