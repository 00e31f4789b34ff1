"""Rules that the rows of a source must satisfy before training."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc

from platform_assets.features.sources.columns import arrow_type
from platform_assets.features.sources.reader import SHOWN_PROBLEMS, SourceTable
from platform_assets.model_spec import PERCENTAGE_ERROR, Label, ModelSpec, SourceSpec, Split, Task
from platform_assets.resources.source import SourceError
from serving_gateway.contract import DType

MAX_TEXTS: Final = 1_000
"""A text feature with more distinct values than this is an identifier, not a category, unless the
model file says how to group or encode it."""
ENTITIES_PER_CLASS: Final = 3
"""Fewest distinct entities of a class: one to evaluate, two to cross-validate."""
EARLIEST: Final = datetime(1678, 1, 1, tzinfo=UTC)
LATEST: Final = datetime(2262, 1, 1, tzinfo=UTC)
"""In nanoseconds, as Feast counts them, times outside of these overflow and come out centuries
off; databases may even hold infinite ones."""


def check_features(rows: SourceTable, spec: SourceSpec) -> None:
    """Raise SourceError where a feature, key or label has a missing or unusable value."""
    table, target = rows.table, spec.label_column
    has_gaps = target is not None and target.drop_missing
    learned = table.filter(table[target.name].is_valid()) if target and has_gaps else table
    rows_learned = learned.num_rows
    empty = [name for name in spec.feature_names if learned[name].null_count == rows_learned]
    if empty and rows_learned:
        where = " in its rows with a label" if has_gaps else ""
        raise SourceError(
            f"{rows.name} has no value at all in {', '.join(empty)}{where}",
            "leave that out of the features in the model file, or fill it, and run again",
        )
    nullable = {feature.name for feature in spec.features if feature.nullable}
    if target and has_gaps:
        nullable.add(target.name)
    if spec.weight_column is not None:
        nullable.add(spec.weight_column.name)  # `weights` checks it where there is a label
    wanted = [name for name in table.column_names if name not in nullable]
    dropped = " (or that rows without a label are dropped)" if target else ""
    refuse_rows(
        rows,
        "empty values",
        {name: table[name].is_null() for name in wanted},
        f"fill them, or say in the file that the feature is nullable{dropped}, and run again",
    )
    of_interest = [*spec.feature_names, *([target.name] if target else [])]
    floats = [name for name in of_interest if pa.types.is_floating(table[name].type)]
    refuse_rows(
        rows,
        "values that are infinite, or too large for their type",
        {name: pc.is_inf(table[name]) for name in floats},
        "correct the source, or declare double for what number cannot hold, and run again",
    )
    _check_texts(rows, spec)


def refuse_rows(
    rows: SourceTable, problem: str, masks: Mapping[str, pa.ChunkedArray], todo: str
) -> None:
    """Raise SourceError where a mask is true, with the count and first row by column."""
    counts = {name: pc.sum(mask).as_py() for name, mask in masks.items()}
    places = [
        f"{name}: {count}, first in {rows.first(masks[name])}"
        for name, count in counts.items()
        if count
    ]
    if places:
        raise SourceError(f"{rows.name} has {problem} ({'; '.join(places)})", todo)


def _check_texts(rows: SourceTable, spec: SourceSpec) -> None:
    limited = [
        feature for feature in spec.features if feature.dtype is DType.BYTES and feature.is_limited
    ]
    for name in (feature.name for feature in limited):
        different = pc.count_distinct(rows.table[name]).as_py()
        if different > MAX_TEXTS:
            raise SourceError(
                f"{rows.name} has {different:,} different texts in {name}, more than "
                f"{MAX_TEXTS:,}: it looks like an identifier, and a model would memorize its "
                "rows",
                "leave it out of the features, or say how to read it in the model file "
                "(min_frequency, max_categories or encoding), and run again",
            )


def check_keys(rows: SourceTable, spec: SourceSpec) -> None:
    """Raise SourceError for an entity with two rows at one time, or a time out of range."""
    key, time = spec.join_key.name, spec.event_timestamp
    table = rows.table
    first, last = (pa.scalar(limit, table[time].type) for limit in (EARLIEST, LATEST))
    refuse_rows(
        rows,
        f"times before {EARLIEST:%Y} or from {LATEST:%Y}, which may stand for unknown ones",
        {time: pc.or_(pc.less(table[time], first), pc.greater_equal(table[time], last))},
        "fill the true times in, or leave those rows out, and run again",
    )
    if spec.join_key.from_row_number or not spec.has_unique_rows:
        return
    counted = table.select([key, time]).group_by([key, time]).aggregate([([], "count_all")])
    surplus = table.num_rows - counted.num_rows
    if not surplus:
        return
    twice = counted.filter(pc.greater(counted["count_all"], 1)).slice(0, 1).to_pylist()[0]
    same = pc.and_(
        pc.equal(table[key], pa.scalar(twice[key], table[key].type)),
        pc.equal(table[time], pa.scalar(twice[time], table[time].type)),
    )
    places = [rows.row(index) for index in pc.indices_nonzero(same).to_pylist()[:SHOWN_PROBLEMS]]
    at, keep = f" at {twice[time].isoformat()}", "and time"
    if spec.event_time is None:
        at, keep = "", "or name the time of a row in the model file,"
    raise SourceError(
        f"{rows.name} has {_count(surplus, 'row', 'rows')} too many: "
        f"{key} {twice[key]} occurs {twice['count_all']} times{at} ({', '.join(places)})",
        f"keep one row per entity {keep} and run again",
    )


def check_target(rows: SourceTable, spec: ModelSpec) -> tuple[Label, ...]:
    """Return the classes in the order of the probabilities; SourceError for unusable labels."""
    name = spec.target.name
    values = pc.unique(rows.table[name].drop_null())
    if not len(values):
        raise SourceError(
            f"{rows.name} has no row with a {name}", "add rows with a label and run again"
        )
    if len(values) == 1 and not spec.target.classes:
        raise SourceError(
            f"{rows.name} has the same {name} in every row ({values[0].as_py()!r}), so there is "
            "nothing to learn",
            "add rows with other values, or name another target in the model file, and run again",
        )
    if spec.task is Task.REGRESSION:
        _check_relative_error(rows, spec)
        return ()
    counts = _class_counts(rows.table, spec)
    classes = spec.target.classes or tuple(sorted(counts))
    _check_known(rows, spec, classes, sorted(counts.keys() - set(classes)))
    if spec.task is Task.BINARY and len(classes) != 2:
        raise SourceError(
            f"{rows.name} has {_count(len(classes), 'class', 'classes')} in {name} "
            f"({', '.join(map(str, classes[:SHOWN_PROBLEMS]))}), and a binary model has two",
            "correct the source, or make the task multiclass in the model file, and run again",
        )
    _check_rare(rows, spec, classes, counts)
    return classes


def _check_relative_error(rows: SourceTable, spec: ModelSpec) -> None:
    """Refuse targets of 0 where errors are measured relative to the target."""
    if spec.evaluation.metric != PERCENTAGE_ERROR:
        return
    name = spec.target.name
    refuse_rows(
        rows,
        f"targets of 0, of which {PERCENTAGE_ERROR} is not defined",
        {name: pc.equal(rows.table[name], 0.0)},
        "choose another evaluation.metric, such as mean_absolute_error, or leave those rows out, "
        "and run again",
    )


def _class_counts(table: pa.Table, spec: ModelSpec) -> dict[Label, tuple[int, int]]:
    """Return rows and distinct entities by label."""
    name, key = spec.target.name, spec.join_key.name
    grouped = table.select([name, key]).drop_null().group_by(name)
    counted = grouped.aggregate([(key, "count"), (key, "count_distinct")]).to_pylist()
    return {row[name]: (row[f"{key}_count"], row[f"{key}_count_distinct"]) for row in counted}


def _check_known(
    rows: SourceTable, spec: ModelSpec, classes: tuple[Label, ...], unknown: list[Label]
) -> None:
    if unknown:
        name = spec.target.name
        values = pa.array(unknown, arrow_type(spec.target.dtype))
        raise SourceError(
            f"{rows.name} has unknown classes in {name} "
            f"({', '.join(map(str, unknown[:SHOWN_PROBLEMS]))}), first in "
            f"{rows.first(pc.is_in(rows.table[name], value_set=values))}: {spec.model_name} knows "
            f"{', '.join(map(str, classes))}",
            "correct the source, or add the class to the model file, and run again",
        )


def _check_rare(
    rows: SourceTable,
    spec: ModelSpec,
    classes: tuple[Label, ...],
    counts: dict[Label, tuple[int, int]],
) -> None:
    # Where the newest rows are held out, an entity may be on both sides.
    by_time = spec.evaluation.split is Split.TIME
    sizes = {label: counts.get(label, (0, 0)) for label in classes}
    rare = [label for label in classes if sizes[label][not by_time] < ENTITIES_PER_CLASS]
    if not rare:
        return
    listed = "; ".join(
        f"class {label}: {_count(sizes[label][0], 'row', 'rows')} of "
        f"{_count(sizes[label][1], 'entity', 'entities')}"
        for label in rare[:SHOWN_PROBLEMS]
    )
    wanted = "rows" if by_time else f"different values of {spec.join_key.name}"
    raise SourceError(
        f"{rows.name} has too few rows of a class ({listed}), so the class cannot be learned "
        "and tested",
        f"give each class at least {ENTITIES_PER_CLASS} {wanted} (one is held out for the "
        "evaluation, cross-validation needs two), or leave the class out, and run again",
    )


def _count(number: int, singular: str, plural: str) -> str:
    return f"{number} {singular if number == 1 else plural}"


def check_weights(rows: SourceTable, spec: SourceSpec) -> None:
    """Raise SourceError where a labelled row has no weight, or a negative or infinite one."""
    weight, target = spec.weight_column, spec.label_column
    if weight is None or target is None:
        return
    name = weight.name
    weights, labelled = rows.table[name], rows.table[target.name].is_valid()
    valid = pc.and_(pc.is_finite(weights), pc.greater_equal(weights, 0.0)).fill_null(False)
    refuse_rows(
        rows,
        "weights that are not numbers from 0 up",
        {name: pc.and_(labelled, pc.invert(valid))},
        "give each row with a label a weight, or remove `weight` in the model file, and run again",
    )
    if not pc.any(pc.and_(labelled, pc.greater(weights, 0.0).fill_null(False))).as_py():
        raise SourceError(
            f"{rows.name} has no row with a {name} above 0, so nothing can be learned",
            "correct the weights, and run again",
        )


def check_class_weights(rows: SourceTable, spec: ModelSpec) -> None:
    """Raise SourceError where the model file weights a class that no row has."""
    weights = spec.class_weight
    if weights is None or isinstance(weights, str):
        return
    unknown = [label for label in weights if label not in rows.classes]
    if unknown:
        raise SourceError(
            f"class_weight names {', '.join(map(str, unknown))}, and the classes in "
            f"{spec.target.name} of {rows.name} are {', '.join(map(str, rows.classes))}",
            "correct the model file, and run again",
        )
