"""What is read from one source, and the common part of its assets."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Annotated, ClassVar, Final, TypedDict

from pydantic import BeforeValidator, StrictStr

from platform_assets.model_spec.columns import (
    DEFAULT_TIME_COLUMN,
    EventTime,
    FeatureOptions,
    FeatureSpec,
    FeatureType,
    JoinKey,
    Target,
)
from platform_assets.model_spec.fields import duration, full_match
from platform_assets.model_spec.source import Source
from platform_assets.model_spec.weighting import WeightColumn

DEFAULT_TTL: Final = duration("3650d")

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


class SourceSpec:
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
    has_unique_rows: ClassVar[bool] = True
    """Whether the keys have one row at a time."""

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
    def own_table(self) -> SourceSpec:
        """The table to read from the source."""
        return self

    @property
    def label_column(self) -> Target | None:
        """The column with the labels, if there is one."""
        return None

    @property
    def weight_column(self) -> WeightColumn | None:
        """The column with the weight of a labelled row, if there is one."""
        return None

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
        """Age at which values expire; zero for never, also without times."""
        return timedelta() if self.event_time is None else self.ttl

    def key(self, asset: str) -> list[str]:
        """Return the Dagster key of one of the assets."""
        return [self.name, asset]

    def asset(self, name: str) -> AssetOptions:
        """Return the arguments that all assets of the table or the model share."""
        return AssetOptions(
            key=self.key(name),
            group_name=self.name,
            owners=list(self.owners),
            tags=dict(self.tags),
            code_version=self.code_version,
        )


def as_features(value: object) -> object:
    """Expand a list of names or a mapping to a list of features."""
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
