"""The columns to read from a source, with their types."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from platform_assets.model_spec import FeatureSpec, JoinKey, SourceSpec, Target
from serving_gateway.contract import DType

if TYPE_CHECKING:
    import pyarrow as pa

_WORDS: Final = {
    DType.FP32: "a number",
    DType.FP64: "a number",
    DType.INT64: "a whole number of 64 bits",
    DType.BOOL: "true or false",
    DType.BYTES: "text",
}


@dataclass(frozen=True, slots=True)
class Column:
    """One column of the source. `dtype` None is a time, in `timezone` if it has no offset.

    `name` is its name in the model file, `source_column` the one in the source if different.
    """

    name: str
    dtype: DType | None
    timezone: str | None = None
    source_column: str = ""

    @property
    def header(self) -> str:
        """The name of the column in the source."""
        return self.source_column or self.name

    @property
    def word(self) -> str:
        """Display name of the type."""
        if self.dtype is not None:
            return _WORDS[self.dtype]
        offset = " with its offset" if self.timezone is None else ""
        return f"a time{offset}, such as 2024-03-01T00:00:00Z"

    @property
    def remedy(self) -> str:
        """What may be corrected instead of the source."""
        if self.dtype is not None or self.timezone is not None:
            return "change the type in the model file"
        return (
            "name the zone of times without an offset as event_timestamp.timezone in the model file"
        )

    @property
    def arrow(self) -> pa.DataType:
        """Type of the column once it is read."""
        import pyarrow as pa

        return arrow_type(self.dtype) if self.dtype else pa.timestamp("us", tz="UTC")


def source_columns(spec: SourceSpec) -> tuple[Column, ...]:
    """Every column that the source has to have: key, time, features, target, weight."""
    time, target, weight = spec.event_time, spec.label_column, spec.weight_column
    typed: list[FeatureSpec | JoinKey | Target] = [
        *(key for key in spec.join_keys if not key.from_row_number),
        *spec.features,
        *([] if target is None else [target]),
    ]
    columns = [
        Column(column.name, column.dtype, source_column=column.source_column) for column in typed
    ]
    if weight is not None:
        columns.append(Column(weight.name, DType.FP64, source_column=weight.source_column))
    if time is not None:
        columns.append(Column(time.name, None, time.timezone, time.source_column))
    return tuple(columns)


def arrow_type(dtype: DType) -> pa.DataType:
    """Return the Arrow type that the platform uses for values of a tensor type."""
    import pyarrow as pa

    return {
        DType.FP32: pa.float32(),
        DType.FP64: pa.float64(),
        DType.INT64: pa.int64(),
        DType.BOOL: pa.bool_(),
        DType.BYTES: pa.string(),
    }[dtype]
