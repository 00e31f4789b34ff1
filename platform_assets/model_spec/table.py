"""Tables of features: one source with a key, whose columns any number of models may read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass as plain_dataclass
from dataclasses import field
from datetime import timedelta
from typing import Annotated, Any, Final, Self, TypedDict

from pydantic import AfterValidator, BeforeValidator, Field, StrictBool, StrictStr, model_validator
from pydantic.dataclasses import dataclass
from pydantic.json_schema import SkipJsonSchema

from platform_assets.model_spec.columns import (
    DEFAULT_TIME_COLUMN,
    EventTime,
    FeatureOptions,
    FeatureSpec,
    FeatureType,
    JoinKey,
    KeyName,
    KeyType,
    SourceColumn,
    Target,
)
from platform_assets.model_spec.fields import (
    CONFIG,
    LOADER_ONLY,
    Duration,
    duration,
    full_match,
    identifier,
    reject,
)
from platform_assets.model_spec.operation import Cron, Kubernetes
from platform_assets.model_spec.source import Source
from platform_assets.model_spec.weighting import WeightColumn
from serving_gateway.contract import DType

DEFAULT_TTL: Final = duration("3650d")
TABLE_ASSETS: Final = ("features", "online_features")
"""The assets of a feature table, in order."""


def table_job_name(table_name: str) -> str:
    """Name of the job that reads a table and updates the online store."""
    return f"{table_name}_table"


Owner = Annotated[
    StrictStr,
    full_match(r"team:.+|[^@\s]+@[^@\s]+\.[^@\s.]+", "write an email address or team:<name>"),
]
_TAG_RULE: Final = "keys and values of tags have up to 63 letters, digits, '_', '-' and '.'"
_TAG_PART: Final = r"[A-Za-z0-9_.-]{1,63}"
TagKey = Annotated[StrictStr, full_match(rf"({_TAG_PART}/)?{_TAG_PART}", _TAG_RULE)]
TagValue = Annotated[StrictStr, full_match(r"[A-Za-z0-9_.-]{0,63}", _TAG_RULE)]


class AssetOptions(TypedDict):
    """Arguments of Dagster's asset decorator."""

    key: list[str]
    group_name: str
    owners: list[str]
    tags: dict[str, str]
    code_version: str


class FeatureSource:
    """What is read from one source: a feature table, or the table of a model.

    Its assets are in a group of its name.
    """

    owners: tuple[str, ...]
    tags: dict[str, str]
    description: str
    source: Source
    join_key: JoinKey
    event_time: EventTime | None
    ttl: timedelta
    features: tuple[FeatureSpec, ...]
    code_version: str

    @property
    def name(self) -> str:
        """Name of the table or the model."""
        raise NotImplementedError

    @property
    def join_keys(self) -> tuple[JoinKey, ...]:
        """The keys of a row's entities."""
        return (self.join_key,)

    @property
    def feature_view(self) -> str:
        """Feast's view of the features."""
        raise NotImplementedError

    @property
    def own_table(self) -> FeatureSource:
        """What is read from the source."""
        return self

    @property
    def label_column(self) -> Target | None:
        """The column with the labels, if there is one."""
        return None

    @property
    def weight_column(self) -> WeightColumn | None:
        """The column that says how much a row with a label counts, if there is one."""
        return None

    @property
    def has_unique_rows(self) -> bool:
        """Whether the keys have one row at a time."""
        return True

    @property
    def join_key_names(self) -> tuple[str, ...]:
        """Columns of the keys."""
        return tuple(key.name for key in self.join_keys)

    @property
    def feature_names(self) -> tuple[str, ...]:
        """Feature columns in the order of the file, which is that of a row's columns."""
        return tuple(feature.name for feature in self.features)

    @property
    def event_timestamp(self) -> str:
        """Name of the time column in the files that Feast reads."""
        return DEFAULT_TIME_COLUMN if self.event_time is None else self.event_time.name

    @property
    def expires_after(self) -> timedelta:
        """Age at which values expire; zero for never, as without times nothing gets old."""
        return timedelta() if self.event_time is None else self.ttl

    def key(self, asset: str) -> list[str]:
        """Dagster key of one of the assets."""
        return [self.name, asset]

    def asset(self, name: str) -> AssetOptions:
        """What every asset of the table or the model has in common."""
        return AssetOptions(
            key=self.key(name),
            group_name=self.name,
            owners=list(self.owners),
            tags=dict(self.tags),
            code_version=self.code_version,
        )


def as_features(value: object) -> object:
    """Return the list of features that a list of names or a mapping stands for."""
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


FEATURES_SCHEMA: Final = list[FeatureSpec | str] | dict[str, FeatureOptions | FeatureType | None]
Columns = Annotated[
    tuple[FeatureSpec, ...],
    BeforeValidator(as_features, json_schema_input_type=FEATURES_SCHEMA),
]


@dataclass(frozen=True, kw_only=True, config=CONFIG)
class FeatureTableSpec(FeatureSource):
    """One table of features, which any number of models may read."""

    table_name: Annotated[StrictStr, AfterValidator(identifier)] = ""
    """The name of the table and of its view in Feast: an ASCII letter, then letters, digits,
    underscores; by default the folder's name."""
    description: StrictStr = ""
    """What the rows are; shown on the assets."""
    owners: tuple[Owner, ...] = ("team:ml-platform",)
    """Email addresses, or `team:<name>`."""
    tags: dict[TagKey, TagValue] = field(default_factory=dict)
    """Tags of the table's assets."""
    source: Source
    """Where the rows are."""
    join_key: JoinKey
    """The key by which labels and requests name an entity."""
    event_time: Annotated[EventTime | None, Field(validation_alias="event_timestamp")] = None
    """The time since which a row is true. Training takes the values of the label's time. Omit it
    where the source has none: training then takes the values of today, for every label."""
    ttl: Annotated[Duration, Field(json_schema_extra={"default": "3650d"})] = DEFAULT_TTL
    """Age at which values expire, in training and in requests; needs `event_timestamp`."""
    features: Annotated[Columns, Field(validation_alias="columns", min_length=1)]
    """The columns that models may read: a list of names or of `{name, ...}`, or a mapping from name
    to type or options."""
    on_new_data: StrictBool = False
    """Read the source again when its content has changed."""
    schedule: Annotated[Cron, Field(examples=["0 * * * *"])] | None = None
    """When to read the source again, as a cron string in UTC. Initially stopped."""
    freshness: Duration | None = None
    """Age of the features at which the UI calls the asset stale."""
    allow_breaking: StrictBool = False
    """Remove or change columns although registered versions read them."""
    kubernetes: Kubernetes = Kubernetes()
    """How the steps run on Kubernetes."""
    code_version: Annotated[SkipJsonSchema[str], Field(validation_alias=LOADER_ONLY)] = "unknown"
    """Digest of the file and of the locked packages."""

    @model_validator(mode="after")
    def _check_together(self) -> Self:
        key, time = self.join_key, self.event_time
        if time is None and self.ttl != DEFAULT_TTL:
            reject([(("ttl",), "needs `event_timestamp`: without times no value gets old")])
        if self.source.feast_view is not None:
            given = {"on_new_data": self.on_new_data, "schedule": self.schedule is not None}
            message = "belongs to those who fill the view of Feast: remove it"
            reject(((name,), message) for name, value in given.items() if value)
        if key.from_row_number:
            message = "labels and requests name rows by a key: give its `column`"
            reject([(("join_key", "row_number"), message)])
        taken = {key.name.casefold(): "is the join key"}
        if time is not None:
            if time.name.casefold() in taken:
                message = f"{time.name!r} is the join key: name another column"
                reject([(("event_timestamp", "column"), message)])
            taken[time.name.casefold()] = "is the event timestamp"
        reject(_repeated(self.features, taken))
        return self

    @property
    def name(self) -> str:
        """Name of the table."""
        return self.table_name

    @property
    def feature_view(self) -> str:
        """Feast's view of the table: one, whatever its columns are."""
        return self.source.feast_view or self.table_name

    @property
    def is_external(self) -> bool:
        """Whether the view belongs to others, who fill it."""
        return self.source.feast_view is not None


def _repeated(
    features: Sequence[FeatureSpec], taken: dict[str, str]
) -> Iterator[tuple[tuple[int | str, ...], str]]:
    """Yield the columns whose name, in any case, is taken already."""
    for index, feature in enumerate(features):
        name = feature.name.casefold()
        if name in taken:
            yield ("columns", index, "name"), f"{feature.name!r} {taken[name]}: remove it"
        taken.setdefault(name, "is listed twice, in any case")


def _as_entities(value: object) -> object:
    if isinstance(value, str):
        value = [value]
    if isinstance(value, list):
        return [{"column": item} if isinstance(item, str) else item for item in value]
    if isinstance(value, Mapping):
        return [
            {"column": name, **(options if isinstance(options, Mapping) else {"from": options})}
            if options is not None
            else {"column": name}
            for name, options in value.items()
        ]
    return value


@dataclass(frozen=True, config=CONFIG)
class LabelKey:
    """A column of the labels that names a row of feature tables."""

    column: KeyName
    """The key, called as the tables call it."""
    dtype: SkipJsonSchema[KeyType] = DType.INT64
    """Type of the key: that of the tables."""
    source_column: SourceColumn = ""
    """The column's name in the labels, where it differs."""


@dataclass(frozen=True, config=CONFIG)
class Labels:
    """The rows that a model of several tables learns from: keys, time, label."""

    source: Source
    """Where the rows with the labels are; the features of `request` are columns of it as well."""
    entities: Annotated[
        tuple[LabelKey, ...],
        BeforeValidator(_as_entities, json_schema_input_type=list[LabelKey | str] | dict[str, Any]),
        Field(min_length=1),
    ]
    """The keys of the feature tables: a list of names, or a mapping from the name to the column of
    the labels. The first one is the entity of `evaluation.split`."""
    event_time: Annotated[EventTime, Field(validation_alias="event_timestamp")]
    """The time of the prediction: nothing that became known later is joined to it."""
    outcome_delay: Duration | None = None
    """How long after its time a label is final. Younger rows are not trained on."""


@plain_dataclass(frozen=True)
class LabelTable(FeatureSource):
    """The labels of a model of several tables, as they are read; its features are the request's."""

    model_name: str
    source: Source
    join_key: JoinKey
    keys: tuple[JoinKey, ...]
    event_time: EventTime
    features: tuple[FeatureSpec, ...]
    target: Target
    weight: WeightColumn | None
    code_version: str

    @property
    def name(self) -> str:
        """Name of the model."""
        return self.model_name

    @property
    def join_keys(self) -> tuple[JoinKey, ...]:
        """The keys of the feature tables."""
        return self.keys

    @property
    def label_column(self) -> Target:
        """The column with the labels."""
        return self.target

    @property
    def weight_column(self) -> WeightColumn | None:
        """The column that says how much a row counts, if there is one."""
        return self.weight

    @property
    def has_unique_rows(self) -> bool:
        """False: two transactions may be of one customer, one merchant and one second."""
        return False
