"""What rows have to be before a model may learn from them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from platform_assets.features.reading import read_source
from platform_assets.features.source import SourceError
from platform_assets.features.sources.reader import SourceTable
from platform_assets.model_spec import (
    Evaluation,
    FeatureSpec,
    JoinKey,
    ModelSpec,
    Source,
    Split,
    Target,
    Task,
)
from platform_assets.resources.source import SourceResource
from serving_gateway.contract import DType
from tests.support.feature_chain import MIXED, mixed_lines

Change = Callable[[list[str]], list[str]]
NUMBERED = JoinKey(row_number="customer")


def _read(
    path: Path, spec: ModelSpec = MIXED, change: Change = list, rows: int = 40
) -> SourceTable:
    source = path / "source.csv"
    source.write_text("\n".join(change(mixed_lines(rows))) + "\n", encoding="utf-8")
    spec = dataclasses.replace(spec, source=Source(str(source)))
    return read_source(spec, SourceResource())


def _column(index: int, value: Callable[[int, str], str]) -> Change:
    def change(lines: list[str]) -> list[str]:
        rows = [line.split(",") for line in lines]
        for number, row in enumerate(rows[1:]):
            row[index] = value(number, row[index])
        return [",".join(row) for row in rows]

    return change


def _last(value: str, index: int = 10) -> Change:
    return _column(index, lambda number, old: value if number == 39 else old)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (_column(2, lambda *_: ""), r"has no value at all in income"),
        (_last("", 0), r"empty values \(customer: 1, first in row 40\)"),
        (_last("", 1), r"empty values \(seen: 1, first in row 40\)"),
        (_last("", 8), r"empty values \(region: 1, first in row 40\)"),
        (_last("", 10), r"empty values \(paid: 1, first in row 40\)"),
        (_last("1601-01-01T00:00:00Z", 1), r"times before 1678 .*\(seen: 1, first in row 40\)"),
        (_last("9999-12-31T00:00:00Z", 1), r"or from 2262, .*\(seen: 1, first in row 40\)"),
        (_last("inf", 2), r"infinite, .*\(income: 1, first in row 40\)"),
        (_column(10, lambda *_: "yes"), r"the same paid in every row \('yes'\)"),
        (_last("perhaps"), r"has 3 classes in paid \(no, perhaps, yes\), and a binary model"),
        (_column(10, lambda n, _: "yes" if n > 3 else "no"), "class no: 4 rows of 2 entities"),
    ],
)
def test_rows_that_teach_nothing_or_wrongly_are_named(
    tmp_path: Path, change: Change, said: str
) -> None:
    with pytest.raises(SourceError, match=said) as caught:
        _read(tmp_path, change=change)
    assert "run again" in caught.value.todo


def test_a_quotation_mark_that_is_not_closed_swallows_no_rows(tmp_path: Path) -> None:
    def opened(lines: list[str]) -> list[str]:
        # In the last column, so that each line but one goes on having as many values.
        return [f"{line},{mark}x" for line, mark in zip(lines, _marks(lines), strict=True)]

    def _marks(lines: list[str]) -> list[str]:
        return ['"' if number == 33 else "" for number in range(len(lines))]

    with pytest.raises(
        SourceError, match=r"row 33 \(line 34\) has a quotation mark that is not closed"
    ):
        _read(tmp_path, change=opened)
    inside = _read(tmp_path, change=lambda lines: [f'{line},5" x' for line in lines])
    assert inside.table.num_rows == 40


def test_a_text_feature_of_a_thousand_values_is_the_most(tmp_path: Path) -> None:
    spec = dataclasses.replace(MIXED, join_key=NUMBERED)

    def texts(different: int) -> Change:
        return _column(8, lambda number, _: f"text {number % different}")

    assert _read(tmp_path, spec, texts(1000), rows=1100).table.num_rows == 1100
    with pytest.raises(SourceError, match=r"1,001 different texts in region.* an identifier"):
        _read(tmp_path, spec, texts(1001), rows=1100)
    limits: list[dict[str, Any]] = [
        {"min_frequency": 5},
        {"max_categories": 9},
        {"encoding": "target"},
    ]
    for options in limits:
        features = tuple(
            dataclasses.replace(one, **options) if one.name == "region" else one
            for one in spec.features
        )
        grouped = dataclasses.replace(spec, features=features)
        assert _read(tmp_path, grouped, texts(1001), rows=1100).table.num_rows == 1100


def test_rows_without_a_label_are_features_where_that_is_wanted(tmp_path: Path) -> None:
    spec = dataclasses.replace(MIXED, target=Target("paid", drop_missing=True))
    gaps = _column(10, lambda number, old: "" if number in {3, 4} else old)
    assert _read(tmp_path, spec, gaps).table["paid"].null_count == 2
    without = dataclasses.replace(spec, target=Target("paid"))
    with pytest.raises(SourceError, match=r"paid: 2, first in row 4\)"):
        _read(tmp_path, without, gaps)
    with pytest.raises(SourceError, match=r"region: 1, first in row 40\)"):
        _read(tmp_path, spec, lambda lines: _last("", 8)(gaps(lines)))
    with pytest.raises(SourceError, match="has no row with a paid"):
        _read(tmp_path, spec, _column(10, lambda *_: ""))
    useless = _column(2, lambda number, old: old if number in {3, 4} else "")
    assert _read(tmp_path, spec, useless).table["income"].null_count == 38
    with pytest.raises(SourceError, match="no value at all in income in its rows with a label"):
        _read(tmp_path, spec, lambda lines: useless(gaps(lines)))


def test_classes_that_were_named_are_all_that_there_may_be(tmp_path: Path) -> None:
    spec = dataclasses.replace(MIXED, target=Target("paid", classes=("yes", "no")))
    assert _read(tmp_path, spec).classes == ("yes", "no")
    with pytest.raises(
        SourceError, match=r"unknown classes in \w+ \(perhaps\), first in row 40: loans"
    ):
        _read(tmp_path, spec, _last("perhaps"))


@pytest.mark.parametrize(
    ("dtype", "cells", "classes"),
    [
        (DType.BOOL, ("true", "0"), (False, True)),
        (DType.INT64, ("10", "9"), (9, 10)),
        (DType.BYTES, ("10", "9"), ("10", "9")),
    ],
)
def test_classes_keep_their_type(
    tmp_path: Path, dtype: DType, cells: tuple[str, str], classes: tuple[object, ...]
) -> None:
    spec = dataclasses.replace(MIXED, target=Target("paid", dtype))
    found = _read(tmp_path, spec, _column(10, lambda number, _: cells[number // 2 % 2]))
    assert found.classes == classes


def test_a_regression_has_finite_numbers_that_differ(tmp_path: Path) -> None:
    spec = dataclasses.replace(
        MIXED,
        task=Task.REGRESSION,
        target=Target("paid", DType.FP64),
        candidates=(),
        evaluation=Evaluation(),
    )
    numbers = _column(10, lambda number, _: str(number))
    assert _read(tmp_path, spec, numbers).classes == ()
    with pytest.raises(SourceError, match=r"infinite, .*paid: 1, first in row 40"):
        _read(tmp_path, spec, lambda lines: _last("inf")(numbers(lines)))
    with pytest.raises(SourceError, match=r"the same paid in every row \(1.0\)"):
        _read(tmp_path, spec, _column(10, lambda *_: "1"))
    relative = dataclasses.replace(spec, evaluation=Evaluation("mean_absolute_percentage_error"))
    with pytest.raises(SourceError, match=r"targets of 0, .*paid: 1, first in row 1"):
        _read(tmp_path, relative, numbers)


def test_one_entity_is_enough_where_the_newest_rows_are_held_out(tmp_path: Path) -> None:
    def one_customer(lines: list[str]) -> list[str]:
        timed = _column(1, lambda number, _: f"2024-01-01 12:{number:02d}:00")(lines)
        return _column(0, lambda *_: "c")(timed)

    with pytest.raises(SourceError, match="class no: 20 rows of 1 entity; class yes"):
        _read(tmp_path, change=one_customer)
    spec = dataclasses.replace(MIXED, evaluation=Evaluation(split=Split.TIME))
    assert _read(tmp_path, spec, one_customer).table.num_rows == 40


def test_without_times_an_entity_has_one_row(tmp_path: Path) -> None:
    spec = dataclasses.replace(MIXED, event_time=None)
    with pytest.raises(SourceError, match=r"customer c-\d+ occurs 2 times \(row") as caught:
        _read(tmp_path, spec)
    assert "name the time of a row" in caught.value.todo
    numbered = _read(tmp_path, dataclasses.replace(spec, join_key=NUMBERED))
    assert numbered.table["customer"].to_pylist() == list(range(1, 41))


def test_progress_is_reported_while_many_rows_are_read(tmp_path: Path) -> None:
    said: list[str] = []
    monitored = dataclasses.replace(
        MIXED,
        features=(FeatureSpec("x"),),
        join_key=NUMBERED,
        event_time=None,
        target=Target("y", DType.BOOL),
        source=Source(str(tmp_path / "a.csv")),
    )
    with (tmp_path / "a.csv").open("w") as file:
        file.write("x,y\n")
        file.writelines(f"{number},{number % 2}\n" for number in range(200_000))
    from platform_assets.features.sources.reader import Progress

    progress = Progress(said.append, every_s=0)
    from platform_assets.features.source import open_source

    raw = open_source(monitored, SourceResource()).read(progress)
    assert raw.table.num_rows == 200_000
    assert len(said) > 1
    assert said[-1] == "reading a.csv: 200,000 rows"
