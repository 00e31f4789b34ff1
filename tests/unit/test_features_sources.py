"""Files, queries and data sets: what they are read as, and what is refused."""

from __future__ import annotations

import dataclasses
import datetime as dt
import re
import socket
import sqlite3
import time
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet
from sqlalchemy import make_url

from platform_assets.features.reading import read_source
from platform_assets.features.source import SourceError, open_source, source_fingerprint
from platform_assets.features.sources.builder import TableBuilder
from platform_assets.features.sources.columns import Column
from platform_assets.features.sources.reader import Progress, SourceTable, table_fingerprint
from platform_assets.features.sources.sql import _batch, _without_secrets
from platform_assets.model_spec import (
    Evaluation,
    EventTime,
    FeatureSpec,
    JoinKey,
    ModelSpec,
    Source,
    SqlQuery,
    Target,
    Task,
)
from platform_assets.resources.source import SourceResource
from serving_gateway.contract import DType
from tests.support.feature_chain import MIXED, MIXED_HEADER, mixed_lines

PLAIN = SourceResource(
    variables={"SOURCE_PW": "s3cret", "SOURCE_AT": "p@s3cret", "SOURCE_URL": "no url"}
)


def _read(source: Source, spec: ModelSpec = MIXED) -> SourceTable:
    return read_source(dataclasses.replace(spec, source=source), PLAIN)


def _csv(path: Path, lines: list[str]) -> Source:
    path.parent.mkdir(exist_ok=True)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return Source(str(path))


@pytest.fixture
def expected(tmp_path: Path) -> pa.Table:
    """The mixed source, as it is read from one CSV file."""
    return _read(_csv(tmp_path / "expected.csv", mixed_lines())).table


def test_local_times_are_read_in_their_zone(expected: pa.Table) -> None:
    assert expected["seen"][0].as_py() == dt.datetime(2024, 1, 1, 11, tzinfo=dt.UTC)


def test_times_with_and_without_an_offset_may_be_mixed(tmp_path: Path) -> None:
    lines = mixed_lines()
    lines[1] = lines[1].replace("2024-01-01 12:00:00", "2024-01-01T12:00:00-02:00")
    lines[2] = lines[2].replace("2024-01-02 12:00:00", "2024-01-02")
    seen = _read(_csv(tmp_path / "a.csv", lines)).table["seen"].to_pylist()
    assert seen[0] == dt.datetime(2024, 1, 1, 14, tzinfo=dt.UTC)
    assert seen[1] == dt.datetime(2024, 1, 1, 23, tzinfo=dt.UTC)
    lines[3] = lines[3].replace("2024-01-01 12:00:00", "soon")
    with pytest.raises(SourceError, match=r"row 3 \(line 4\), seen: 'soon' is not a time"):
        _read(_csv(tmp_path / "a.csv", lines))


def test_files_of_a_folder_and_of_a_pattern_are_one_table(
    tmp_path: Path, expected: pa.Table
) -> None:
    lines = mixed_lines()
    columns = MIXED_HEADER.split(",")
    turned = [",".join(line.split(",")[::-1]) for line in lines]
    assert turned[0].split(",") == columns[::-1]
    _csv(tmp_path / "parts" / "b.csv", [turned[0], *turned[21:]])
    _csv(tmp_path / "parts" / "a.csv", lines[:21])
    (tmp_path / "parts" / "notes.txt").write_text("no data")
    for path in ("parts", "parts/*.csv", "*/[ab].csv"):
        found = _read(Source(str(tmp_path / path)))
        assert found.table.equals(expected), path
    _csv(tmp_path / "parts" / "b.csv", [lines[0], *lines[21:25], lines[25].replace("c-12", "")])
    with pytest.raises(SourceError, match=r"customer: 1, first in row 5 of b.csv"):
        _read(Source(str(tmp_path / "parts")))


def test_files_that_differ_in_columns_or_kind_are_refused(tmp_path: Path) -> None:
    lines = mixed_lines()
    _csv(tmp_path / "parts" / "a.csv", lines)
    _csv(tmp_path / "parts" / "b.csv", [f"{lines[0]},more", *(f"{one},1" for one in lines[1:])])
    with pytest.raises(
        SourceError, match=r"b\.csv of .* has other columns than those before: .* by more"
    ):
        _read(Source(str(tmp_path / "parts")))
    (tmp_path / "parts" / "c.parquet").write_bytes(b"")
    with pytest.raises(SourceError, match=r"the names end in '.csv', '.parquet'"):
        _read(Source(str(tmp_path / "parts")))
    with pytest.raises(SourceError, match=r"the names end in '.xlsx'"):
        _read(Source(str(tmp_path / "a.xlsx")))


def test_parquet_is_read_as_csv_is(tmp_path: Path, expected: pa.Table) -> None:
    loose = expected.append_column("note", pa.array(["x"] * 40))
    loose = loose.set_column(8, "region", loose["region"].dictionary_encode())
    loose = loose.set_column(2, "income", loose["income"].fill_null(float("nan")))
    loose = loose.set_column(4, "children", loose["children"].cast(pa.float32()))
    parquet.write_table(loose, tmp_path / "a.parquet", row_group_size=7)
    found = _read(Source(str(tmp_path / "a.parquet")))
    assert found.table.equals(expected)
    assert found.ignored == ("note",)


@pytest.mark.parametrize("content", [b"", b"PAR1 and no more"])
def test_damaged_parquet_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.parquet").write_bytes(content)
    with pytest.raises(SourceError, match="cannot be read as Parquet"):
        _read(Source(str(tmp_path / "a.parquet")))


@pytest.mark.parametrize(
    ("name", "values"),
    [
        (
            "region",
            pa.Array.from_buffers(
                pa.string(),
                40,
                [
                    None,
                    pa.array(range(0, 82, 2), pa.int32()).buffers()[1],
                    pa.py_buffer(b"\xff" * 80),
                ],
            ),
        ),
        ("seen", pa.array([10**17] * 40, pa.timestamp("ms", tz="UTC"))),
    ],
)
def test_text_and_times_that_nothing_could_hold_are_refused_in_parquet(
    tmp_path: Path, expected: pa.Table, name: str, values: pa.Array
) -> None:
    table = expected.set_column(expected.column_names.index(name), name, values)
    parquet.write_table(table, tmp_path / "a.parquet")
    with pytest.raises(SourceError, match="cannot be read as Parquet"):
        _read(Source(str(tmp_path / "a.parquet")))


def test_a_wrong_value_in_parquet_is_named_by_its_row(
    tmp_path: Path, expected: pa.Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("platform_assets.features.sources.builder._BATCH_ROWS", 7)
    accounts = [1.0] * 40
    accounts[33] = 1.5
    table = expected.set_column(5, "accounts", pa.array(accounts))
    parquet.write_table(table, tmp_path / "a.parquet", row_group_size=7)
    with pytest.raises(
        SourceError, match=r"row 34, accounts: 1\.5 \(DOUBLE\) is not a whole number"
    ):
        _read(Source(str(tmp_path / "a.parquet")))


def _database(path: Path, lines: list[str]) -> str:
    rows: list[list[Any]] = [line.split(",") for line in lines]
    typed = [[None if cell == "" else cell for cell in row] for row in rows[1:]]
    with sqlite3.connect(path) as database:
        database.execute(
            "CREATE TABLE loans (customer TEXT, seen TEXT, income REAL, ratio REAL, children "
            "INTEGER, accounts INTEGER, owner, married, region TEXT, job TEXT, paid TEXT, note)"
        )
        marks = ",".join("?" * 12)
        database.executemany(f"INSERT INTO loans VALUES ({marks})", typed)
    database.close()
    return f"sqlite:///{path}"


def test_a_query_is_read_as_csv_is_in_chunks(
    tmp_path: Path, expected: pa.Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("platform_assets.features.sources.sql._CHUNK_ROWS", 7)
    url = _database(tmp_path / "a.db", mixed_lines())
    found = _read(Source(sql=SqlQuery(url, "SELECT * FROM loans ORDER BY rowid")))
    assert found.table.equals(expected)
    assert found.ignored == ("note",)
    turned = Source(sql=SqlQuery(url, "SELECT * FROM loans ORDER BY rowid DESC"))
    assert _read(turned).fingerprint == found.fingerprint, "whatever the order of the rows"
    spec = dataclasses.replace(MIXED, source=turned)
    assert source_fingerprint(spec, PLAIN) == found.fingerprint
    fewer = _read(Source(sql=SqlQuery(url, "SELECT * FROM loans WHERE rowid > 2")))
    assert fewer.fingerprint != found.fingerprint


def test_a_wrong_value_of_a_query_is_named(tmp_path: Path) -> None:
    lines = mixed_lines()
    lines[30] = lines[30].replace(",true,", ",maybe,").replace(",false,", ",maybe,")
    url = _database(tmp_path / "a.db", lines)
    with pytest.raises(SourceError, match=r"row 30, owner: 'maybe' is not true or false"):
        _read(Source(sql=SqlQuery(url, "SELECT * FROM loans")))


@pytest.mark.parametrize(
    ("url", "query", "said"),
    [
        ("sqlite:///{}", "SELECT * FROM lost", "failed: no such table: lost"),
        ("sqlite:///{}", "CREATE TABLE x (y)", "returns no rows"),
        ("sqlite:///{}", "SELECT 1 AS one", r"lacks customer, .*it has one"),
        (
            "postgresql+nodriver://u:${SOURCE_PW}@h/db",
            "SELECT 1",
            "needs a driver .*postgresql.nodriver",
        ),
        ("mysql+pymysql://u:${SOURCE_PW}@h/db", "SELECT 1", "needs a driver that is not installed"),
        ("postgresql+nodriver://h/db?password=${SOURCE_PW}", "SELECT 1", "h/db needs a driver"),
        ("mssql+nodriver:///?odbc_connect=PWD%3D${SOURCE_PW}", "SELECT 1", "needs a driver"),
        ("postgresql://u:${SOURCE_AT}@h/db", "SELECT 1", "two @"),
        ("postgresql://h:s3cret/db", "SELECT 1", "URL that SQLAlchemy does not know"),
        ("${SOURCE_URL}", "SELECT 1", "URL that SQLAlchemy does not know"),
    ],
)
def test_a_query_that_cannot_be_is_refused_without_its_password(
    tmp_path: Path, url: str, query: str, said: str
) -> None:
    with pytest.raises(SourceError, match=said) as caught:
        _read(Source(sql=SqlQuery(url.replace("{}", str(tmp_path / "a.db")), query)))
    assert "s3cret" not in str(caught.value) + str(caught.value.__cause__)


def test_a_query_that_takes_too_long_is_ended(tmp_path: Path) -> None:
    endless = "WITH RECURSIVE t(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM t) SELECT * FROM t"
    query = f"SELECT count(*) AS n FROM ({endless})"
    started = time.monotonic()
    with pytest.raises(SourceError, match=r"took longer than 0:00:00\.3.* and was canceled"):
        _read(
            Source(sql=SqlQuery(f"sqlite:///{tmp_path / 'a.db'}", query, dt.timedelta(seconds=0.3)))
        )
    assert time.monotonic() - started < 20


def test_a_database_that_does_not_answer_times_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform_assets.features.sources.sql._CONNECT_S", 2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        with pytest.raises(SourceError, match=r"failed: .*timeout expired"):
            _read(
                Source(
                    sql=SqlQuery(f"postgresql://me:${{SOURCE_PW}}@127.0.0.1:{port}/db", "SELECT 1")
                )
            )


def test_what_a_database_says_is_shown_without_secrets(tmp_path: Path) -> None:
    url = _database(tmp_path / "a.db", mixed_lines())
    with pytest.raises(SourceError, match="no such column: ni_ce"):
        _read(Source(sql=SqlQuery(url, "SELECT ni_ce FROM loans")))
    address = make_url("a://me:s3%20cret@h/b?sslpassword=hush hush")
    said = "no login of me by s3 cret or\n\tHUSH or hush hush"
    assert _without_secrets(said, address) == "no login of me by *** or HUSH or ***"


def test_times_with_and_without_a_zone_in_one_chunk_keep_theirs() -> None:
    batch = _batch([(dt.datetime(2024, 6, 1),), (dt.datetime(2024, 6, 1, tzinfo=dt.UTC),)], 1)
    builder = TableBuilder([Column("at", None, "Europe/Berlin")], None, Progress())
    builder.add_batch("the query", ["at"], batch)
    found = builder.build("the query", table_fingerprint).table["at"].to_pylist()
    assert [one.hour for one in found] == [22, 0]


@pytest.mark.parametrize("space", [*" \t\v\u00a0\u202f\u3000\ufeff"])
def test_white_space_around_a_time_does_not_change_its_zone(space: str) -> None:
    written = ["2024-03-01", "2024-03-01 12:00:00", "2024-03-01T12:00:00Z", "20240301T120000-02"]
    builder = TableBuilder([Column("at", None, "America/New_York")], None, Progress())
    batch = pa.record_batch({"at": [f"{space}{one}{space}" for one in written]})

    builder.add_batch("the file", ["at"], batch)

    found = builder.build("the file", table_fingerprint).table["at"].to_pylist()
    assert [one.hour for one in found] == [5, 17, 12, 14]


@pytest.mark.parametrize("space", [*" \v\u00a0\ufeff"])
def test_keys_with_leading_zeros_behind_white_space_are_noticed(space: str) -> None:
    builder = TableBuilder([Column("meter", DType.INT64)], "meter", Progress())
    builder.add_batch("the file", ["meter"], pa.record_batch({"meter": ["7", f"{space}007"]}))

    [warning] = builder.build("the file", table_fingerprint).warnings

    assert "1 keys are written in several ways" in warning


def test_numbers_of_a_database_that_are_none_are_kept_as_such() -> None:
    numbers = [Decimal("NaN"), Decimal("1.5"), None, Decimal("-Infinity")]
    builder = TableBuilder([Column("x", DType.FP64)], None, Progress())
    builder.add_batch("the query", ["x"], _batch([(one,) for one in numbers], 1))
    found = builder.build("the query", table_fingerprint).table["x"].to_pylist()
    assert found == [None, 1.5, None, float("-inf")]


def _hours(*rows: str) -> list[int]:
    """Read meter and local time of each row; return the hours in UTC."""
    columns = [Column("meter", DType.BYTES), Column("at", None, "Europe/Berlin")]
    cells = [row.split(" ", 1) for row in rows]
    batch = pa.record_batch({"meter": [a for a, _ in cells], "at": [b for _, b in cells]})
    builder = TableBuilder(columns, "meter", Progress())
    builder.add_batch("the file", ["meter", "at"], batch)
    found = builder.build("the file", table_fingerprint).table["at"].to_pylist()
    return [one.hour * 100 + one.minute for one in found]


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ("a 1:30,a 2:15,a 2:45,a 2:15,a 2:45,a 3:00", [2330, 15, 45, 115, 145, 200]),
        ("a 3:00,a 2:45,a 2:15,a 2:45,a 2:15,a 1:30", [200, 145, 115, 45, 15, 2330]),
        ("a 2:30,b 2:30,a 2:30,b 2:30,c 1:00", [30, 30, 130, 130, 2300]),
        ("a 2:30,a 2:30", [30, 130]),
        ("a 2:45,a 2:15,a 1:00,a 5:00", "shows twice"),
        ("a 2:30,b 2:45", "shows twice"),
        ("a 2:30,a 2:30,a 2:30", "shows twice"),
    ],
)
def test_an_hour_that_comes_twice_follows_the_order_of_its_entity(
    rows: str, expected: list[int] | str
) -> None:
    written = [f"{one[0]} 2024-10-27 0{one[2:]}:00" for one in rows.split(",")]
    if isinstance(expected, list):
        assert _hours(*written) == expected
        return
    with pytest.raises(SourceError, match=expected):
        _hours(*written)


@pytest.mark.parametrize(
    ("values", "warned"),
    [
        ([0.1, 123.456, None, 1e-9], False),
        ([1.5, 16_777_217.0], True),
        ([1700000000.25, 1700000060.5], True),
        ([float("inf"), 2.0, 1e300], False),
    ],
)
def test_a_column_that_32_bits_cannot_hold_is_a_warning(
    values: list[float | None], warned: bool
) -> None:
    builder = TableBuilder([Column("x", DType.FP32)], None, Progress())
    builder.add_batch("the file", ["x"], pa.record_batch({"x": values}))
    found = builder.build("the file", table_fingerprint).warnings
    assert [one.partition(" loses")[0] for one in found] == ["x"] * warned


CARS = ModelSpec(
    model_name="cars",
    task=Task.REGRESSION,
    source=Source(dataset="vega.cars"),
    features=(
        FeatureSpec("Horsepower", DType.FP32, nullable=True),
        FeatureSpec("Cylinders", DType.INT64),
        FeatureSpec("Origin", DType.BYTES),
    ),
    target=Target("Miles_per_Gallon", DType.FP64, drop_missing=True),
    candidates=(),
    gates=MIXED.gates,
    join_key=JoinKey(row_number="entity_id"),
)


def test_a_data_set_with_missing_values_is_numbered_and_timeless() -> None:
    found = read_source(CARS, PLAIN)
    assert found.table.column_names[:2] == ["entity_id", "event_timestamp"]
    assert found.table.num_rows == 406
    assert found.table["Miles_per_Gallon"].null_count == 8
    assert found.table["Horsepower"].null_count == 6
    ids = found.table["entity_id"].to_pylist()
    assert (ids[0], ids[-1]) == (1, 406), "also rows without a label"
    assert set(found.table["event_timestamp"].to_pylist()) == {
        dt.datetime(2000, 1, 1, tzinfo=dt.UTC)
    }
    assert "Name" in found.ignored
    assert source_fingerprint(CARS, PLAIN) == found.fingerprint


def test_the_times_of_the_weather_need_a_zone() -> None:
    spec = dataclasses.replace(
        CARS,
        task=Task.MULTICLASS,
        source=Source(dataset="vega.seattle_weather"),
        features=(FeatureSpec("wind"),),
        target=Target("weather"),
        event_time=EventTime("date", timezone="UTC"),
        candidates=(),
        evaluation=Evaluation(),
    )
    found = read_source(spec, PLAIN)
    assert found.classes == ("drizzle", "fog", "rain", "snow", "sun")
    assert found.table["date"][0].as_py() == dt.datetime(2012, 1, 1, tzinfo=dt.UTC)
    refused = dataclasses.replace(spec, event_time=EventTime("date"))
    with pytest.raises(SourceError, match=r"row 1, date: 2012-01-01 .* is not a time with its"):
        read_source(refused, PLAIN)


@pytest.mark.parametrize(
    ("name", "column", "dtype", "labels"),
    [
        ("breast_cancer", "mean radius", DType.BYTES, ["benign", "malignant"]),
        ("digits", "pixel_0_0", DType.INT64, list(range(10))),
        ("iris", "petal width (cm)", DType.BYTES, ["setosa", "versicolor", "virginica"]),
        ("wine", "alcohol", DType.BYTES, ["class_0", "class_1", "class_2"]),
    ],
)
def test_data_sets_of_scikit_learn_have_classes_in_words_where_those_have_names(
    name: str, column: str, dtype: DType, labels: list[Any]
) -> None:
    source = Source(dataset=f"sklearn.{name}")
    spec = dataclasses.replace(
        CARS,
        source=source,
        features=(FeatureSpec("x", source_column=column),),
        task=Task.MULTICLASS,
        target=Target("target", dtype),
        candidates=(),
        evaluation=Evaluation(metric="accuracy"),
    )
    assert open_source(spec, PLAIN).name == f"the data set sklearn.{name}"
    table = _read(source, spec).table
    assert table.num_rows > 100
    assert sorted(table["target"].unique().to_pylist()) == labels


def test_the_data_set_of_a_regression_has_a_number_as_its_target() -> None:
    source = Source(dataset="sklearn.diabetes")
    spec = dataclasses.replace(
        CARS,
        source=source,
        features=(FeatureSpec("x", source_column="age"),),
        target=Target("target", DType.FP64),
    )
    assert _read(source, spec).table["target"][0].as_py() == 151.0


@pytest.mark.parametrize("name", ["sklearn.boston", "vega.github"])
def test_a_data_set_that_is_not_there_is_refused_with_those_that_are(name: str) -> None:
    with pytest.raises(SourceError, match=f"there is no data set {name}") as caught:
        _read(Source(dataset=name), CARS)
    assert "sklearn.iris" in caught.value.todo
    assert "vega.cars" in caught.value.todo


def _cast(values: pa.Array, dtype: DType | None) -> pa.ChunkedArray:
    builder = TableBuilder([Column("x", dtype)], None, Progress())
    builder.add_batch("the source", ["x"], pa.record_batch({"x": values}))
    return builder.build("the source", table_fingerprint).table["x"]


@pytest.mark.parametrize(
    ("values", "dtype", "expected"),
    [
        (pa.array([1, None], pa.int64()), DType.FP32, [1.0, None]),
        (pa.array([1.5, float("nan")]), DType.FP64, [1.5, None]),
        (pa.array([Decimal("1.25")]), DType.FP64, [1.25]),
        (pa.array([3.0, float("nan")]), DType.INT64, [3, None]),
        (pa.array([3], pa.uint8()), DType.INT64, [3]),
        (pa.array([0, 1, None]), DType.BOOL, [False, True, None]),
        (pa.array([1.0]), DType.BOOL, [True]),
        (pa.array(["TRUE", "0", ""]), DType.BOOL, [True, False, None]),
        (pa.array(["a", "", None]), DType.BYTES, ["a", None, None]),
        (pa.array(["a", "b"]).dictionary_encode(), DType.BYTES, ["a", "b"]),
        (pa.array([7]), DType.BYTES, ["7"]),
        (pa.array(["NA", "nan"]), DType.BYTES, ["NA", "nan"]),
        (pa.array(["NA", " 2.5 "]), DType.FP64, [None, 2.5]),
        (pa.nulls(2), DType.INT64, [None, None]),
        (pa.array(["a"], pa.string_view()), DType.BYTES, ["a"]),
    ],
)
def test_what_loses_nothing_is_taken(values: pa.Array, dtype: DType, expected: list[Any]) -> None:
    found = _cast(values, dtype)
    assert found.type == Column("x", dtype).arrow
    assert found.to_pylist() == expected


@pytest.mark.parametrize(
    ("values", "dtype", "said"),
    [
        (pa.array([None, 1.5]), DType.INT64, "row 2, x: 1.5 (DOUBLE) is"),
        (pa.array([0.0, 1e300]), DType.INT64, "row 2, x: 1e+300 (DOUBLE) is"),
        (
            pa.array([1, 2**63], pa.uint64()),
            DType.INT64,
            "row 2, x: 9223372036854775808 (UBIGINT) is",
        ),
        (pa.array([1, 2]), DType.BOOL, "row 2, x: 2 (BIGINT) is"),
        (pa.array([True]), DType.FP32, "row 1, x: true (BOOLEAN) is"),
        (pa.array([None, b"x"]), DType.BYTES, "row 2, x: x (BLOB) is"),
        (pa.array([1.0]), DType.BYTES, "row 1, x: 1.0 (DOUBLE) is"),
        (pa.array(["1", "1_0"]), DType.INT64, "row 2, x: '1_0' is"),
        (pa.array([[1]]), DType.INT64, "row 1, x: [1] (BIGINT[]) is"),
        (pa.array([1]), None, "row 1, x: 1 (BIGINT) is"),
    ],
)
def test_what_would_lose_something_is_named(
    values: pa.Array, dtype: DType | None, said: str
) -> None:
    with pytest.raises(SourceError, match=re.escape(said)):
        _cast(values, dtype)


def test_the_fingerprint_of_a_table_is_that_of_its_values() -> None:
    def table(*chunks: list[Any]) -> pa.Table:
        texts = pa.chunked_array([pa.array(one, pa.string()) for one in chunks])
        return pa.table({"a": texts, "b": np.arange(len(texts))})

    one = table_fingerprint(table(["ab", "", None, "c"]))
    assert table_fingerprint(table(["ab"], ["", None], [], ["c"])) == one
    assert table_fingerprint(table(["x", "ab", "", None, "c"]).slice(1)) != one, "other numbers"
    others = (["a", "b", None, "c"], ["ab", None, None, "c"], ["ab", "", "c", None])
    assert len({one, *(table_fingerprint(table(other)) for other in others)}) == 4
    behind = pa.array([1, 2, 3], mask=np.array([False, True, False]))
    assert table_fingerprint(pa.table({"a": behind})) == table_fingerprint(
        pa.table({"a": pa.array([1, None, 3])})
    )


@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_name_with_brackets_is_that_of_one_file(
    tmp_path: Path, expected: pa.Table, ending: str
) -> None:
    """DuckDB alone reads `a1.csv` where it is asked for `a[1].csv`."""
    lines = mixed_lines()
    _csv(tmp_path / "mixed[1].csv", lines)
    _csv(tmp_path / "mixed1.csv", lines[:-1])
    file = tmp_path / f"mixed[1].{ending}"
    if ending == "parquet":
        parquet.write_table(expected, file)
        parquet.write_table(expected.slice(1), tmp_path / "mixed1.parquet")

    assert _read(Source(str(file))).table.equals(expected)
