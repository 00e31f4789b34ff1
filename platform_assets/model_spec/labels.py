"""The labels that a model of several feature tables learns from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass as plain_dataclass
from typing import Annotated, Any, ClassVar

from pydantic import BeforeValidator, Field
from pydantic.dataclasses import dataclass
from pydantic.json_schema import SkipJsonSchema

from platform_assets.model_spec.columns import (
    EventTime,
    FeatureSpec,
    JoinKey,
    KeyName,
    KeyType,
    SourceColumn,
    Target,
)
from platform_assets.model_spec.feature_source import SourceSpec
from platform_assets.model_spec.fields import CONFIG, Duration
from platform_assets.model_spec.source import Source
from platform_assets.model_spec.weighting import WeightColumn
from serving_gateway.contract import DType


def as_entities(value: object) -> object:
    """Expand a name, a list of names or a mapping to a list of keys."""
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

    @property
    def join_key(self) -> JoinKey:
        """The same, as a key of the model."""
        return JoinKey(self.column, self.dtype, source_column=self.source_column)


LabelKeys = Annotated[
    tuple[LabelKey, ...],
    BeforeValidator(as_entities, json_schema_input_type=list[LabelKey | str] | dict[str, Any]),
]


@dataclass(frozen=True, config=CONFIG)
class Labels:
    """The rows that a model of several tables learns from: keys, time, label."""

    source: Source
    """Where the rows with the labels are; the features of `request` are columns of it as well."""
    entities: Annotated[LabelKeys, Field(min_length=1)]
    """The keys of the feature tables: a list of names, or a mapping from the name to the column of
    the labels. The first one is the entity of `evaluation.split`."""
    event_time: Annotated[EventTime, Field(validation_alias="event_timestamp")]
    """The time of the prediction: nothing that became known later is joined to it."""
    outcome_delay: Duration | None = None
    """How long after its time a label is final. Younger rows are not trained on."""


@plain_dataclass(frozen=True, kw_only=True)
class KeyedTable(SourceSpec):
    """Rows of a source that name entities of a model by its keys, each with a true value."""

    model_name: str
    source: Source
    join_key: JoinKey
    keys: tuple[JoinKey, ...]
    event_time: EventTime | None
    features: tuple[FeatureSpec, ...] = ()
    target: Target
    weight: WeightColumn | None = None
    code_version: str
    has_unique_rows: ClassVar[bool] = False
    """Two transactions may be of one customer, one merchant and one second."""

    @property
    def name(self) -> str:
        """Name of the model."""
        return self.model_name

    @property
    def join_keys(self) -> tuple[JoinKey, ...]:
        """The keys of the model."""
        return self.keys

    @property
    def label_column(self) -> Target:
        """The column with the true value."""
        return self.target

    @property
    def weight_column(self) -> WeightColumn | None:
        """The column with a row's weight, if there is one."""
        return self.weight


class LabelTable(KeyedTable):
    """The labels of a model of several tables, as they are read; its features are the request's."""
