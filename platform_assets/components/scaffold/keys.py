"""Which column identifies a row, and which one holds its event time; without I/O."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from platform_assets.components.scaffold import names
from platform_assets.components.scaffold.profile import (
    NUMBER,
    TEXT,
    TIME,
    ColumnProfile,
    ModelRequest,
    ScaffoldError,
    TableProfile,
)
from platform_assets.features.rules import EARLIEST
from platform_assets.model_spec import EventTime, JoinKey
from serving_gateway.contract import DType

_LARGEST: Final = 2**53


@dataclass(frozen=True, slots=True)
class Time:
    """The event timestamp, if any, with its column and the reason."""

    spec: EventTime | None = None
    column: ColumnProfile | None = None
    why: str = ""


@dataclass(frozen=True, slots=True)
class Key:
    """The join key, with its column (None: rows are numbered) and the reason."""

    spec: JoinKey
    column: ColumnProfile | None
    why: str


def infer_time(columns: Sequence[ColumnProfile], request: ModelRequest, now: datetime) -> Time:
    """Return when a row was true; ScaffoldError for a requested column that cannot say so."""
    now = now.astimezone(UTC).replace(tzinfo=None)
    if request.time is not None:
        column = _find_requested(columns, request.time, request)
        if not column.fits(TIME) or column.missing:
            raise ScaffoldError(
                f"{request.time} of {request.title} is not a time in every row, such as "
                "2024-03-01T00:00:00Z"
            )
        if _is_to_come(column, now):
            raise ScaffoldError(
                f"{request.time} of {request.title} has times to come, up to {column.latest} UTC, "
                "and a row is true from its time on"
            )
        return _time(column, "as asked")
    possible = [one for one in columns if _may_be_time(one) and not _is_to_come(one, now)]
    if not possible:
        return Time()
    chosen = next(
        (candidate for candidate in possible if names.names_time(candidate.header)), possible[0]
    )
    others = ", ".join(
        _quote(candidate.header) for candidate in possible if candidate is not chosen
    )
    return _time(chosen, "every row has a time here" + (f"; also in {others}" if others else ""))


def _is_to_come(column: ColumnProfile, now: datetime) -> bool:
    return column.latest is not None and column.latest > now


def _may_be_time(column: ColumnProfile) -> bool:
    early = column.earliest is None or column.earliest < EARLIEST.replace(tzinfo=None)
    return not (
        not column.is_time or column.missing or early or names.names_other_time(column.header)
    )


def _time(column: ColumnProfile, why: str) -> Time:
    name = names.identifier(column.header, column.place, (), names.TIME)
    zone = "UTC" if column.local_times else None
    renamed = "" if name == column.header else column.header
    why += ", without an offset: name another zone if its clock is not UTC" if zone else ""
    return Time(EventTime(name, zone, renamed), column, why)


def infer_key(
    columns: Sequence[ColumnProfile],
    time: ColumnProfile | None,
    table: TableProfile,
    request: ModelRequest,
) -> Key:
    """Return the key of a row, or the row number if no column can be one.

    Raises:
        ScaffoldError: the requested key does not identify a row.
    """
    columns = [candidate for candidate in columns if candidate is not time]
    if request.key is not None:
        column = _find_requested(columns, request.key, request)
        return _requested_key(column, time, table, request)
    possible = [one for one in columns if _may_be_key(one) and not one.is_in_other_notation]
    named = [one for one in possible if names.names_key(one.header, request.stem)]
    for one in named:
        if one.is_unique:
            return _key(one, "named like an identifier, and different in every row")
    for one in named:
        if time is not None and table.is_unique(one, time):
            again = f"named like an identifier, and comes again at another {_quote(time.header)}"
            return _key(one, again)
    for one in possible:
        if one.is_consecutive and (one.place == 1 or names.names_counter(one.header)):
            return _key(one, "numbers the rows")
        if one.is_unique and not one.is_whole and not one.stray:
            return _key(one, "a text that is different in every row")
    taken = {one.header.casefold() for one in table.columns}
    free = (one for one in ("row_id", "row_number", "number_of_row") if one not in taken)
    spec = JoinKey(row_number=next(free))
    repeated = f"; {_quote(named[0].header)} repeats" if named else ""
    return Key(spec, None, f"no column names the rows, so they are numbered{repeated}")


def _find_requested(
    columns: Sequence[ColumnProfile], header: str, request: ModelRequest
) -> ColumnProfile:
    match = next((column for column in columns if column.header == header), None)
    if match is None:
        raise ScaffoldError(
            f"{request.title} has no column {header!r} besides the target and the time"
        )
    return match


def _requested_key(
    column: ColumnProfile, time: ColumnProfile | None, table: TableProfile, request: ModelRequest
) -> Key:
    problem = None
    if column.is_whole and not column.missing and not _is_exact(column):
        problem = "has numbers beyond 2**53, which JSON does not carry exactly: make it a text"
    elif not _may_be_key(column):
        problem = "is not a whole number or a text in every row"
    elif not (column.is_unique or (time is not None and table.is_unique(column, time))):
        problem = "repeats" + (f" at one {time.header}" if time else ", and no column has times")
    if problem:
        raise ScaffoldError(f"{column.header} of {request.title} cannot be the key: it {problem}")
    return _key(column, "as asked")


def _may_be_key(column: ColumnProfile) -> bool:
    is_text = column.fits(TEXT) and (column.zero_led > 0 or not column.fits(NUMBER))
    fits = _is_exact(column) if column.is_whole else is_text
    return fits and not column.missing and not column.is_time


def _is_exact(column: ColumnProfile) -> bool:
    return max(-(column.least or 0.0), column.greatest or 0.0) < _LARGEST


def _key(column: ColumnProfile, why: str) -> Key:
    name = names.identifier(column.header, column.place, (), names.KEY)
    type_ = DType.INT64 if column.is_whole else DType.BYTES
    why += ", with leading zeros" if column.zero_led else ""
    renamed = "" if name == column.header else column.header
    return Key(JoinKey(name, type_, source_column=renamed), column, why)


def _quote(header: str) -> str:
    return " ".join(header.split())
