"""One model, as its file describes it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field, replace
from datetime import timedelta
from typing import Annotated, Any, Final, Self

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    StrictStr,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic.dataclasses import dataclass
from pydantic.json_schema import SkipJsonSchema
from pydantic_core import PydanticCustomError, PydanticKnownError

from platform_assets.model_spec.columns import EventTime, FeatureSpec, JoinKey, Label, Target
from platform_assets.model_spec.consistency import RULES, fill_defaults
from platform_assets.model_spec.decision import Calibration, Threshold
from platform_assets.model_spec.feature_source import (
    DEFAULT_TTL,
    FEATURES_SCHEMA,
    Columns,
    Owner,
    SourceSpec,
    TagKey,
    TagValue,
    as_features,
)
from platform_assets.model_spec.fields import CONFIG, LOADER_ONLY, Duration, identifier, reject
from platform_assets.model_spec.labels import Labels, LabelTable
from platform_assets.model_spec.operation import AutomationSpec, Kubernetes, ServingSpec
from platform_assets.model_spec.outcomes import (
    LABELS,
    OutcomeRule,
    Outcomes,
    OutcomesInput,
    OutcomeTable,
)
from platform_assets.model_spec.release import ReleaseSpec
from platform_assets.model_spec.search import Search
from platform_assets.model_spec.source import Source
from platform_assets.model_spec.table import FeatureTableSpec
from platform_assets.model_spec.training import CandidateSpec, Evaluation, Gates, Task
from platform_assets.model_spec.weighting import ClassWeight, Weight, WeightColumn
from serving_gateway.contract import (
    LABEL_OUTPUT,
    PROBABILITIES_OUTPUT,
    DType,
    Signature,
    feature_contract,
)

PREDICTION_OUTPUT: Final = "prediction"
"""Output of a regression; a classifier has `label` and `probabilities`."""
FOLLOWS: Final = "follows"
"""Type of an error that is only a consequence of another one."""
PACKED_INPUT: Final = "features"
"""The only input of a model whose features are all FP32."""


def _given_or_labels(value: object, info: ValidationInfo) -> object:
    """Take a field of a single-table model from `labels` if there are several tables."""
    if "labels" not in info.data:  # it is invalid, and that error is enough
        raise PydanticCustomError(FOLLOWS, "depends on `labels`")
    labels, name = info.data["labels"], str(info.field_name)
    if labels is None:
        if value is None and name != "event_time":
            raise PydanticKnownError("missing")
        return value
    if isinstance(value, Mapping):
        # Pydantic only reports a ValueError.
        raise ValueError(  # noqa: TRY004
            "belongs to `labels` where there are such: move it there"
        )
    if name == "join_key":
        return value or labels.entities[0].join_key
    return value or getattr(labels, name)


def _outcomes(value: object, info: ValidationInfo) -> object:
    """Expand `outcomes: labels`; return anything else unchanged."""
    if "labels" not in info.data:
        raise PydanticCustomError(FOLLOWS, "depends on `labels`")
    if not isinstance(value, str):
        return value
    if value != LABELS:
        raise ValueError(f"{value!r}: write {LABELS}, or a mapping with a `source`")
    if info.data["labels"] is None:
        raise ValueError(
            "needs `labels`, which a model of one table does not have: give the `source` of the "
            "outcomes"
        )
    return {f"{LOADER_ONLY}labels": True}


def _model_features(value: object, info: ValidationInfo) -> object:
    if info.data.get("labels") is None or not isinstance(value, (Mapping, list)):
        return as_features(value)
    if not isinstance(value, Mapping):
        raise ValueError(  # noqa: TRY004
            "with `labels`, write each table with the list of its columns"
        )
    return [
        {"name": column, LOADER_ONLY: table}
        for table, columns in value.items()
        for column in _listed(table, columns)
    ]


def _listed(table: object, columns: object) -> list[object]:
    columns = [columns] if isinstance(columns, str) else columns
    if not isinstance(columns, list) or not columns:
        raise ValueError(f"{table}: write the columns of this table as a list of names")
    return columns


def _as_candidates(value: object) -> object:
    if isinstance(value, (str, Mapping)):
        value = [value]
    if isinstance(value, list):
        if not value:
            raise ValueError("needs at least one entry")
        return [{"estimator": item} if isinstance(item, str) else item for item in value]
    return value


Features = Annotated[
    tuple[FeatureSpec, ...],
    BeforeValidator(_model_features, json_schema_input_type=FEATURES_SCHEMA | dict[str, list[str]]),
    Field(min_length=1),
]
Candidates = Annotated[
    tuple[CandidateSpec, ...],
    BeforeValidator(
        _as_candidates, json_schema_input_type=list[CandidateSpec | str] | CandidateSpec | str
    ),
]


@dataclass(frozen=True, kw_only=True, config=CONFIG)
class ModelSpec(SourceSpec):
    """One tabular model: its source, columns, target, candidates and gates."""

    # The order matters: the rule of a field sees the fields above it.
    model_name: Annotated[StrictStr, AfterValidator(identifier)] = ""
    """The name in MLflow and Triton: an ASCII letter, then letters, digits, underscores; by default
    the folder's name."""
    description: StrictStr = ""
    """What the model is for; shown on every asset."""
    owners: tuple[Owner, ...] = ("team:ml-platform",)
    """Email addresses, or `team:<name>`."""
    tags: dict[TagKey, TagValue] = field(default_factory=dict)
    """Tags of all of the model's assets."""
    task: Task
    """What is predicted: one of two classes, one of several, or a number."""
    labels: Labels | None = None
    """What to learn from where the features are in feature tables; it then takes the place of
    `source`, `join_key` and `event_timestamp`."""
    source: Annotated[Source, BeforeValidator(_given_or_labels), Field(validate_default=True)] = (
        None  # type: ignore[assignment] # set once validated
    )
    """Where the rows are; needed without `labels`."""
    join_key: Annotated[
        JoinKey, BeforeValidator(_given_or_labels), Field(validate_default=True)
    ] = None  # type: ignore[assignment]
    """The key of a row's entity; needed without `labels`."""
    event_time: Annotated[
        EventTime | None,
        BeforeValidator(_given_or_labels),
        Field(validation_alias="event_timestamp", validate_default=True),
    ] = None
    """The time at which a row was true; omit it where the source has none."""
    ttl: Annotated[Duration, Field(json_schema_extra={"default": "3650d"})] = DEFAULT_TTL
    """Age at which values in the feature store expire; needs `event_timestamp`, without which they
    never do."""
    target: Target
    """The column to predict."""
    outcomes: (
        Annotated[Outcomes, BeforeValidator(_outcomes, json_schema_input_type=OutcomesInput)] | None
    ) = None
    """The true values of predictions and when they are final, for live quality; `outcomes: labels`
    where the label table has them. Outcomes that clients send to the gateway count without it."""
    weight: Weight | None = None
    """A column that says how much a row counts while the model is fitted; never a feature. Metrics
    and gates count every row once."""
    class_weight: ClassWeight = None
    """How much the rows of a class count while the model is fitted: `balanced`, or a mapping of
    classes to weights, by default 1. Probabilities follow it; metrics and gates do not."""
    features: Features
    """The columns that the model reads, in order: a list of names or of `{name, ...}`, or a mapping
    from name to type or options. With `labels`, a mapping from each feature table to the list of
    its columns."""
    request: Columns = ()
    """Features that only the caller knows, sent with each request; columns of the labels, declared
    as features are."""
    search: Search | None = None
    """Searches for better parameters of the candidates, on the same folds; `search: {}` for the
    defaults. Unpromising trials end early. It needs the extra `boosting`."""
    candidates: Annotated[Candidates, Field(validate_default=True)] = ()
    """The estimators that compete: a name, or a list of names, `{estimator, grid}`, `{function,
    grid}` and `{pipeline, grid}`; by default a linear model, a random forest and gradient
    boosting."""
    evaluation: Annotated[Evaluation, Field(validate_default=True)] = Evaluation()
    """How candidates are compared, and how the best one is measured."""
    calibration: Calibration | None = None
    """How the probabilities of a classifier are corrected by rows that its estimator did not learn
    from: `sigmoid` by two numbers, `isotonic` by any rising function, which takes more rows."""
    threshold: Threshold | None = None
    """From which probability on the second class of a binary model is answered; by default 0.5.
    Probabilities stay as they are."""
    gates: Gates
    """The conditions for production."""
    serving: ServingSpec = ServingSpec()
    """How Triton runs the model."""
    release: ReleaseSpec | None = None
    """The steps in which a version that passed its gates takes over production, and the guardrails
    that stop it; without it the switch is immediate. `release: {}` for the defaults."""
    automation: AutomationSpec = AutomationSpec()
    """When the chain runs automatically."""
    kubernetes: Kubernetes = Kubernetes()
    """How the steps run on Kubernetes."""
    code_version: Annotated[SkipJsonSchema[str], Field(validation_alias=LOADER_ONLY)] = "unknown"
    """Digest of the model file and of the locked packages."""
    tables: Annotated[
        SkipJsonSchema[tuple[FeatureTableSpec, ...]], Field(validation_alias=f"{LOADER_ONLY}tables")
    ] = ()
    """The feature tables of `features`, in their order."""

    @field_validator(*RULES)
    @classmethod
    def _check_against_fields_above(cls, value: Any, info: ValidationInfo) -> Any:
        name = str(info.field_name)
        filled = fill_defaults(name, value, info.data)
        reject(RULES[name](filled, info.data))
        return filled

    @model_validator(mode="after")
    def _check_task(self) -> Self:
        if self.source.feast_view is not None:
            message = "is for feature tables: a model reads its labels elsewhere"
            reject([(("labels", "source", "feast_view"), message)])
        if self.task is Task.MULTICLASS and self.target.dtype is DType.BOOL:
            reject([(("task",), "a boolean target has two classes: write task: binary")])
        return self

    @property
    def name(self) -> str:
        """Name of the model."""
        return self.model_name

    @property
    def join_keys(self) -> tuple[JoinKey, ...]:
        """The keys by which a row's features are looked up."""
        if self.labels is None:
            return (self.join_key,)
        return tuple(entity.join_key for entity in self.labels.entities)

    @property
    def label_column(self) -> Target:
        """The column with the labels."""
        return self.target

    @property
    def weight_column(self) -> WeightColumn | None:
        """The column with a row's weight, if there is one."""
        return self.weight

    @property
    def own_table(self) -> SourceSpec:
        """The table to read from the source: the only one, or the labels of a model of several."""
        if self.labels is None:
            return self
        return LabelTable(
            model_name=self.model_name,
            source=self.source,
            join_key=self.join_key,
            keys=self.join_keys,
            event_time=self.labels.event_time,
            features=self.request,
            target=self.target,
            weight=self.weight,
            code_version=self.code_version,
        )

    @property
    def outcome_rule(self) -> OutcomeRule:
        """Which outcome belongs to a prediction, and from when it is final."""
        outcomes = self.outcomes or Outcomes(of_labels=True)
        delay = outcomes.outcome_delay or (self.labels.outcome_delay if self.labels else None)
        return OutcomeRule(
            delay=delay or timedelta(),
            within=outcomes.within or delay,
            tolerance=outcomes.tolerance or timedelta(),
        )

    @property
    def outcome_table(self) -> OutcomeTable | None:
        """The table to read from the source of outcomes, if there is one."""
        outcomes = self.outcomes
        if outcomes is None or (outcomes.source is None and not outcomes.of_labels):
            return None
        columns = {entity.column: entity.source_column for entity in outcomes.entities}
        keys = self.join_keys
        if columns:
            keys = tuple(
                JoinKey(key.column, key.dtype, source_column=columns[key.name]) for key in keys
            )
        column = outcomes.outcome or self.target.source_column
        return OutcomeTable(
            model_name=self.model_name,
            source=outcomes.source or self.source,
            join_key=keys[0],
            keys=keys,
            event_time=self.event_time if outcomes.of_labels else outcomes.event_time,
            target=replace(self.target, source_column=column, drop_missing=True),
            code_version=self.code_version,
        )

    @property
    def request_names(self) -> tuple[str, ...]:
        """Names of the features that only the caller knows."""
        return tuple(feature.name for feature in self.request)

    @property
    def stored_features(self) -> tuple[FeatureSpec, ...]:
        """The features in the feature store."""
        own = set(self.request_names)
        return tuple(feature for feature in self.features if feature.name not in own)

    @property
    def contract(self) -> str:
        """Digest of the features that the model reads, and of those that callers must send."""
        return feature_contract([feature.feature for feature in self.features], self.request_names)

    @property
    def column_contract(self) -> str:
        """Digest of the columns regardless of their origin, which rows and graphs do not know."""
        return feature_contract([feature.feature for feature in self.features])

    @property
    def feature_view(self) -> str:
        """Name of Feast's view and service of these features.

        It contains the contract, so versions that read other features keep theirs. A model of
        feature tables only has a service of this name.
        """
        return f"{self.model_name}_{self.contract[:8]}"

    @property
    def feature_service(self) -> str:
        """Name of the service over `feature_view`."""
        return self.feature_view

    @property
    def packed_input(self) -> str | None:
        """Name of the single input; None if each feature has its own."""
        packed = all(feature.dtype is DType.FP32 for feature in self.features)
        return PACKED_INPUT if packed else None

    def signature(self, classes: tuple[Label, ...]) -> Signature:
        """Return the inputs and outputs of this model; `classes` is () for a regression."""
        regression = self.task is Task.REGRESSION
        return Signature(
            features=tuple(feature.feature for feature in self.features),
            packed_input=self.packed_input,
            classes=classes,
            label_output=PREDICTION_OUTPUT if regression else LABEL_OUTPUT,
            probabilities_output=None if regression else PROBABILITIES_OUTPUT,
            feature_service=self.feature_service,
            max_batch_rows=self.serving.max_batch_size,
            join_keys=self.join_key_names,
            request=self.request_names,
        )
