"""The source file: what is accepted, and what is said about what is not."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from platform_assets.features.reading import read_source as read_any
from platform_assets.features.sample_data import write_iris_source
from platform_assets.features.source import SourceError, source_fingerprint
from platform_assets.features.sources.builder import TableBuilder
from platform_assets.features.sources.csv_file import CsvFile
from platform_assets.features.sources.reader import SourceTable
from platform_assets.model_spec import ModelSpec, Source, Target, Task
from platform_assets.resources.source import SourceResource
from tests.support.models import IRIS

Lines = list[str]
HEADER = "entity_id,event_timestamp,sepal_length,sepal_width,petal_length,petal_width,species"


def read_source(path: Path, spec: ModelSpec) -> SourceTable:
    return read_any(dataclasses.replace(spec, source=Source(str(path))), SourceResource())


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "iris.csv"
    write_iris_source(path)
    return path


def _edit(path: Path, change: Callable[[Lines], Lines]) -> None:
    path.write_text("\n".join(change(path.read_text().splitlines())) + "\n")


def _cell(row: int, column: int, text: str) -> Callable[[Lines], Lines]:
    def change(lines: Lines) -> Lines:
        cells = lines[row].split(",")
        cells[column] = text
        return [*lines[:row], ",".join(cells), *lines[row + 1 :]]

    return change


def _without_column(lines: Lines) -> Lines:
    return [line.rsplit(",", 2)[0] + "," + line.rsplit(",", 1)[1] for line in lines]


def _separated_by(mark: str) -> Callable[[Lines], Lines]:
    return lambda lines: [line.replace(",", mark) for line in lines]


def _last_class(keep: int) -> Callable[[Lines], Lines]:
    def change(lines: Lines) -> Lines:
        others = [line for line in lines if not line.endswith(",virginica")]
        return others + [line for line in lines if line.endswith(",virginica")][:keep]

    return change


def test_a_sound_source_is_read_with_declared_types_and_its_fingerprint(source: Path) -> None:
    found = read_source(source, IRIS)
    table = found.table
    assert ",".join(table.column_names) == HEADER
    assert table.num_rows == 450
    assert [str(one) for one in table.schema.types] == [
        "int64",
        "timestamp[us, tz=UTC]",
        *["float"] * 4,
        "string",
    ]
    spec = dataclasses.replace(IRIS, source=Source(str(source)))
    assert found.fingerprint == source_fingerprint(spec, SourceResource())
    assert found.name == f"the source file {source}"
    assert found.classes == ("setosa", "versicolor", "virginica")
    assert (found.ignored, found.warnings) == ((), ())


def test_columns_in_another_order_behind_a_byte_order_mark_are_the_same_rows(
    source: Path,
) -> None:
    expected = read_source(source, IRIS).table
    order = random.Random(3).sample(range(7), 7)
    rows = [line.split(",") for line in source.read_text().splitlines()]
    text = "\n".join(",".join(row[index] for index in order) for row in rows)
    source.write_bytes(b"\xef\xbb\xbf" + text.encode())
    assert read_source(source, IRIS).table.equals(expected)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (_without_column, r"lacks petal_width in its columns"),
        (lambda lines: [f"{line},{line.split(',')[2]}" for line in lines], "repeats"),
        (_cell(7, 2, "wide"), r"row 7 \(line 8\), sepal_length: 'wide' is not a number"),
        (_cell(3, 1, "yesterday"), r"row 3 .* event_timestamp: 'yesterday' is not a time"),
        (_cell(9, 6, "2,1"), r"row 9 \(line 10\) has 8 values, not 7"),
        (_cell(12, 4, ""), r"empty values \(petal_length: 1, first in row 12\)"),
        (_cell(12, 4, "inf"), r"infinite, .*\(petal_length: 1, first in row 12\)"),
        (_cell(12, 4, "1e39"), r"too large for their type \(petal_length: 1, first in row 12\)"),
        (_cell(12, 4, "NaN"), r"empty values \(petal_length: 1, first in row 12\)"),
        (
            _cell(5, 6, "7"),
            r"unknown classes in species \(7\), first in row 5: best_model knows setosa, ver",
        ),
        (
            lambda lines: [*lines, lines[-1]],
            r"has 1 row too many: entity_id 150 occurs 2 times .*\(row 450, row 451\)",
        ),
        (lambda lines: lines[:1], "has columns and no rows"),
        (lambda _: [], "is empty"),
        (_separated_by("~"), r"lacks entity_id, .*: it has entity_id~event_timestamp~"),
        (_last_class(1), r"class virginica: 1 row of 1 entity"),
        (_last_class(0), r"class virginica: 0 rows of 0 entities"),
    ],
)
def test_what_is_wrong_is_named(source: Path, change: Callable[[Lines], Lines], said: str) -> None:
    _edit(source, change)
    with pytest.raises(SourceError, match=said) as caught:
        read_source(source, IRIS)
    assert str(source) in str(caught.value)
    assert "run again" in caught.value.todo


def _coded(codes: Sequence[str]) -> Callable[[Lines], Lines]:
    """Write codes instead of the names of the species."""
    names = ("setosa", "versicolor", "virginica")
    by_name = dict(zip(names, codes, strict=True))

    def change(lines: Lines) -> Lines:
        rows = (line.rsplit(",", 1) for line in lines[1:])
        return [lines[0], *(f"{rest},{by_name[name]}" for rest, name in rows)]

    return change


CODED = dataclasses.replace(
    IRIS, target=Target("species", classes=(7, 0, -1), class_names=("z", "virginica", "a"))
)
"""Codes that have names, neither of them sorted."""


def test_classes_with_names_go_by_them_in_the_order_of_the_codes(source: Path) -> None:
    names = read_source(source, IRIS).table["species"].to_pylist()
    _edit(source, _coded(("-1", "7", "0")))
    found = read_source(source, CODED)
    words = {"setosa": "a", "versicolor": "z", "virginica": "virginica"}
    assert found.classes == ("z", "virginica", "a")
    assert found.table["species"].to_pylist() == [words[one] for one in names]
    assert found.table.schema.field("species").type == "string"


def test_names_of_two_truth_values_replace_them_and_missing_labels_stay_missing(
    source: Path,
) -> None:
    _edit(source, _coded(("true", "false", "")))
    target = Target("species", classes=(True, False), class_names=("y", "n"), drop_missing=True)
    found = read_source(source, dataclasses.replace(IRIS, task=Task.BINARY, target=target))
    assert found.classes == ("y", "n")
    assert found.table["species"].to_pylist()[::50] == [*("y", "n", None)] * 3


def test_a_code_that_is_not_whole_or_not_a_class_is_named(source: Path) -> None:
    _edit(source, _coded(("-1", "7", "0")))
    _edit(source, _cell(450, 6, "1.5"))
    with pytest.raises(SourceError, match=r"row 450 \(line 451\), species: '1.5' is not a whole"):
        read_source(source, CODED)
    _edit(source, _cell(450, 6, "3"))
    with pytest.raises(
        SourceError, match=r"classes in species \(3\), first in row 450: .* 7, 0, -1"
    ):
        read_source(source, CODED)


@pytest.mark.parametrize("mark", [";", "\t", "|"])
def test_another_separator_is_found_or_said(source: Path, mark: str) -> None:
    expected = read_source(source, IRIS).table
    _edit(source, _separated_by(mark))
    assert read_source(source, IRIS).table.equals(expected)
    spec = dataclasses.replace(IRIS, source=Source(str(source), separator="~"))
    with pytest.raises(SourceError, match="lacks entity_id"):
        read_any(spec, SourceResource())
    _edit(source, lambda lines: [line.replace(mark, "~") for line in lines])
    assert read_any(spec, SourceResource()).table.equals(expected)


def test_many_wrong_values_are_listed_up_to_a_limit(source: Path) -> None:
    _edit(source, lambda lines: [lines[0], *(line.replace(".", "x") for line in lines[1:])])
    with pytest.raises(SourceError, match=r"row 1 .*; row 1 .*; and 1,790 more"):
        read_source(source, IRIS)


def test_times_without_an_offset_are_one_sentence_that_names_the_field_for_their_zone(
    source: Path,
) -> None:
    _edit(source, lambda lines: [line.replace("+00:00", "").replace("Z", "") for line in lines])
    with pytest.raises(SourceError, match=r"row 1 \(line 2\), .*, nor is '.*' in row 5") as caught:
        read_source(source, IRIS)
    assert str(caught.value).count("is not a time with its offset") == 1
    assert "event_timestamp.timezone in the model file" in caught.value.todo


def test_a_wrong_value_in_row_200000_is_named(tmp_path: Path) -> None:
    path = tmp_path / "long.csv"
    stamp = "2024-03-01T00:00:00Z"
    with path.open("w") as file:
        file.write(HEADER + "\n")
        file.writelines(f"{n},{stamp},5.1,3.5,1.4,0.2,{n % 3}\n" for n in range(1, 200_000))
        file.write(f"200000,{stamp},5.1,3.5,?,0.2,0\n")
    with pytest.raises(SourceError, match=r"row 200000 \(line 200001\), petal_length: '\?'"):
        read_source(path, IRIS)


def test_bytes_that_are_no_utf8_are_named_by_line(source: Path) -> None:
    lines = source.read_bytes().splitlines(keepends=True)
    lines[20] = lines[20].replace(b".", b"\xff", 1)
    source.write_bytes(b"".join(lines))
    with pytest.raises(SourceError, match=r"row 20 \(line 21\), \w+: b'.*' is not UTF-8"):
        read_source(source, IRIS)


def test_a_source_that_changes_while_it_is_read_is_refused(
    source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = CsvFile.read_into

    def appended_meanwhile(opened: CsvFile, builder: TableBuilder) -> None:
        read(opened, builder)
        with opened.path.open("a") as file:
            file.write("1,2024-05-01T00:00:00Z,5,3,1,0.2,0\n")

    monkeypatch.setattr(CsvFile, "read_into", appended_meanwhile)
    with pytest.raises(SourceError, match="changed while it was read"):
        read_source(source, IRIS)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"nowhere\.csv does not exist"):
        read_source(tmp_path / "nowhere.csv", IRIS)


def test_columns_that_no_file_names_are_ignored_and_listed(source: Path) -> None:
    _edit(source, lambda lines: [f"{lines[0]},,colour", *(f"{one},1,red" for one in lines[1:])])
    assert read_source(source, IRIS).ignored == ("", "colour")


def test_an_empty_folder_is_not_a_source(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="no CSV or Parquet file is there"):
        read_source(tmp_path, IRIS)
