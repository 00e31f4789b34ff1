r"""The casting rules: SQL by declared type and by kind of the source's own type.

`{v}` is the value, `{t}` its text stripped of white space. A value that a rule turns into NULL
without its saying "missing" is not of the declared type.
"""

from __future__ import annotations

import glob
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from platform_assets.features.sources.columns import Column
from serving_gateway.contract import DType

NULL_WORDS: Final = (
    *("", "#N/A", "#NA", "-1.#IND", "-1.#QNAN", "-NaN", "-nan", "1.#IND", "1.#QNAN", "N/A"),
    *("NA", "NULL", "NaN", "n/a", "nan", "null"),
)
"""Cells that mean "missing" in a column of any type but text, where only the empty one does."""
SPACES: Final = " \t\r\n\v\f\u00a0\u2007\u202f\u3000\ufeff"
"""White space that is ignored around a value; also used within patterns."""

# DuckDB's own casts take 1_000 for a number, 0x1F and 1.5 for integers, and yes for true. Most
# values are as DuckDB would write them; `{t}`, which costs more, appears once in a rule and
# behind a condition, since an expression that appears twice is computed for every value.
_NOT_NAN: Final = "CASE WHEN isnan({0}) THEN NULL ELSE {0} END"
_TEXT_NUMBER: Final = _NOT_NAN.format(
    "coalesce(CASE WHEN contains({v}, '_') THEN NULL ELSE TRY_CAST({v} AS DOUBLE) END, "
    "TRY_CAST(replace({t}, '_', 'x') AS DOUBLE))"
)
_TEXT_INTEGER: Final = (
    "CASE WHEN CAST(TRY_CAST({v} AS BIGINT) AS VARCHAR) = {v} THEN TRY_CAST({v} AS BIGINT) "
    r"ELSE TRY_CAST(regexp_extract({t}, '^([+-]?[0-9]+)(\.0*)?$', 1) AS BIGINT) END"
)
_TEXT_BOOLEAN: Final = (
    "CASE WHEN {v} IN ('true', 'True', '1') THEN true "
    "WHEN {v} IN ('false', 'False', '0') THEN false "
    r"ELSE TRY_CAST(regexp_extract(regexp_replace({t}, '^([01])\.0*$', '\1'), "
    "'(?i)^(true|false|1|0)$') AS BOOLEAN) END"
)
# Anything after a NUL is lost where C reads the text.
_TEXT: Final = "CASE WHEN contains({v}, chr(0)) THEN NULL ELSE nullif({v}, '') END"
_WHOLE: Final = "CASE WHEN {v} = trunc({v}) THEN TRY_CAST({v} AS BIGINT) END"
_ZERO_OR_ONE: Final = "CASE WHEN {v} = 1 THEN true WHEN {v} = 0 THEN false END"
_DOUBLE: Final = "CAST({v} AS DOUBLE)"

# Times are ISO 8601 with all digits; the basic format is turned into the extended one. The zone
# of the connection is UTC, so a time without an offset stays what the clock showed.
_CLOCK: Final = r"\d{{4}}-\d\d-\d\d([T ]\d\d:\d\d(:\d\d(\.\d+)?)?"
_OFFSET: Final = r"(Z|[+-]\d\d(:?\d\d)?)"
_UTC: Final = "(TRY_CAST({0} AS TIMESTAMPTZ) AT TIME ZONE 'UTC')"
_ISO: Final = (
    r"regexp_replace(regexp_replace(regexp_replace({t}, ' (Z|[+-]\d\d:?\d\d)$', '\1'), "
    r"'^(\d{{4}})(\d\d)(\d\d)(T|$)', '\1-\2-\3\4'), "
    r"'^(\d{{4}}-\d\d-\d\dT\d\d)(\d\d)(\d\d)', '\1:\2:\3')"
)
# The digit rules out a blank before the date, whose day would look like an offset.
_HAS_OFFSET: Final = rf"regexp_matches({{v}}, '\d[T ].*(Z|[+-]\d\d(:?\d\d)?)[{SPACES}]*$')"
_LOCAL: Final = "TRY_CAST({v} AS TIMESTAMP)"


def _text_time(pattern: str) -> str:
    shaped = f"regexp_extract({_ISO}, '^{pattern}$')"
    return (
        f"CASE WHEN regexp_full_match({{v}}, '{pattern}') THEN {_UTC.format('{v}')} "
        f"ELSE {_UTC.format(shaped)} END"
    )


_NUMBERS: Final = {"text": _TEXT_NUMBER, "integer": _DOUBLE, "decimal": _DOUBLE} | {
    "float": _NOT_NAN.format(_DOUBLE)
}
RULES: Final[dict[DType, dict[str, str]]] = {
    DType.FP32: _NUMBERS,
    DType.FP64: _NUMBERS,
    DType.INT64: {
        "text": _TEXT_INTEGER,
        "integer": "TRY_CAST({v} AS BIGINT)",
        "float": _WHOLE,
        "decimal": _WHOLE,
    },
    DType.BOOL: {
        "text": _TEXT_BOOLEAN,
        "boolean": "{v}",
        "integer": _ZERO_OR_ONE,
        "float": _ZERO_OR_ONE,
        "decimal": _ZERO_OR_ONE,
    },
    DType.BYTES: {
        "text": _TEXT,
        "integer": "CAST({v} AS VARCHAR)",
        "boolean": "CAST({v} AS VARCHAR)",
    },
}
"""Declared type -> kind of the source's type -> SQL; any other kind is refused."""
_INSTANT: Final = {"instant": _UTC.format("{v}")}
_INSTANTS: Final = {"text": _text_time(f"{_CLOCK}{_OFFSET})")} | _INSTANT
"""The same for times with an offset."""
_TIMES: Final = {"text": _text_time(f"{_CLOCK}{_OFFSET}?)?"), "local": _LOCAL} | _INSTANT
"""The same for times that may lack it; `Cast.local` says which ones do."""
_INTEGERS: Final = ("TINYINT", "SMALLINT", "INTEGER", "BIGINT", "HUGEINT")
_KINDS: Final = {
    "VARCHAR": "text",
    "BOOLEAN": "boolean",
    "FLOAT": "float",
    "DOUBLE": "float",
    '"NULL"': "nothing",
    **{name: "integer" for integer in _INTEGERS for name in (integer, f"U{integer}")},
}


@dataclass(frozen=True, slots=True)
class Cast:
    """SQL over one column of a relation.

    `value` is its value in the declared type, a 32-bit float as DOUBLE and a time as UTC;
    `present` whether there is a value at all; `local` whether the time is in the zone of the
    model file, not in UTC.
    """

    value: str
    present: str
    local: str


def cast(column: Column, value: str, source_type: str) -> Cast:
    """Return the rule of `column` for the SQL expression `value` of a DuckDB type."""
    kind = _kind(source_type)
    if kind == "text":
        value = value if source_type == "VARCHAR" else f"CAST({value} AS VARCHAR)"
    trimmed = f"trim({value}, {quoted(SPACES)})"
    times = _INSTANTS if column.timezone is None else _TIMES
    rules = RULES[column.dtype] if column.dtype else times
    return Cast(
        value=rules.get(kind, "NULL" if column.dtype else "NULL::TIMESTAMP").format(
            v=value, t=trimmed
        ),
        present=_present(column, kind).format(v=value, t=trimmed),
        local="NOT " + _HAS_OFFSET.format(v=value) if kind == "text" else str(kind == "local"),
    )


def file_in_sql(path: Path) -> str:
    """Return the path of one file as an SQL literal: DuckDB takes even `[1]` for a pattern."""
    return quoted(glob.escape(str(path)))


def quoted(text: str) -> str:
    """Return a text as an SQL literal."""
    return "'" + text.replace("'", "''") + "'"


def _present(column: Column, kind: str) -> str:
    if kind == "float":
        return "({v} IS NOT NULL AND NOT isnan({v}))"
    if kind != "text":
        return "({v} IS NOT NULL)"
    if column.dtype is DType.BYTES:
        return "coalesce({v} <> '', false)"
    words = ", ".join(map(quoted, NULL_WORDS))
    return f"coalesce({{t}} NOT IN ({words}), false)"


def _kind(source_type: str) -> str:
    if source_type.startswith("ENUM"):
        return "text"
    if source_type.startswith("DECIMAL"):
        return "decimal"
    if source_type.startswith(("TIMESTAMP", "DATE")):
        return "instant" if "TZ" in source_type or "ZONE" in source_type else "local"
    return _KINDS.get(source_type, "other")
