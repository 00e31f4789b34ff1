"""Read and validate the source file: everything that is wrong is named, with its row."""

from __future__ import annotations

import csv
import itertools
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from platform_assets.features.source import SourceError, source_fingerprint
from platform_assets.features.spec import ModelSpec
from serving_gateway.contract import DType

if TYPE_CHECKING:
    import pyarrow as pa

SHOWN_PROBLEMS: Final = 5
_FIX: Final = "correct the source file and run again"
_WORDS: Final = {
    DType.FP32: "a number",
    DType.FP64: "a number",
    DType.INT64: "a whole number",
    DType.BOOL: "true or false",
    DType.BYTES: "text",
}
_NULLS: Final = frozenset(
    '"" #N/A #NA -1.#IND -1.#QNAN -NaN -nan 1.#IND 1.#QNAN N/A NA NULL NaN n/a nan null'.replace(
        '""', ""
    ).split(" ")
)


def read_source(path: Path, spec: ModelSpec) -> tuple[pa.Table, str]:
    """Read a CSV source and validate it.

    Returns:
        The rows, with exactly `spec.columns` in that order (the join key int64, the event
        timestamp in UTC microseconds, features in their declared types, the target int64),
        and the fingerprint of the bytes that they came from.

    Raises:
        SourceError: the file is missing, empty, not UTF-8, has other columns, a value of
            another type, a null, an entity twice at one time, an unknown or too rare class,
            or it changed while it was read.
    """
    fingerprint = source_fingerprint(path)
    _check_header(path, spec)
    table = _parse(path, spec).select(list(spec.columns))
    if source_fingerprint(path) != fingerprint:
        raise SourceError(
            f"the source file {path} changed while it was read",
            "run again; writers of the file should write a new one beside it and rename it",
        )
    _check_rows(table, path, spec)
    _check_classes(table, path, spec)
    return table, fingerprint


def _check_header(path: Path, spec: ModelSpec) -> None:
    header = _header(path)
    missing = [name for name in spec.columns if name not in header]
    extra = [name for name in header if name not in spec.columns]
    twice = sorted({name for name in header if header.count(name) > 1})
    said = [
        f"{word} {names}"
        for word, names in (("lacks", missing), ("has unknown", extra), ("repeats", twice))
        if names
    ]
    if said:
        raise SourceError(
            f"the source file {path} {' and '.join(said)} in its header",
            f"give it exactly the columns {', '.join(spec.columns)}, in any order, and run again",
        )


def _header(path: Path) -> list[str]:
    for _, cells in _rows(path):
        return cells
    raise SourceError(
        f"the source file {path} is empty", "write a header line and rows to it, and run again"
    )


def _rows(path: Path) -> Iterator[tuple[int, list[str]]]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file)
            for cells in reader:
                if cells:
                    yield reader.line_num, cells
    except UnicodeDecodeError as exc:
        raise SourceError(
            f"the source file {path} is not UTF-8 text: line {_line_not_utf8(path)} holds "
            f"other bytes",
            "save the file as UTF-8 and run again",
        ) from exc
    except csv.Error as exc:
        raise SourceError(f"the source file {path} is no CSV: {exc}", _FIX) from exc


def _line_not_utf8(path: Path) -> int:
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            try:
                line.decode("utf-8")
            except UnicodeDecodeError:
                return number
    return 0


def _parse(path: Path, spec: ModelSpec) -> pa.Table:
    import pyarrow as pa
    from pyarrow import csv as pa_csv

    types = {
        spec.join_key: pa.int64(),
        spec.event_timestamp: pa.timestamp("us", tz="UTC"),
        spec.target: pa.int64(),
        **{feature.name: _arrow_type(feature.dtype) for feature in spec.features},
    }
    options = pa_csv.ConvertOptions(
        column_types=types, null_values=sorted(_NULLS), strings_can_be_null=True
    )
    try:
        return pa_csv.read_csv(path, convert_options=options)
    except pa.ArrowInvalid as exc:
        # The fast parser stops at its first complaint, in its own words. Read again slowly,
        # to say which rows are wrong and how.
        raise SourceError(_problems(path, spec) or f"the source file {path}: {exc}", _FIX) from exc


def _arrow_type(dtype: DType) -> pa.DataType:
    import pyarrow as pa

    return {
        DType.FP32: pa.float32(),
        DType.FP64: pa.float64(),
        DType.INT64: pa.int64(),
        DType.BOOL: pa.bool_(),
        DType.BYTES: pa.string(),
    }[dtype]


def _problems(path: Path, spec: ModelSpec) -> str:
    found = list(itertools.islice(_each_problem(path, spec), SHOWN_PROBLEMS + 1))
    if not found:
        return ""
    more = "; and more" if len(found) > SHOWN_PROBLEMS else ""
    return f"the source file {path} has wrong values: {'; '.join(found[:SHOWN_PROBLEMS])}{more}"


def _each_problem(path: Path, spec: ModelSpec) -> Iterator[str]:
    parsers = _parsers(spec)
    rows = _rows(path)
    _, header = next(rows)
    for row, (line, cells) in enumerate(rows, start=1):
        if len(cells) != len(header):
            yield f"row {row} (line {line}) has {len(cells)} values, not {len(header)}"
            continue
        for name, cell in zip(header, cells, strict=True):
            word, parse = parsers[name]
            if cell in _NULLS:
                continue
            try:
                parse(cell)
            except (ValueError, OverflowError):
                yield f"row {row} (line {line}), {name}: {cell[:40]!r} is not {word}"


def _parsers(spec: ModelSpec) -> dict[str, tuple[str, Callable[[str], Any]]]:
    by_type: dict[DType, Callable[[str], Any]] = {
        DType.FP32: _number,
        DType.FP64: _number,
        DType.INT64: _whole,
        DType.BOOL: _truth,
        DType.BYTES: str,
    }
    parsers = {f.name: (_WORDS[f.dtype], by_type[f.dtype]) for f in spec.features}
    parsers[spec.join_key] = parsers[spec.target] = ("a whole number", _whole)
    parsers[spec.event_timestamp] = (
        "a time with its offset, such as 2024-03-01T00:00:00Z",
        _time,
    )
    return parsers


def _number(text: str) -> float:
    if "_" in text:
        raise ValueError(text)
    return float(text)


def _whole(text: str) -> int:
    number = int(text)
    if "_" in text or not -(2**63) <= number < 2**63:
        raise ValueError(text)
    return number


def _truth(text: str) -> bool:
    if text.lower() not in {"true", "false", "0", "1"}:
        raise ValueError(text)
    return text.lower() in {"true", "1"}


def _time(text: str) -> datetime:
    value = datetime.fromisoformat(text)
    if value.tzinfo is None:
        raise ValueError(text)
    return value


def _check_rows(table: pa.Table, path: Path, spec: ModelSpec) -> None:
    if table.num_rows == 0:
        raise SourceError(
            f"the source file {path} has a header and no rows", "add rows to it and run again"
        )
    nulls = {name: table[name].null_count for name in spec.columns if table[name].null_count}
    if nulls:
        first = {name: _first_null(table[name]) for name in nulls}
        said = (f"{name}: {count}, first in row {first[name]}" for name, count in nulls.items())
        raise SourceError(f"the source file {path} has empty values ({'; '.join(said)})", _FIX)
    keys = table.select([spec.join_key, spec.event_timestamp])
    counted = keys.group_by([spec.join_key, spec.event_timestamp]).aggregate([([], "count_all")])
    if counted.num_rows < table.num_rows:
        import pyarrow.compute as pc

        twice = counted.filter(pc.greater(counted["count_all"], 1)).slice(0, 1).to_pylist()[0]
        raise SourceError(
            f"the source file {path} has {table.num_rows - counted.num_rows} rows too many: "
            f"{spec.join_key} {twice[spec.join_key]} stands there {twice['count_all']} times "
            f"at {twice[spec.event_timestamp].isoformat()}",
            "keep one row per entity and time, and run again",
        )


def _first_null(column: pa.ChunkedArray) -> int:
    import pyarrow.compute as pc

    return int(pc.index(column.is_null(), True).as_py()) + 1


def _check_classes(table: pa.Table, path: Path, spec: ModelSpec) -> None:
    grouped = table.group_by(spec.target).aggregate(
        [(spec.join_key, "count"), (spec.join_key, "count_distinct")]
    )
    entities = {
        row[spec.target]: row[f"{spec.join_key}_count_distinct"] for row in grouped.to_pylist()
    }
    rows = {row[spec.target]: row[f"{spec.join_key}_count"] for row in grouped.to_pylist()}
    if unknown := sorted(set(rows) - set(spec.classes)):
        raise SourceError(
            f"the source file {path} has unknown classes {unknown[:SHOWN_PROBLEMS]} in "
            f"{spec.target}: {spec.model_name} knows {list(spec.classes)}",
            _FIX,
        )
    needed = spec.training.entities_per_class
    rare = [label for label in spec.classes if entities.get(label, 0) < needed]
    if rare:
        said = "; ".join(
            f"class {label}: {_count(rows.get(label, 0), 'row', 'rows')} of "
            f"{_count(entities.get(label, 0), 'entity', 'entities')}"
            for label in rare
        )
        raise SourceError(
            f"the source file {path} has too few rows of a class ({said}), so there is nothing "
            f"to learn it from and to test it with",
            f"give each class at least {needed} different values of {spec.join_key} (one is "
            f"held out for the evaluation, cross-validation needs two), and run again",
        )


def _count(number: int, one: str, many: str) -> str:
    return f"{number} {one if number == 1 else many}"
