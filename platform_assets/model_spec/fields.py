"""Types shared by the fields of a model file, and how a rule refuses values inside a field."""

from __future__ import annotations

import difflib
import re
import unicodedata
from collections.abc import Iterable, Mapping
from datetime import timedelta
from typing import Annotated, Any, Final, Literal
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import (
    AfterValidator,
    BeforeValidator,
    ConfigDict,
    Field,
    StrictFloat,
    StrictInt,
    ValidationError,
    WithJsonSchema,
)
from pydantic_core import InitErrorDetails, PydanticKnownError

CONFIG: Final = ConfigDict(
    extra="forbid",
    allow_inf_nan=False,
    use_attribute_docstrings=True,
    # Python code uses a field's own name, a model file its alias.
    validate_by_alias=True,
    validate_by_name=True,
)
"""Configuration of every record. Scalars are strictly typed: YAML's `1` is not text."""

LOADER_ONLY: Final = "\0"
"""Alias of fields that a model file cannot set: YAML does not allow this character."""

Positive = Annotated[StrictFloat, Field(gt=0)]
Share = Annotated[StrictFloat, Field(gt=0, lt=1)]
Count = Annotated[StrictInt, Field(ge=1)]

_DURATION: Final = re.compile(r"(\d+)(w|d|h|m|s)", re.ASCII)
_UNITS: Final = {"w": "weeks", "d": "days", "h": "hours", "m": "minutes", "s": "seconds"}
_LONGEST: Final = timedelta(days=36_500)


def reject(problems: Iterable[tuple[tuple[int | str, ...], str]]) -> None:
    """Refuse values inside the one passed to a validator, by path below it and message.

    Raises:
        ValidationError: with all problems, if there are any.
    """
    errors = [
        InitErrorDetails(
            type="value_error", loc=path, input=None, ctx={"error": ValueError(message)}
        )
        for path, message in problems
    ]
    if errors:
        raise ValidationError.from_exception_data("ModelSpec", errors)


def full_match(pattern: str, advice: str) -> AfterValidator:
    """Refuse text that does not fully match `pattern`; `advice` says what to write."""
    compiled = re.compile(pattern, re.ASCII)

    def check(text: str) -> str:
        if not compiled.fullmatch(text):
            raise ValueError(f"{as_yaml(text)}: {advice}")
        return text

    return AfterValidator(check)


def identifier(name: str) -> str:
    """Refuse text that is not a valid name of a model or a table.

    Stricter than the contract: Dagster's groups, pools and jobs allow no hyphens.
    """
    if re.fullmatch(r"[A-Za-z][A-Za-z0-9_]{0,99}", name, re.ASCII):
        return name
    foreign = next((letter for letter in name if not letter.isascii()), None)
    detail = f"{foreign!r} is {unicodedata.name(foreign, 'not ASCII')}; " if foreign else ""
    raise ValueError(
        f"{as_yaml(name)}: {detail}use an ASCII letter, then up to 99 ASCII letters, digits or "
        "underscores"
    )


def choice(values: Mapping[str, Any]) -> BeforeValidator:
    """Replace one of these names with its value; a value itself is accepted unchanged."""
    kinds = {type(value) for value in values.values()}

    def check(given: object) -> object:
        if type(given) in kinds:
            return given
        if isinstance(given, str) and given in values:
            return values[given]
        *first, last = map(repr, values)
        raise PydanticKnownError("literal_error", {"expected": f"{', '.join(first)} or {last}"})

    return BeforeValidator(check, json_schema_input_type=Literal[tuple(values)])


def duration(value: object) -> timedelta:
    """Parse `24h`, `90d` or `1d12h`; a timedelta is returned unchanged.

    Raises:
        ValueError: for anything else, including zero and more than a hundred years.
    """
    if isinstance(value, timedelta):
        return value
    if not isinstance(value, str):
        raise PydanticKnownError("string_type")
    parts = _DURATION.findall(value)
    if not parts or "".join(number + unit for number, unit in parts) != value:
        raise ValueError(
            f"{value!r} is not a duration: write numbers with units, such as 30m, 24h or 90d"
        )
    try:
        length = sum((timedelta(**{_UNITS[u]: int(n)}) for n, u in parts), timedelta())
    except OverflowError:
        length = _LONGEST * 2
    if not timedelta() < length <= _LONGEST:
        raise ValueError(f"{value!r} must be longer than zero and at most 100 years (36500d)")
    return length


Duration = Annotated[
    timedelta,
    BeforeValidator(duration),
    WithJsonSchema({"type": "string", "format": "duration", "examples": ["24h", "90d"]}),
]


def _zone(name: str) -> str:
    try:
        ZoneInfo(name)
    except (ValueError, ZoneInfoNotFoundError, OSError):
        raise ValueError(
            f"{as_yaml(name)} is not a time zone: write one such as UTC or Europe/Zurich"
        ) from None
    return name


TimeZone = Annotated[str, AfterValidator(_zone), Field(strict=True, examples=["UTC"])]


def as_yaml(value: object) -> str:
    """Format a value as YAML would, short enough for a line."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, Mapping):
        return "a mapping"
    if isinstance(value, list):
        return "a list"
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def suggestion(name: str, known: Iterable[str]) -> str:
    """Suggest a similar known name; empty if there is none."""
    near = difflib.get_close_matches(name, list(known), n=1)
    return f" Did you mean `{near[0]}`?" if near else ""
