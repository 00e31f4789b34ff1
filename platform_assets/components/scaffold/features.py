"""Which columns a model reads, with which types, and why not the others; without I/O."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from platform_assets.components.scaffold import names
from platform_assets.components.scaffold.keys import Key, Time
from platform_assets.components.scaffold.profile import (
    BOOLEAN,
    NUMBER,
    TEXT,
    ColumnProfile,
    ModelRequest,
    ScaffoldError,
    TableProfile,
)
from platform_assets.features.rules import MAX_TEXTS
from platform_assets.model_spec import FeatureSpec
from serving_gateway.contract import DType

_FEW_TEXTS: Final = 20
_ROWS_PER_TEXT: Final = 2
_ROWS_PER_GROUP: Final = 10


@dataclass(frozen=True, slots=True)
class Features:
    """The features with their reasons by name, and the headers left out with theirs."""

    specs: tuple[FeatureSpec, ...]
    reasons: dict[str, str] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)


def infer_features(
    columns: Sequence[ColumnProfile],
    key: Key,
    time: Time,
    table: TableProfile,
    target: str,
    request: ModelRequest,
) -> Features:
    """Return the columns that the model reads; ScaffoldError if there are none."""
    taken = {target.casefold(), key.spec.name.casefold(), "event_timestamp"}
    taken |= {time.spec.name.casefold()} if time.spec else set()
    specs, reasons = [], {}
    left_out = {
        header: "its header is empty" if not header else "several columns have this header"
        for header in table.repeated
    }
    for column in columns:
        if column in (key.column, time.column):
            continue
        if why_not := _useless(column, request.stem):
            left_out[column.header] = why_not
            continue
        spec, why = _feature(column, taken, request.stem)
        taken.add(spec.name.casefold())
        specs.append(spec)
        reasons[spec.name] = why
    if not specs:
        shown = "; ".join(f"{header}: {why}" for header, why in left_out.items())
        raise ScaffoldError(
            f"{request.title} has no column to learn {target} from"
            + (f" ({shown})" if shown else "")
        )
    return Features(tuple(specs), reasons, left_out)


def _useless(column: ColumnProfile, stem: str) -> str | None:
    """Say why a column is useless to a model; None if it may be useful."""
    if column.missing == column.rows:
        return "no row has a value"
    if column.is_time:
        return "a time, which no model reads: add what counts, such as days since then"
    if column.fits(NUMBER):
        return _useless_number(column, stem)
    if column.fits(BOOLEAN):
        return "the same value in every row" if column.is_constant else None
    if not column.fits(TEXT):
        return f"of the type {column.source_type}, which is not read"
    return _useless_text(column)


def _useless_number(column: ColumnProfile, stem: str) -> str | None:
    if column.distinct == 1 or column.is_constant:
        return "the same value in every row"
    if column.infinite:
        return "has infinite values"
    if not (column.is_whole and not column.decimals):
        return None
    if names.names_key(column.header, stem) and not _repeats(column):
        return "named like an identifier, which tells nothing of other rows"
    if column.is_consecutive or (column.is_unique and names.names_counter(column.header)):
        return "numbers the rows, which tells nothing of other rows"
    return None


def _repeats(column: ColumnProfile) -> bool:
    """Whether a value names many rows, as a shop's number does and a sale's does not."""
    return column.distinct_integers <= column.values // _ROWS_PER_GROUP


def _useless_text(column: ColumnProfile) -> str | None:
    if column.distinct == 1 and not column.missing:
        return "the same value in every row"
    counted = f"{column.distinct:,} different texts in {column.texts:,} rows"
    counted += f" ({hint})" if (hint := _hint(column)) else ""
    if column.distinct > MAX_TEXTS:
        return f"{counted}, more than the {MAX_TEXTS:,} that a model may read"
    if column.distinct > _FEW_TEXTS and names.names_time(column.header):
        return "named like a time, but not written as one, such as 2024-03-01T00:00:00Z"
    if column.distinct > max(_FEW_TEXTS, column.texts // _ROWS_PER_TEXT):
        return f"{counted}, so hardly one is seen again"
    return f"{counted}, so none is seen again" if column.distinct == column.rows else None


def _hint(column: ColumnProfile) -> str | None:
    """Say what a text may have been meant as."""
    if column.is_in_other_notation:
        return "numbers or dates as they are not read: write 1234.5 or 2024-03-01"
    return column.stray


def _feature(column: ColumnProfile, taken: set[str], stem: str) -> tuple[FeatureSpec, str]:
    name = names.identifier(column.header, column.place, taken, names.FEATURE)
    dtype, why = _type(column)
    if dtype is DType.INT64 and names.names_key(column.header, stem):
        why += f", named like an identifier, but {column.distinct_integers:,} different ones repeat"
    if dtype is DType.BYTES and (hint := _hint(column)):
        why += f"; {hint}"
    if column.missing:
        why += f"; {column.missing:,} of {column.rows:,} rows have none"
    renamed = "" if name == column.header else column.header
    return FeatureSpec(name, dtype, bool(column.missing), source_column=renamed), why


def _type(column: ColumnProfile) -> tuple[DType, str]:
    span = f"from {column.least:.6g} to {column.greatest:.6g}" if column.least is not None else ""
    if column.is_whole and not column.decimals:
        return DType.INT64, f"whole numbers {span}"
    if column.fits(NUMBER) and not column.zero_led:
        if column.lossy:
            return DType.FP64, f"numbers {span}, too long for 32 bits"
        return DType.FP32, f"numbers {span}"
    if column.fits(BOOLEAN) and not column.fits(NUMBER):
        return DType.BOOL, "true or false"
    zeros = ", numbers with leading zeros" if column.zero_led else ""
    return DType.BYTES, f"{column.distinct:,} different texts{zeros}"
