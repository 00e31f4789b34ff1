"""Which column to predict, and which kind of task that is; without I/O."""

from __future__ import annotations

import difflib
from dataclasses import replace
from typing import Final

from platform_assets.components.scaffold.profile import (
    BOOLEAN,
    INTEGER,
    NUMBER,
    TEXT,
    ColumnProfile,
    ModelRequest,
    ScaffoldError,
    TableProfile,
)
from platform_assets.model_spec import Target, Task
from serving_gateway.contract import DType

FEWEST_ROWS: Final = 30
"""Fewest rows with a label: ten for evaluation and twice as many for training."""
_MOST_CLASSES: Final = 100
_MOST_WHOLE_CLASSES: Final = 10
_FEWEST_PER_CLASS: Final = 3


def find_target(table: TableProfile, request: ModelRequest) -> ColumnProfile:
    """Return the column to predict; ScaffoldError when it is absent, or nothing can be learned."""
    if not table.rows:
        raise ScaffoldError(f"{request.title} has a header and no rows")
    requested = request.target
    if requested in table.repeated:
        raise ScaffoldError(
            f"{request.title} has several columns {requested!r}: rename all but one"
        )
    by_header = {column.header: column for column in table.columns}
    if requested not in by_header:
        folded = {one.casefold(): one for one in by_header}
        near = [folded[one] for one in difflib.get_close_matches(requested.casefold(), folded, n=1)]
        shown = ", ".join([*by_header][:_MOST_WHOLE_CLASSES])
        more = ", ..." if len(by_header) > _MOST_WHOLE_CLASSES else ""
        guess = f"did you mean {near[0]}? It has" if near else "it has"
        raise ScaffoldError(f"{request.title} has no column {requested!r}: {guess} {shown}{more}")
    column = by_header[requested]
    labels = column.rows - column.missing
    if labels < FEWEST_ROWS:
        counted = "1 row" if labels == 1 else f"{labels} rows"
        raise ScaffoldError(
            f"{request.title} has {counted} with a {requested}, and a model needs {FEWEST_ROWS} at "
            "least, to learn from and to be evaluated on"
        )
    if column.is_constant:
        raise ScaffoldError(
            f"{requested} of {request.title} has the same value in every row, so there is nothing "
            "to learn"
        )
    return column


def infer_task(column: ColumnProfile, request: ModelRequest) -> tuple[Task, str, DType]:
    """Return the task, its reason, and the labels' type; ScaffoldError if none fits."""
    type_ = _label_type(column)
    if request.task is not None:
        return _requested_task(column, request.task, type_, request.title)
    if type_ is DType.BYTES and column.is_in_other_notation:
        raise ScaffoldError(
            f"{column.header} of {request.title} has numbers or dates as they are not read: write "
            "numbers as 1234.5, or say TASK=multiclass where each is a class"
        )
    if type_ is DType.BYTES and column.stray:
        raise ScaffoldError(f"{column.header} of {request.title}: {column.stray}")
    if type_ is DType.BOOL:
        return Task.BINARY, "true or false", type_
    if type_ is DType.FP64:
        return Task.REGRESSION, f"numbers, {column.distinct:,} different ones", type_
    whole = type_ is DType.INT64
    distinct = column.distinct_integers if whole else column.distinct
    kind = "whole numbers" if whole else "texts"
    if distinct == 2:
        return Task.BINARY, f"two different {kind}", type_
    most = _MOST_WHOLE_CLASSES if whole else _MOST_CLASSES
    if distinct <= min(most, column.texts // _FEWEST_PER_CLASS):
        hint = "; for a quantity say TASK=regression" if whole else ""
        return Task.MULTICLASS, f"{distinct} different {kind}{hint}", type_
    if whole:
        return Task.REGRESSION, f"{distinct:,} different whole numbers", DType.FP64
    raise ScaffoldError(
        f"{column.header} of {request.title} is neither a number nor a class: it has "
        f"{distinct:,} different texts in {column.texts:,} rows"
    )


def _label_type(column: ColumnProfile) -> DType:
    if column.infinite:
        raise ScaffoldError(f"{column.header} has infinite values, which no model can learn")
    if column.is_time:
        raise ScaffoldError(
            f"{column.header} has times, and a model predicts a class or a number: add a column "
            "with one of these, such as the days until then"
        )
    if column.is_whole:
        return DType.INT64
    if column.zero_led:
        return DType.BYTES
    if column.fits(BOOLEAN):
        return DType.BOOL
    if column.fits(NUMBER):
        return DType.FP64
    if column.fits(TEXT):
        return DType.BYTES
    raise ScaffoldError(
        f"{column.header} has the type {column.source_type}, which is neither a class nor a number"
    )


def _requested_task(
    column: ColumnProfile, requested: str, type_: DType, title: str
) -> tuple[Task, str, DType]:
    try:
        task = Task(requested)
    except ValueError:
        known = ", ".join(Task)
        raise ScaffoldError(f"{requested!r} is not a task: give one of {known}") from None
    if task is Task.REGRESSION and not column.fits(NUMBER):
        raise ScaffoldError(
            f"{column.header} of {title} has values that are not numbers, so there is no "
            "regression of it"
        )
    if task is not Task.REGRESSION and type_ is DType.FP64:
        type_ = DType.INT64 if column.fits(INTEGER) else DType.BYTES
        if not column.fits(INTEGER) and column.source_type != "VARCHAR":
            raise ScaffoldError(f"{column.header} of {title} has fractions, which are not classes")
    return task, "as asked", DType.FP64 if task is Task.REGRESSION else type_


def describe_target(column: ColumnProfile, type_: DType) -> tuple[Target, str]:
    """Return the target for the model file, and the reason."""
    target = Target(
        column.header if column.header.casefold() != "event_timestamp" else "target",
        type_,
        drop_missing=column.missing > 0,
    )
    if target.name != column.header:
        target = replace(target, source_column=column.header)
    if not column.missing:
        return target, "as asked; every row has it"
    return target, f"as asked; {column.missing:,} of {column.rows:,} rows have none"
