"""Read files that gateways write, merge and delete meanwhile, and set unreadable ones aside.

A file that is broken, or has a column of another type, would otherwise fail each join from then on.
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
"""DuckDB's type for what a column holds, and pyarrow's tests of the type that a file gives it."""
PREDICTIONS: Final[Mapping[str, str]] = {
    **dict.fromkeys((LOG_ID, LOG_ENTITY, LOG_PREDICTION, LOG_B_PREDICTION), _TEXT),
    **dict.fromkeys((LOG_ROW, LOG_VERSION, LOG_B_VERSION), _WHOLE),
    **dict.fromkeys((LOG_SCORE, LOG_B_SCORE), _NUMBER),
    LOG_TIME: _TIME,
    LOG_PROBABILITIES: _LIST,
}
"""What the columns hold by which files are joined."""
OUTCOMES: Final[Mapping[str, str]] = {
    **dict.fromkeys((OUTCOME_ID, OUTCOME_VALUE, "entity"), _TEXT),
    **dict.fromkeys((OUTCOME_ROW, "known_at", "number"), _WHOLE),
    OUTCOME_RECEIVED: _TIME,
}
"""The same of outcomes that clients sent, and of the copy of a source's."""

_T = TypeVar("_T")


def scan(paths: Sequence[str], columns: Mapping[str, str]) -> str:
    """Write in SQL all rows of Parquet files; of no files none, with `columns`."""
    if not paths:
        nothing = ", ".join(f"NULL::{_KINDS[kind][0]} AS {name}" for name, kind in columns.items())
        return f"SELECT {nothing} WHERE false"
    listed = ", ".join(quoted(glob.escape(path)) for path in paths)
    options = "union_by_name = true, hive_partitioning = false"
    return f"SELECT * FROM read_parquet([{listed}], {options})"  # noqa: S608 -- quoted paths


def read_files(list_files: Callable[[], list[str]], read: Callable[[], _T]) -> _T:
    """Return what `read` does, which lists its files anew each time.

    Where it fails, those of `list_files` that cannot be used are set aside, and it is repeated.

    Raises:
        duckdb.Error: it fails for another reason.
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
    """Rename a file that cannot be used, so that no reader meets it again; whether it was one.

    It is deleted with the others of its day.
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
    """Say why a file cannot be used; None when it can, or when the disk is at fault."""
    from pyarrow import ArrowException, parquet

    kinds = OUTCOMES if OUTCOMES_FOLDER in path.parts[-3:] else PREDICTIONS
    try:
        with path.open("rb") as handle:
            file = parquet.ParquetFile(handle)
            table = file.read(columns=[one for one in file.schema_arrow.names if one in kinds])
    except (ArrowException, OSError) as error:
        # Only what the operating system reports has a number.
        is_of_the_disk = isinstance(error, OSError) and error.errno is not None
        return None if is_of_the_disk else " ".join(str(error).split())
    for field in table.schema:
        if not _holds(field.type, kinds[field.name]):
            return f"column {field.name} holds {field.type}, not {kinds[field.name]}"
    return None


def _holds(found: pa.DataType, kind: str) -> bool:
    import pyarrow as pa

    if pa.types.is_dictionary(found):
        found = found.value_type
    return any(getattr(pa.types, test)(found) for test in ("is_null", *_KINDS[kind][1]))
