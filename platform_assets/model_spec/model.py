"""One model, as its file describes it."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping
from dataclasses import field
from typing import Annotated, Any, Final, Self, TypedDict

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

from platform_assets.model_spec.columns import (
    DEFAULT_TIME_COLUMN,
    EventTime,
    FeatureOptions,
    FeatureSpec,
    FeatureType,
    JoinKey,
    Label,
    Target,
)
from platform_assets.model_spec.consistency import DEFAULT_TTL, RULES, fill_defaults
from platform_assets.model_spec.fields import CONFIG, Duration, as_yaml, full_match, reject
from platform_assets.model_spec.operation import AutomationSpec, Kubernetes, ServingSpec
from platform_assets.model_spec.source import Source
from platform_assets.model_spec.training import CandidateSpec, Evaluation, Gates, Task
from serving_gateway.contract import (
    LABEL_OUTPUT,
    PROBABILITIES_OUTPUT,
    DType,
    Signature,
    feature_contract,
)

PREDICTION_OUTPUT: Final = "prediction"
"""Output of a regression; a classifier has `label` and `probabilities`."""
PACKED_INPUT: Final = "features"
"""The one input of a model whose features all are FP32."""
LOADER_ONLY: Final = "\0"
"""Alias of what no model file says: YAML has no such character."""


def _model_name(name: str) -> str:
    # Narrower than the contract's: Dagster's groups, pools and jobs have no hyphens.
    if re.fullmatch(r"[A-Za-z][A-Za-z0-9_]{0,99}", name, re.ASCII):
        return name
    foreign = next((letter for letter in name if not letter.isascii()), None)
    detail = f"{foreign!r} is {unicodedata.name(foreign, 'not ASCII')}; " if foreign else ""
    raise ValueError(
        f"{as_yaml(name)}: {detail}use an ASCII letter, then up to 99 ASCII letters, digits or "
        "underscores"
    )


def _as_features(value: object) -> object:
    if isinstance(value, Mapping):
        return [_as_feature(name, options) for name, options in value.items()]
    if isinstance(value, list):
        return [{"name": item} if isinstance(item, str) else item for item in value]
    return value


def _as_feature(name: object, options: object) -> object:
    if options is None:
        return {"name": name}
    if not isinstance(options, Mapping):
        return {"name": name, "type": options}
    if "name" in options:
        raise ValueError(f"{name}: in a mapping the key is the name; remove `name:`")
    return {"name": name, **options}


def _as_candidates(value: object) -> object:
    if isinstance(value, (str, Mapping)):
        value = [value]
    if isinstance(value, list):
        if not value:
            raise ValueError("needs at least one entry")
        return [{"estimator": item} if isinstance(item, str) else item for item in value]
    return value


Owner = Annotated[
    StrictStr,
    full_match(r"team:.+|[^@\s]+@[^@\s]+\.[^@\s.]+", "write an email address or team:<name>"),
]
_TAG_RULE: Final = "keys and values of tags have up to 63 letters, digits, '_', '-' and '.'"
_TAG_PART: Final = r"[A-Za-z0-9_.-]{1,63}"
TagKey = Annotated[StrictStr, full_match(rf"({_TAG_PART}/)?{_TAG_PART}", _TAG_RULE)]
TagValue = Annotated[StrictStr, full_match(r"[A-Za-z0-9_.-]{0,63}", _TAG_RULE)]
Features = Annotated[
    tuple[FeatureSpec, ...],
    BeforeValidator(
        _as_features,
        json_schema_input_type=list[FeatureSpec | str]
        | dict[str, FeatureOptions | FeatureType | None],
    ),
    Field(min_length=1),
]
Candidates = Annotated[
    tuple[CandidateSpec, ...],
    BeforeValidator(
        _as_candidates, json_schema_input_type=list[CandidateSpec | str] | CandidateSpec | str
    ),
]


class AssetOptions(TypedDict):
    """Arguments of Dagster's asset decorator."""

    key: list[str]
    group_name: str
    owners: list[str]
    tags: dict[str, str]
    code_version: str


@dataclass(frozen=True, kw_only=True, config=CONFIG)
class ModelSpec:
    """One tabular model: its source, columns, target, candidates and gates."""

    # In this order: the rule of a field sees those above it.
    model_name: Annotated[StrictStr, AfterValidator(_model_name)] = ""
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
    source: Source
    """Where the rows are."""
    join_key: JoinKey
    """The key of a row's entity."""
    event_time: Annotated[EventTime | None, Field(validation_alias="event_timestamp")] = None
    """The time at which a row was true; omit it where the source has none."""
    ttl: Annotated[Duration, Field(json_schema_extra={"default": "3650d"})] = DEFAULT_TTL
    """Age at which values in the feature store expire; needs `event_timestamp`, without which they
    never do."""
    target: Target
    """The column to predict."""
    features: Features
    """The columns that the model reads, in order: a list of names or of `{name, ...}`, or a mapping
    from name to type or options."""
    candidates: Annotated[Candidates, Field(validate_default=True)] = ()
    """The estimators that compete: a name, or a list of names, `{estimator, grid}` and `{function,
    grid}`; by default a linear model, a random forest and gradient boosting."""
    evaluation: Annotated[Evaluation, Field(validate_default=True)] = Evaluation()
    """How candidates are compared, and how the best one is measured."""
    gates: Gates
    """The conditions for production."""
    serving: ServingSpec = ServingSpec()
    """How Triton runs the model."""
    automation: AutomationSpec = AutomationSpec()
    """When the chain runs automatically."""
    kubernetes: Kubernetes = Kubernetes()
    """How the steps run on Kubernetes."""
    code_version: Annotated[SkipJsonSchema[str], Field(validation_alias=LOADER_ONLY)] = "unknown"
    """Digest of the model file and of the locked packages."""

    @field_validator(*RULES)
    @classmethod
    def _check_against_fields_above(cls, value: Any, info: ValidationInfo) -> Any:
        found = fill_defaults(value, info.data)
        reject(RULES[str(info.field_name)](found, info.data))
        return found

    @model_validator(mode="after")
    def _check_task(self) -> Self:
        if self.task is Task.MULTICLASS and self.target.dtype is DType.BOOL:
            reject([(("task",), "a boolean target has two classes: write task: binary")])
        return self

    def key(self, asset: str) -> list[str]:
        """Dagster key of one of the model's assets."""
        return [self.model_name, asset]

    def asset(self, name: str) -> AssetOptions:
        """What every asset of the model has in common."""
        return AssetOptions(
            key=self.key(name),
            group_name=self.model_name,
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
        return DEFAULT_TIME_COLUMN if self.event_time is None else self.event_time.name

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
