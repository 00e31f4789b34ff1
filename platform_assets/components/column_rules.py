"""What may not be said of columns: names that are taken, ranges of text, classes of a number."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from platform_assets.components.fields import FeatureFields, ModelFields, TargetFields
from platform_assets.components.problems import Fault
from platform_assets.components.typing_faults import shown
from platform_assets.components.vocabulary import (
    CLASS_TYPES,
    FEAST_COLUMNS,
    LOST_SUFFIX,
    NUMERIC_TYPES,
    TIME_COLUMN,
    is_reserved,
)
from platform_assets.model_spec import Task

_COLUMN: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,99}", re.ASCII)
_COLUMN_RULE: Final = (
    "use an ASCII letter or underscore, then up to 99 ASCII letters, digits or underscores, and "
    "say under `from` how the source calls the column"
)


def column_faults(fields: ModelFields) -> Iterator[Fault]:
    """Yield what is wrong with key, time, features and target."""
    yield from _key(fields)
    yield from _event_time(fields)
    yield from _features(fields)
    yield from _target(fields)


def entity_column(fields: ModelFields) -> str | None:
    """Name of the entity's column, or of the row number that stands in."""
    return fields.join_key.column or fields.join_key.row_number


def target_type(target: TargetFields, task: Task) -> str:
    """Type of the target: as written, else that of its classes, else the task's."""
    if target.type is not None:
        return target.type
    if task is Task.REGRESSION:
        return "number"
    first = target.classes[0] if target.classes else ""
    return next((name for name, kind in CLASS_TYPES.items() if type(first) is kind), "text")


def _key(fields: ModelFields) -> Iterator[Fault]:
    key = fields.join_key
    if (key.column is None) == (key.row_number is None):
        yield Fault(("join_key",), "needs exactly one of `column` and `row_number`")
        return
    for field in key.model_fields_set & {"type", "from_"} if key.row_number is not None else ():
        path = ("join_key", field.rstrip("_"))
        yield Fault(path, "belongs to `column`: row numbers are integers")
    where = "column" if key.column is not None else "row_number"
    yield from _name(("join_key", where), str(entity_column(fields)))


def _event_time(fields: ModelFields) -> Iterator[Fault]:
    time = fields.event_timestamp
    if time is None:
        if fields.ttl is not None:
            yield Fault(("ttl",), "needs `event_timestamp`: without times no value gets old")
        return
    path = ("event_timestamp", "column")
    if not _COLUMN.fullmatch(time.column):
        yield Fault(path, f"{shown(time.column)}: {_COLUMN_RULE}")
    elif time.column.casefold() in FEAST_COLUMNS - {TIME_COLUMN}:
        yield Fault(path, _reserved(time.column))
    yield from _lost(path, time.column)
    if _same(time.column, entity_column(fields)):
        yield Fault(path, f"{time.column!r} is the join key: name another column")
    if time.timezone is not None:
        try:
            ZoneInfo(time.timezone)
        except (ValueError, ZoneInfoNotFoundError, OSError):
            yield Fault(
                ("event_timestamp", "timezone"),
                f"{shown(time.timezone)} is no time zone: write one as UTC or Europe/Berlin",
            )


def _features(fields: ModelFields) -> Iterator[Fault]:
    key, target, time = fields.join_key, fields.target, fields.event_timestamp
    others = [(key, key.column, "the join key"), (target, target.column, "the target")]
    if time is not None:
        others.append((time, time.column, "the event timestamp"))
    # DuckDB, by which Feast joins, knows no case; a source does.
    taken = {str(name).casefold(): what for _, name, what in others}
    taken[str(entity_column(fields)).casefold()] = "the join key"
    sources = {column.from_ or name: what for column, name, what in others}
    seen: set[str] = set()
    for index, feature in enumerate(fields.features):
        path, name = ("features", index, "name"), feature.name.casefold()
        what = taken.get(name) or sources.get(feature.from_ or feature.name)
        if what:
            yield Fault(path, f"{feature.name!r} is {what}: the model may not read it; remove it")
        elif name in seen:
            yield Fault(path, f"{feature.name!r} is listed twice, in any case: remove one")
        else:
            yield from _name(path, feature.name)
            yield from _lost(path, feature.name)
        seen.add(name)
        yield from _range(index, feature)


def _range(index: int, feature: FeatureFields) -> Iterator[Fault]:
    low, high = feature.minimum, feature.maximum
    if feature.type not in NUMERIC_TYPES:
        for bound, value in (("minimum", low), ("maximum", high)):
            if value is not None:
                yield Fault(
                    ("features", index, bound),
                    f"only numbers have a range, and {feature.name!r} is {feature.type}: remove it",
                )
    elif low is not None and high is not None and low > high:
        yield Fault(
            ("features", index, "minimum"),
            f"{low:g} is greater than the maximum {high:g}: no value would pass",
        )


def _target(fields: ModelFields) -> Iterator[Fault]:
    target, task = fields.target, Task(fields.task)
    path = ("target", "column")
    if not target.column or not target.column.isprintable():
        yield Fault(path, f"{shown(target.column)} is no name of a column")
    elif _same(target.column, entity_column(fields)):
        yield Fault(path, f"{target.column!r} is the join key: name another column")
    elif fields.event_timestamp and _same(target.column, fields.event_timestamp.column):
        yield Fault(path, f"{target.column!r} is the event timestamp: name another column")
    elif target.column.casefold() in FEAST_COLUMNS:
        yield Fault(path, _reserved(target.column))
    kind = target_type(target, task)
    if task is Task.REGRESSION:
        yield from _number_target(target, kind)
        return
    if kind == "number":
        yield Fault(
            ("target", "type"),
            f"a {task} target is text, integer or boolean: change the type, or the task to "
            "regression",
        )
        return
    if task is Task.MULTICLASS and kind == "boolean":
        yield Fault(("task",), "a boolean target has two classes: write task: binary")
    yield from _classes(target, kind)
    yield from _class_count(target, task)


def _number_target(target: TargetFields, kind: str) -> Iterator[Fault]:
    if kind != "number":
        yield Fault(
            ("target", "type"),
            f"a regression predicts a number, not {kind}: remove the type (whole numbers are "
            "read as well), or change the task",
        )
    for field in ("classes", "class_names"):
        if getattr(target, field):
            yield Fault(("target", field), "a regression has no classes: remove them")


def _classes(target: TargetFields, kind: str) -> Iterator[Fault]:
    for index, label in enumerate(target.classes):
        path = ("target", "classes", index)
        if type(label) is not CLASS_TYPES[kind]:
            hint = "; put it in quotes (YAML reads yes and no as true and false)"
            yield Fault(
                path, f"{shown(label)} is not {kind}{hint if kind == 'text' else ''}, as others are"
            )
        elif label == "":
            yield Fault(path, "empty text means that the label is missing: remove it")
        elif type(label) is int and not -(2**63) <= label < 2**63:
            yield Fault(path, f"{label} does not fit into 64 bits")
        elif label in target.classes[:index]:
            yield Fault(path, f"{shown(label)} is listed twice: remove one")


def _class_count(target: TargetFields, task: Task) -> Iterator[Fault]:
    count, names = len(target.classes), len(target.class_names)
    path = ("target", "classes")
    if task is Task.BINARY and count not in {0, 2}:
        advice = "write task: multiclass, or list two" if count > 2 else "list both"
        yield Fault(path, f"a binary target has two classes, and here are {count}: {advice}")
    if task is Task.MULTICLASS and count in {1, 2}:
        yield Fault(path, f"{count} classes are no multiclass: list all, or write task: binary")
    if names and names != count:
        advice = "list the classes, whose order the names follow" if not count else "match them"
        yield Fault(("target", "class_names"), f"{names} names for {count} classes: {advice}")
    for index, name in enumerate(target.class_names):
        if name in target.class_names[:index]:
            yield Fault(("target", "class_names", index), f"{name!r} is given to two classes")


def _same(one: str, other: str | None) -> bool:
    return other is not None and one.casefold() == other.casefold()


def _name(path: tuple[object, ...], name: str) -> Iterator[Fault]:
    if not _COLUMN.fullmatch(name):
        yield Fault(path, f"{shown(name)}: {_COLUMN_RULE}")
    elif is_reserved(name):
        yield Fault(path, _reserved(name))


def _lost(path: tuple[object, ...], name: str) -> Iterator[Fault]:
    if name.endswith(LOST_SUFFIX):
        said = f"{name!r}: Feast loses columns that end in {LOST_SUFFIX}"
        yield Fault(path, f"{said}: give it another name, and say this one under `from`")


def _reserved(name: str) -> str:
    return (
        f"{name!r} is a name that the platform or Feast writes itself: give it another, "
        "and say this one under `from`"
    )
