"""Feature tables: one source with a key, whose columns any number of models may read."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import field
from datetime import timedelta
from typing import Annotated, Final, Self

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    StrictBool,
    StrictStr,
    WithJsonSchema,
    model_validator,
)
from pydantic.dataclasses import dataclass
from pydantic.json_schema import SkipJsonSchema

from platform_assets.model_spec.columns import EventTime, FeatureSpec, JoinKey
from platform_assets.model_spec.feature_source import (
    DEFAULT_TTL,
    Columns,
    Owner,
    SourceSpec,
    TagKey,
    TagValue,
)
from platform_assets.model_spec.fields import (
    CONFIG,
    LOADER_ONLY,
    Duration,
    duration,
    identifier,
    reject,
)
from platform_assets.model_spec.operation import Cron, Kubernetes
from platform_assets.model_spec.source import Source

TABLE_ASSETS: Final = ("features", "online_features")
"""The assets of a feature table, in order."""
NEVER: Final = "none"
"""Value in a file for values that never expire."""
Ttl = Annotated[
    timedelta,
    BeforeValidator(lambda value: timedelta() if value == NEVER else duration(value)),
    WithJsonSchema({"type": "string", "format": "duration", "examples": ["30d", NEVER]}),
]
"""An age, or zero if values never expire, as in Feast."""


def table_job_name(table_name: str) -> str:
    """Return the name of the job that reads a table and updates the online store."""
    return f"{table_name}_table"


@dataclass(frozen=True, kw_only=True, config=CONFIG)
class FeatureTableSpec(SourceSpec):
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
    ttl: Annotated[Ttl, Field(json_schema_extra={"default": "3650d"})] = DEFAULT_TTL
    """Age at which values expire, in training and in requests; needs `event_timestamp`. `none`:
    they never do, as in a view of Feast without a ttl."""
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
            if time is None:
                message = (
                    "needs `event_timestamp`: every view of Feast has times; write "
                    "`event_timestamp: {column: <the view's timestamp_field>}`"
                )
                reject([(("source", "feast_view"), message)])
            if self.on_new_data:
                message = "cannot be asked of a view of Feast: give the table a `schedule` instead"
                reject([(("on_new_data",), message)])
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
        """Name of Feast's view of the table, independent of its columns."""
        return self.source.feast_view or self.table_name

    @property
    def is_external(self) -> bool:
        """Whether the view is filled externally."""
        return self.source.feast_view is not None


def _repeated(
    features: Sequence[FeatureSpec], taken: dict[str, str]
) -> Iterator[tuple[tuple[int | str, ...], str]]:
    """Yield the columns whose name is already taken, ignoring case."""
    for index, feature in enumerate(features):
        name = feature.name.casefold()
        if name in taken:
            yield ("columns", index, "name"), f"{feature.name!r} {taken[name]}: remove it"
        taken.setdefault(name, "is listed twice, in any case")
