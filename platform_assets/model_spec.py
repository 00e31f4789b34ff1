"""What makes one model differ from another: source, columns, target, candidates, gates.

The code of the slices takes a `ModelSpec` and knows no model; model files are made into it
(`platform_assets.components`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from enum import StrEnum
from typing import Final, TypedDict

from serving_gateway.contract import (
    LABEL_OUTPUT,
    MAX_BATCH_SIZE,
    PROBABILITIES_OUTPUT,
    DType,
    Feature,
    Signature,
    check_model_name,
    feature_contract,
)

CHAIN: Final = (
    "features",
    "online_features",
    "trained_model",
    "registered_model",
    "onnx_model",
    "triton_model_entry",
    "triton_serving_state",
    "gateway_reload",
    "serving_proof",
)
"""The assets from raw data to production, in order."""
ASSETS: Final = (*CHAIN, "drift_report")
"""All assets of a model."""

MAX_INSTANCES: Final = 1024
"""Most copies of a model that run at once."""

Label = int | str | bool
Scalar = bool | int | float | str | None

PREDICTION_OUTPUT: Final = "prediction"
"""Output of a regression; a classifier has `label` and `probabilities`."""
PACKED_INPUT: Final = "features"
"""The one input of a model whose features all are FP32."""


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


@dataclass(frozen=True, slots=True)
class FeatureSpec:
    """One column that the model reads.

    `minimum` and `maximum` are the values that the blocking range check accepts, inclusive,
    in the column's own unit; None leaves that side open. `source_column` is the name of the
    column in the source where that is another one, here as in key, time and target.
    """

    name: str
    dtype: DType = DType.FP32
    nullable: bool = False
    minimum: float | None = None
    maximum: float | None = None
    source_column: str = ""

    @property
    def numeric(self) -> bool:
        """Whether the values are numbers."""
        return self.dtype in {DType.FP32, DType.FP64, DType.INT64}

    @property
    def feature(self) -> Feature:
        """The column as the signature has it."""
        return Feature(self.name, self.dtype, self.nullable)


@dataclass(frozen=True, slots=True)
class FileSource:
    """A CSV or Parquet file, a folder of them, or a glob pattern; read in the order of names.

    `path` may hold `${NAME}`: the value of an environment variable at the time of reading.
    `separator` is that of CSV files; None takes the one by which the columns are there.
    """

    path: str
    separator: str | None = None


@dataclass(frozen=True, slots=True)
class SqlSource:
    """The rows of a query; `url` is SQLAlchemy's and may hold `${NAME}`, as secrets should.

    `timeout` is the time that reading all rows may take.
    """

    url: str
    query: str
    timeout: timedelta = timedelta(hours=1)


@dataclass(frozen=True, slots=True)
class DatasetSource:
    """A data set that a package brings: `sklearn.<name>` or `vega.<name>`."""

    name: str


Source = FileSource | SqlSource | DatasetSource


@dataclass(frozen=True, slots=True)
class JoinKey:
    """The column that names the entity of a row.

    `dtype` is INT64 or BYTES. With `from_row_number` the source has no such column: each row
    is an entity of its own, numbered from 1.
    """

    name: str = "entity_id"
    dtype: DType = DType.INT64
    from_row_number: bool = False
    source_column: str = ""


@dataclass(frozen=True, slots=True)
class EventTime:
    """The column that says when a row was true.

    `timezone` is that of times without an offset; None refuses them.
    """

    name: str = "event_timestamp"
    timezone: str | None = None
    source_column: str = ""


@dataclass(frozen=True, slots=True)
class Target:
    """The column to predict.

    `dtype`: BYTES, INT64 or BOOL for classes, FP64 for a regression. `classes` are the labels
    as the source writes them, in the order of the probabilities; empty takes those of the
    data, sorted. `class_names` are words for people, in the order of `classes`.
    `drop_missing` trains on the rows with a label only, instead of refusing the source; the
    others are features all the same.
    """

    name: str
    dtype: DType = DType.BYTES
    classes: tuple[Label, ...] = ()
    class_names: tuple[str, ...] = ()
    drop_missing: bool = False
    source_column: str = ""


@dataclass(frozen=True, slots=True)
class CandidateSpec:
    """An estimator that competes, once for each point of its grid.

    `estimator` is a name of `training.candidates`, `function` the dotted path
    (`package.module:name`) of a function that returns an unfitted estimator; exactly one of
    them is given. `grid`: parameter -> values to try.
    """

    estimator: str | None = None
    function: str | None = None
    grid: Mapping[str, tuple[Scalar, ...]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Evaluation:
    """How candidates are compared and the best one is measured.

    `metric` is one of `training.metrics`; `fraction` of the data is held out; `folds` is
    wanted, and lowered where the data has fewer.
    """

    metric: str = "accuracy"
    folds: int = 5
    fraction: float = 0.2
    split: Split = Split.ENTITY
    seed: int = 20240301
    threads: int = 1
    """Upper bound for scikit-learn's and the numeric libraries' threads."""


@dataclass(frozen=True, slots=True)
class Gates:
    """What keeps a version out of production.

    `metric_floor` is the worst value allowed of the metric on the evaluation rows: the least
    of a score, the most of an error. `regression_tolerance` is how much worse than production
    a candidate may be: of a score in its unit, of an error as a part of production's;
    `confidence` that of both intervals; `min_rows` the fewest evaluation rows that count.
    `parity_tolerance` is the largest difference of a probability (absolute) or of a prediction
    (as a part of their standard deviation) between scikit-learn and what is served.
    `latency_ms` is the budget of a single row at the 99th percentile. `drift_limit` is the
    population stability index from which a feature has drifted.
    """

    metric_floor: float
    regression_tolerance: float = 0.02
    confidence: float = 0.95
    min_rows: int = 10
    when_inconclusive: WhenInconclusive = WhenInconclusive.WARN
    parity_tolerance: float = 1e-4
    latency_ms: float = 200.0
    allow_breaking: bool = False
    """Let a version through that clients of the present one cannot ask."""
    drift_limit: float = 0.2


@dataclass(frozen=True, slots=True)
class ServingSpec:
    """How Triton runs the model, and how many versions are kept.

    `retention`: READY versions, production included. `keep_versions`: version directories
    kept on disk; what is READY, routed to or among the last of the ledger stays anyway.
    `warm_up_rows`: evaluation rows that a version answers before it is judged.
    """

    max_batch_size: int = MAX_BATCH_SIZE
    dynamic_batching: bool = False
    instances: int = 1
    retention: int = 2
    keep_versions: int = 5
    warm_up_rows: int = 16


@dataclass(frozen=True, slots=True)
class AutomationSpec:
    """When the chain runs by itself. `schedule` and `drift_schedule` are cron strings, in UTC."""

    schedule: str | None = None
    on_new_data: bool = False
    on_drift: bool = False
    drift_schedule: str | None = None
    freshness: timedelta | None = None
    """Oldest that `features` may be before the UI calls the asset stale."""


@dataclass(frozen=True, slots=True)
class ComputeResources:
    """What a step asks for where each runs in a pod of its own, as Kubernetes writes quantities.

    `cpu`: cores (`2`, `0.5`) or thousandths of them (`500m`). `memory`: with a unit (`512Mi`,
    `4Gi`); more than that ends the step. None takes the default.
    """

    cpu: str | None = None
    memory: str | None = None


class AssetOptions(TypedDict):
    """Arguments of Dagster's asset decorator."""

    key: list[str]
    group_name: str
    owners: list[str]
    tags: dict[str, str]
    code_version: str


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """One model."""

    model_name: str
    task: Task
    source: Source
    features: tuple[FeatureSpec, ...]
    target: Target
    candidates: tuple[CandidateSpec, ...]
    gates: Gates
    join_key: JoinKey = JoinKey()
    event_time: EventTime | None = None
    """None: nothing is known of times, and values never expire."""
    evaluation: Evaluation = Evaluation()
    serving: ServingSpec = ServingSpec()
    automation: AutomationSpec = AutomationSpec()
    compute: Mapping[str, ComputeResources] = field(default_factory=dict)
    """Asset -> what it and its checks ask for on Kubernetes."""
    ttl: timedelta = timedelta(days=3650)
    """Age after which the online store's values are expired; without times they never are."""
    description: str = ""
    owners: tuple[str, ...] = ("team:ml-platform",)
    tags: Mapping[str, str] = field(default_factory=dict)
    code_version: str = "unknown"
    """Digest of the model file and of the locked packages."""

    def __post_init__(self) -> None:
        check_model_name(self.model_name)

    @property
    def identifier(self) -> str:
        """The name where Dagster wants letters, digits and underscores: groups, jobs, sensors."""
        return self.model_name.replace("-", "_")

    def key(self, asset: str) -> list[str]:
        """Dagster key of one of the model's assets."""
        return [self.model_name, asset]

    def asset(self, name: str) -> AssetOptions:
        """What every asset of the model has in common."""
        return AssetOptions(
            key=self.key(name),
            group_name=self.identifier,
            owners=list(self.owners),
            tags=dict(self.tags),
            code_version=self.code_version,
        )

    @property
    def feature_names(self) -> tuple[str, ...]:
        """Feature columns in training order, which is the order of a row's columns."""
        return tuple(feature.name for feature in self.features)

    @property
    def event_timestamp(self) -> str:
        """Name of the time column in the files that Feast reads."""
        return "event_timestamp" if self.event_time is None else self.event_time.name

    @property
    def contract(self) -> str:
        """Digest of what the model reads."""
        return feature_contract([feature.feature for feature in self.features])

    @property
    def feature_view(self) -> str:
        """Feast's view and service of these features.

        Named after the contract: versions that read other features keep theirs.
        """
        return f"{self.model_name}_{self.contract[:8]}"

    @property
    def feature_service(self) -> str:
        """The service over `feature_view`."""
        return self.feature_view

    @property
    def packed_input(self) -> str | None:
        """Name of the single input; None when each feature has its own."""
        packed = all(feature.dtype is DType.FP32 for feature in self.features)
        return PACKED_INPUT if packed else None

    def signature(self, classes: tuple[Label, ...]) -> Signature:
        """What a version of this model reads and answers; `classes` is () for a regression."""
        regression = self.task is Task.REGRESSION
        return Signature(
            features=tuple(feature.feature for feature in self.features),
            packed_input=self.packed_input,
            classes=classes,
            label_output=PREDICTION_OUTPUT if regression else LABEL_OUTPUT,
            probabilities_output=None if regression else PROBABILITIES_OUTPUT,
            feature_service=self.feature_service,
            max_batch_rows=self.serving.max_batch_size,
        )
