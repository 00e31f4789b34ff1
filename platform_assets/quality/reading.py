"""Read files while gateways write, merge and delete them, and set unreadable ones aside.

A file that is broken, or has a column of another type, would otherwise fail every later join.
"""

from __future__ import annotations

import glob
import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeVar

from platform_assets.features.sources.casting import quoted
from serving_gateway.contract import (
    LOG_B_PREDICTION,
    LOG_B_SCORE,
    LOG_B_VERSION,
    LOG_ENTITY,
    LOG_ID,
    LOG_PREDICTION,
    LOG_PROBABILITIES,
    LOG_ROW,
    LOG_SCORE,
    LOG_TIME,
    LOG_VERSION,
    OUTCOME_ID,
    OUTCOME_RECEIVED,
    OUTCOME_ROW,
    OUTCOME_VALUE,
    OUTCOMES_FOLDER,
    UNREADABLE_SUFFIX,
)

if TYPE_CHECKING:
    import pyarrow as pa

log = logging.getLogger(__name__)

_ATTEMPTS: Final = 3
"""Files may be merged or rotated away between listing and reading them."""
_TEXT, _WHOLE, _NUMBER, _TIME, _LIST = "text", "whole numbers", "numbers", "times", "lists"
_KINDS: Final[Mapping[str, tuple[str, tuple[str, ...]]]] = {
    _TEXT: ("VARCHAR", ("is_string", "is_large_string")),
    _WHOLE: ("BIGINT", ("is_integer",)),
    _NUMBER: ("DOUBLE", ("is_floating", "is_integer")),
    _TIME: ("TIMESTAMPTZ", ("is_timestamp",)),
    _LIST: ("DOUBLE[]", ("is_list", "is_large_list")),
}
"""DuckDB's type by kind of column, and pyarrow's tests of the type in a file."""
PREDICTIONS: Final[Mapping[str, str]] = {
    **dict.fromkeys((LOG_ID, LOG_ENTITY, LOG_PREDICTION, LOG_B_PREDICTION), _TEXT),
    **dict.fromkeys((LOG_ROW, LOG_VERSION, LOG_B_VERSION), _WHOLE),
    **dict.fromkeys((LOG_SCORE, LOG_B_SCORE), _NUMBER),
    LOG_TIME: _TIME,
    LOG_PROBABILITIES: _LIST,
}
"""Kinds of the columns of predictions that are used in joins."""
OUTCOMES: Final[Mapping[str, str]] = {
    **dict.fromkeys((OUTCOME_ID, OUTCOME_VALUE, "entity"), _TEXT),
    **dict.fromkeys((OUTCOME_ROW, "known_at", "number"), _WHOLE),
    OUTCOME_RECEIVED: _TIME,
}
"""The same for outcomes sent by clients, and for the copy of a source's."""

_T = TypeVar("_T")


def scan(paths: Sequence[str], columns: Mapping[str, str]) -> str:
    """Return SQL for all rows of Parquet files; without files, for no rows with `columns`."""
    if not paths:
        nothing = ", ".join(f"NULL::{_KINDS[kind][0]} AS {name}" for name, kind in columns.items())
        return f"SELECT {nothing} WHERE false"
    listed = ", ".join(quoted(glob.escape(path)) for path in paths)
    options = "union_by_name = true, hive_partitioning = false"
    return f"SELECT * FROM read_parquet([{listed}], {options})"  # noqa: S608 -- quoted paths


def read_files(list_files: Callable[[], list[str]], read: Callable[[], _T]) -> _T:
    """Return the result of `read`, which lists its files anew each time.

    If it fails, the unusable ones of `list_files` are set aside, and it is repeated.

    Raises:
        duckdb.Error: `read` fails for another reason.
    """
    import duckdb

    for _ in range(_ATTEMPTS - 1):
        try:
            return read()
        except duckdb.Error as error:
            is_aside = [set_aside(Path(path)) for path in list_files()]
            if not any(is_aside) and not isinstance(error, duckdb.IOException):
                raise
    return read()


def set_aside(path: Path) -> bool:
    """Rename a file if it is unusable, to hide it from readers; return whether it was.

    It is deleted with the other files of its day.
    """
    problem = find_problem(path)
    if problem is None:
        return False
    aside = path.with_name(f"{path.name}{UNREADABLE_SUFFIX}")
    with suppress(FileNotFoundError):
        try:
            path.rename(aside)
        except OSError as error:
            log.warning("%s cannot be used (%s), nor be set aside: %s", path, problem, error)
            return False
    log.warning(
        "%s cannot be used: %s. It was renamed to %s, and its rows are missing in what is measured",
        *(path, problem, aside.name),
    )
    return True


def find_problem(path: Path) -> str | None:
    """Say why a file is unusable; None if it is usable, or the disk is at fault."""
    from pyarrow import ArrowException, parquet

    kinds = OUTCOMES if OUTCOMES_FOLDER in path.parts[-3:] else PREDICTIONS
    try:
        with path.open("rb") as handle:
            file = parquet.ParquetFile(handle)
            table = file.read(columns=[name for name in file.schema_arrow.names if name in kinds])
    except (ArrowException, OSError) as error:
        # Only errors from the operating system have a number.
        is_of_the_disk = isinstance(error, OSError) and error.errno is not None
        return None if is_of_the_disk else " ".join(str(error).split())
    for field in table.schema:
        if not _holds(field.type, kinds[field.name]):
            return f"column {field.name} holds {field.type}, not {kinds[field.name]}"
    return None


def _holds(arrow_type: pa.DataType, kind: str) -> bool:
    import pyarrow as pa

    if pa.types.is_dictionary(arrow_type):
        arrow_type = arrow_type.value_type
    return any(getattr(pa.types, test)(arrow_type) for test in ("is_null", *_KINDS[kind][1]))
