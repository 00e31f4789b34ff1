"""The columns of a model: entity, time, features and target."""

from __future__ import annotations

import re
from collections.abc import Callable
from enum import StrEnum
from typing import Annotated, Any, Final, Self

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    StrictBool,
    StrictFloat,
    StrictInt,
    StrictStr,
    WithJsonSchema,
    create_model,
    model_validator,
)
from pydantic.dataclasses import dataclass
from pydantic.json_schema import SkipJsonSchema

from platform_assets.model_spec.fields import CONFIG, LOADER_ONLY, TimeZone, as_yaml, choice, reject
from serving_gateway.contract import DType, Feature

Label = int | str | bool

_NUMERIC: Final = frozenset({DType.FP32, DType.FP64, DType.INT64})
_COLUMN: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,99}", re.ASCII)
DEFAULT_TIME_COLUMN: Final = "event_timestamp"
"""The time column of a model without one of its own."""
FEAST_COLUMNS: Final = frozenset(
    {DEFAULT_TIME_COLUMN, "entity_row_id", "event_expire_timestamp", "rn"}
)
"""Columns that Feast adds in its joins, in any letter case."""
_RESERVED: Final = FEAST_COLUMNS | {"created_timestamp", "label", "label_true", "probabilities"}
_RESERVED_PREFIXES: Final = ("prediction", "probability_", "sample_")
_ELSE: Final = ": choose another, and give this one under `from`"
_LOST_SUFFIX: Final = "_y"
"""Suffixes of features and times that Feast drops from its join."""


def _column(*, reserved: Callable[[str], bool], joined: bool = False) -> AfterValidator:
    """Refuse a name that is not a tensor's, is reserved, or (`joined`) is dropped by Feast."""

    def check(name: str) -> str:
        if not _COLUMN.fullmatch(name):
            raise ValueError(
                f"{as_yaml(name)}: use an ASCII letter or underscore, then up to 99 ASCII letters, "
                "digits or underscores, and give the source's name of the column under `from`"
            )
        if reserved(name.casefold()):
            raise ValueError(f"{name!r} is a name that the platform or Feast uses{_ELSE}")
        if joined and name.endswith(_LOST_SUFFIX):
            raise ValueError(f"{name!r}: Feast loses columns that end in {_LOST_SUFFIX}{_ELSE}")
        return name

    return AfterValidator(check)


def _is_reserved(name: str) -> bool:
    return name in _RESERVED or name.startswith(_RESERVED_PREFIXES)


def _target_name(name: str) -> str:
    if not name or not name.isprintable():
        raise ValueError(f"{as_yaml(name)} is not the name of a column")
    if name.casefold() in FEAST_COLUMNS:
        raise ValueError(f"{name!r} is a name that Feast uses{_ELSE}")
    return name


KeyName = Annotated[StrictStr, _column(reserved=_is_reserved)]
FeatureName = Annotated[StrictStr, _column(reserved=_is_reserved, joined=True)]
TimeName = Annotated[
    StrictStr, _column(reserved=(FEAST_COLUMNS - {DEFAULT_TIME_COLUMN}).__contains__, joined=True)
]
SourceColumn = Annotated[StrictStr, Field(validation_alias="from", examples=["fixed acidity"])]


AnyLabel = Annotated[Any, WithJsonSchema({"type": ["string", "integer", "boolean"]})]
_TYPES: Final = {
    "number": DType.FP32,
    "double": DType.FP64,
    "integer": DType.INT64,
    "boolean": DType.BOOL,
    "text": DType.BYTES,
}
WORDS: Final = {dtype: word for word, dtype in _TYPES.items()}
"""Types of features and keys by their names in a model file."""
FeatureType = Annotated[DType, choice(_TYPES)]
KeyType = Annotated[DType, choice({name: _TYPES[name] for name in ("integer", "text")})]
TargetType = Annotated[
    DType,
    choice(
        {name: _TYPES[name] for name in ("text", "integer", "boolean")} | {"number": DType.FP64}
    ),
]


class TextEncoding(StrEnum):
    """How texts become numbers, where the estimator does not decide it."""

    TARGET = "target"


def _frequency(value: object) -> object:
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not is_number or not (value >= 1 if isinstance(value, int) else 0 < value < 1):  # type: ignore[operator] # a number
        raise ValueError(
            f"must be a number of rows from 1, or a share between 0 and 1, not {as_yaml(value)}"
        )
    return value


Frequency = Annotated[
    Any, BeforeValidator(_frequency), WithJsonSchema({"type": "number", "exclusiveMinimum": 0})
]


@dataclass(frozen=True, config=CONFIG)
class FeatureSpec:
    """One column that the model reads."""

    name: FeatureName
    """The column."""
    dtype: Annotated[
        FeatureType, Field(validation_alias="type", json_schema_extra={"default": "number"})
    ] = DType.FP32
    """`number` is a 32-bit float, `double` a 64-bit one, `integer` a 64-bit integer."""
    nullable: StrictBool = False
    """Whether values may be missing. In JSON a missing value is null; it is never left out."""
    minimum: StrictFloat | None = None
    """Lowest value that the blocking range check accepts; numbers only."""
    maximum: StrictFloat | None = None
    """Highest value that the blocking range check accepts; numbers only."""
    source_column: SourceColumn = ""
    """The column's name in the source, where it differs."""
    table: Annotated[SkipJsonSchema[str], Field(validation_alias=LOADER_ONLY)] = ""
    """The feature table that has the column; empty for the model's own, and for the request's."""
    min_frequency: Frequency | None = None
    """Texts in fewer training rows (a number, or a share of them) are one category together; lifts
    the limit of 1,000 different texts."""
    max_categories: Annotated[StrictInt, Field(ge=2)] | None = None
    """Categories that are told apart at most: the rarer texts are one category together; lifts the
    limit of 1,000 different texts."""
    encoding: TextEncoding | None = None
    """`target` replaces a text by the mean of the target in its rows, cross-fitted; lifts the limit
    of 1,000 different texts."""

    @model_validator(mode="after")
    def _check_encoding(self) -> Self:
        options = {name: getattr(self, name) for name in ("min_frequency", "max_categories")}
        problem = ""
        if self.dtype is not DType.BYTES:
            options["encoding"] = self.encoding
            problem = f"only texts have categories, and {self.name!r} is not one: remove it"
        elif self.encoding is not None:
            problem = "target encoding reads every text, the rarer with less weight: remove one"
        reject(
            ((name,), problem) for name, value in options.items() if problem and value is not None
        )
        return self

    @model_validator(mode="after")
    def _check_range(self) -> Self:
        low, high = self.minimum, self.maximum
        if not self.numeric:
            message = f"only numbers have a range, and {self.name!r} is not one: remove it"
            bounds = {"minimum": low, "maximum": high}
            reject(((bound,), message) for bound, value in bounds.items() if value is not None)
        elif low is not None and high is not None and low > high:
            message = f"{low:g} is greater than the maximum {high:g}: no value would pass"
            reject([(("minimum",), message)])
        return self

    @property
    def numeric(self) -> bool:
        """Whether the values are numbers."""
        return self.dtype in _NUMERIC

    @property
    def is_limited(self) -> bool:
        """Whether the number of distinct texts in the source is limited."""
        return {self.min_frequency, self.max_categories, self.encoding} == {None}

    @property
    def feature(self) -> Feature:
        """The column in the form of the signature."""
        return Feature(self.name, self.dtype, self.nullable)


_OPTIONS: Final[dict[str, Any]] = {
    name: (one.annotation, one)
    for name, one in FeatureSpec.__pydantic_fields__.items()  # type: ignore[attr-defined] # pydantic sets it
    if name not in {"name", "table"}
}
FeatureOptions = create_model("FeatureOptions", __config__=CONFIG, **_OPTIONS)
"""A feature in a mapping, where the key is the name; only for the JSON schema."""


@dataclass(frozen=True, config=CONFIG)
class JoinKey:
    """What names the entity of a row; exactly one of `column` and `row_number`."""

    column: KeyName | None = None
    """The column with the entity's id."""
    dtype: Annotated[
        KeyType, Field(validation_alias="type", json_schema_extra={"default": "integer"})
    ] = DType.INT64
    """Type of that column."""
    row_number: KeyName | None = None
    """A name for the row number, from 1, when the source has no such column and each row is its own
    entity."""
    source_column: SourceColumn = ""
    """The column's name in the source, where it differs."""

    @model_validator(mode="after")
    def _check_kind(self) -> Self:
        if (self.column is None) == (self.row_number is None):
            raise ValueError("needs exactly one of `column` and `row_number`")
        if self.row_number is not None:
            wrong = {"type": self.dtype is not DType.INT64, "from": bool(self.source_column)}
            message = "belongs to `column`: row numbers are integers"
            reject(((name,), message) for name, given in wrong.items() if given)
        return self

    @property
    def name(self) -> str:
        """The entity's column in all tables of the platform."""
        return self.column or self.row_number or ""

    @property
    def from_row_number(self) -> bool:
        """Whether rows are numbered because the source has no key column."""
        return self.column is None


@dataclass(frozen=True, config=CONFIG)
class EventTime:
    """When a row was true."""

    name: Annotated[TimeName, Field(validation_alias="column")]
    """The column with the time."""
    timezone: TimeZone | None = None
    """Time zone of times that are written without an offset; without it those are refused."""
    source_column: SourceColumn = ""
    """The column's name in the source, where it differs."""


@dataclass(frozen=True, config=CONFIG)
class Target:
    """The column to predict."""

    name: Annotated[StrictStr, AfterValidator(_target_name), Field(validation_alias="column")]
    """The column with the truth."""
    type: TargetType | None = None
    """Type of the labels: by default that of `classes` where they are listed, else `text`;
    `number` for a regression."""
    classes: tuple[AnyLabel, ...] = ()
    """The labels in the order of the probabilities; by default those of the data, sorted."""
    class_names: tuple[StrictStr, ...] = ()
    """Words for `classes`, in their order: the model learns and answers them instead."""
    drop_missing: StrictBool = False
    """Train on the rows with a label, instead of refusing the source; those without one are
    served as features all the same."""
    source_column: SourceColumn = ""
    """The column's name in the source, where it differs."""

    @property
    def dtype(self) -> DType:
        """Type of the labels in the source: as given, else that of the classes, else text."""
        if self.type is not None:
            return self.type
        kinds = {bool: DType.BOOL, int: DType.INT64}
        return kinds.get(type(self.classes[0]), DType.BYTES) if self.classes else DType.BYTES

    @property
    def answer_dtype(self) -> DType:
        """Type of the labels that the model learns and answers: text if its classes have names."""
        return DType.BYTES if self.class_names else self.dtype
