"""Sources that try to break the chain: each is ready to train on, or refused with its place."""

from __future__ import annotations

import datetime as dt
import gzip
import re
import sqlite3
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from decimal import Decimal
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pytest
from pyarrow import parquet

from platform_assets.model_spec import (
    Evaluation,
    EventTime,
    FeatureSpec,
    Gates,
    JoinKey,
    ModelSpec,
    Source,
    Split,
    SqlQuery,
    Target,
    Task,
)
from platform_assets.training.frame import training_rows
from serving_gateway.contract import DType
from tests.support.feature_chain import FEATURES, feature_chain
from tests.support.servers import free_port

ROWS: Final = 12
COLUMNS: Final = ("id", "at", "x", "n", "b", "c", "y")
SPEC: Final = ModelSpec(
    model_name="hostile",
    task=Task.BINARY,
    source=Source("unused"),
    features=(
        FeatureSpec("x"),
        FeatureSpec("n", DType.INT64, nullable=True),
        FeatureSpec("b", DType.BOOL, nullable=True),
        FeatureSpec("c", DType.BYTES, nullable=True),
    ),
    target=Target("y"),
    candidates=(),
    gates=Gates(metric_floor=0.5),
    evaluation=Evaluation(metric="accuracy", split=Split.ENTITY),
    join_key=JoinKey("id"),
    event_time=EventTime("at", timezone="Europe/Berlin"),
)
Make = Callable[[Path], Source]


def table(**changed: dict[int, Any]) -> list[list[Any]]:
    """Sound rows, save for cells that are given by column and row, from 1."""
    rows: list[list[Any]] = [
        [
            *(n, f"2024-06-{n:02d} 12:00:00", n / 2, n),
            *(("true", "false")[n % 2], f"c {n % 3}", ("yes", "no")[n % 2]),
        ]
        for n in range(1, ROWS + 1)
    ]
    for column, cells in changed.items():
        for row, cell in cells.items():
            rows[row - 1][COLUMNS.index(column)] = cell
    return rows


def every(*cells: Any) -> dict[int, Any]:
    """These cells for a whole column, again and again."""
    return {row: cells[(row - 1) % len(cells)] for row in range(1, ROWS + 1)}


def text(rows: list[list[Any]], mark: str = ",", header: str = "", end: str = "\n") -> str:
    lines = [header or mark.join(COLUMNS), *(mark.join(map(str, row)) for row in rows)]
    return end.join(lines) + end


def file(content: str | bytes, name: str = "a.csv") -> Make:
    def make(home: Path) -> Source:
        path = home / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return Source(str(path))

    return make


def parquet_of(**changed: pa.Array) -> Make:
    columns = dict(zip(COLUMNS, zip(*table(), strict=True), strict=True))
    made = pa.table({name: changed.get(name, list(columns[name])) for name in COLUMNS})

    def make(home: Path) -> Source:
        parquet.write_table(made, home / "a.parquet", row_group_size=5)
        return Source(str(home / "a.parquet"))

    return make


def hive(home: Path) -> Source:
    """Folders that hold the label, and types that a warehouse writes."""
    for label in ("yes", "no"):
        rows = [row for row in table() if row[-1] == label]
        columns = dict(zip(COLUMNS, zip(*rows, strict=True), strict=True))
        times = [dt.datetime.fromisoformat(one) for one in columns["at"]]
        made = {
            "id": pa.array(columns["id"], pa.uint16()),
            "at": pa.array(times, pa.timestamp("ns")),
            "x": pa.array([Decimal(str(one)) for one in columns["x"]], pa.decimal128(20, 4)),
            "n": pa.array([float(one) for one in columns["n"]]),
            "b": pa.array([one == "true" for one in columns["b"]]),
            "c": pa.array(columns["c"]).dictionary_encode(),
        }
        folder = home / "lake" / f"y={label}"
        folder.mkdir(parents=True)
        parquet.write_table(pa.table(made), folder / "part-0.parquet")
    return Source(str(home / "lake"))


def database(rows: list[list[Any]], query: str) -> Make:
    def make(home: Path) -> Source:
        with sqlite3.connect(home / "a.db") as opened:
            opened.execute(f"CREATE TABLE t ({', '.join(COLUMNS)})")
            opened.executemany(f"INSERT INTO t VALUES ({', '.join('?' * len(COLUMNS))})", rows)
        opened.close()
        return Source(sql=SqlQuery(f"sqlite:///{home / 'a.db'}", query))

    return make


@dataclass(frozen=True)
class Case:
    """`refused`: what is said of it; else it trains, on `labels` rows, with values to look at."""

    make: Make
    refused: str | None = None
    spec: ModelSpec = SPEC
    labels: int = ROWS
    warned: str | None = None
    holds: dict[str, list[Any]] = field(default_factory=dict)


def night(*times: str) -> str:
    """One meter in the night when Berlin's clock shows the hour from two to three twice."""
    seen = dict(enumerate(times, start=1))
    keys = dict.fromkeys(seen, 1)
    return text(table(id=keys, at={row: f"2024-10-27 {one}" for row, one in seen.items()}))


FROM: Final = replace(
    SPEC,
    join_key=JoinKey("id", source_column="Customer ID"),
    event_time=EventTime("at", "UTC", source_column="seen at (local)"),
    features=(
        FeatureSpec("x", source_column="fixed acidity"),
        FeatureSpec("n", DType.INT64, source_column="Fixed Acidity"),
        FeatureSpec("b", DType.BOOL, source_column='1stFlr"SF'),
        FeatureSpec("c", DType.BYTES, source_column="größe; €"),
    ),
    target=Target("y", source_column="Y?"),
)
ODD_HEADER: Final = (
    'Customer ID,seen at (local),fixed acidity,Fixed Acidity,"1stFlr""SF",größe; €,Y?'
)
SOUND: Final = text(table())
QUERY: Final = """SELECT *, '{"a":1}' AS j FROM t -- why :not 100 %
WHERE c <> 'status :open' AND c NOT LIKE '%s%%' /* ? :x %(y)s */"""

CASES: Final[dict[str, Case]] = {
    "a byte order mark, blank lines and Windows' line ends": Case(
        file(b"\xef\xbb\xbf\r\n\r\n" + text(table(), end="\r\n").encode())
    ),
    "UTF-16": Case(file(SOUND.encode("utf-16")), "is not UTF-8 text: it is UTF-16"),
    "Latin-1": Case(
        file(text(table(c={7: "süd"})).encode("latin-1")),
        r"row 7 \(line 8\), c: b's\\xfcd' is not UTF-8 text",
    ),
    "nothing": Case(file(""), "is empty"),
    "a header alone": Case(file(SOUND.partition("\n")[0]), "has columns and no rows"),
    "tabs, gzipped": Case(file(gzip.compress(text(table(), "\t").encode()), "a.tsv.gz")),
    "a gzip that breaks off": Case(
        file(gzip.compress(SOUND.encode())[:-20], "a.csv.gz"), "is damaged|cannot be read as CSV"
    ),
    "semicolons and decimal commas": Case(
        file(text(table(x={1: "0,5"}), ";")), r"row 1 \(line 2\), x: '0,5' is not a number"
    ),
    "two kinds of line ends, quoted lines and a very long text": Case(
        file(SOUND.replace("no\n", "no\r\n").replace("c 1", f'"a\n""b"", c{"d" * 3_000_000}"', 1))
    ),
    "a quotation mark that is not closed": Case(
        file(text(table(c={9: '"c'}))), r"row 9 \(line 10\) has a quotation mark that is not"
    ),
    "a value too many": Case(
        file(text(table(c={3: "a,b"}))), r"row 3 \(line 4\) has 8 values, not 7"
    ),
    "NUL in a text": Case(
        file(text(table(c={3: "a\0b"}))), r"row 3 \(line 4\), c: 'a\\x00b' is not text"
    ),
    "a hexadecimal key": Case(
        file(text(table(id={3: "0x1F"}))), r"row 3 \(line 4\), id: '0x1F' is not a whole number"
    ),
    "keys with leading zeros that become one": Case(
        file(text(table(id={3: "0004"}))), warned="'0004' and '4'"
    ),
    "an integer beyond 64 bits": Case(
        file(text(table(n={3: 2**63}))), r"row 3 \(line 4\), n: '9223372036854775808' is not"
    ),
    "white space, numbers as pandas writes them, and words for missing": Case(
        file(
            text(
                table(n=every("\u00a07.0", " ", "n/a"), b=every("1.0 ", "0.0", ""), x={1: " +1e0"})
            )
        ),
        holds={"n": [7.0, None, None], "b": [1.0, 0.0, None], "x": [1.0]},
    ),
    "yes as a boolean": Case(
        file(text(table(b={3: "yes"}))), r"row 3 \(line 4\), b: 'yes' is not true or false"
    ),
    "seconds since 1970 as a number": Case(
        file(text(table(x={3: 1700000001}))), warned="x loses digits as number"
    ),
    "an hour that comes twice, in order": Case(
        file(night("01:30", "02:30", "02:30", "03:30")),
        holds={"at": ["2024-10-26T23:30", "2024-10-27T00:30", "2024-10-27T01:30"]},
    ),
    "an hour that comes twice, once": Case(
        file(night("02:30")),
        r"clock of Europe/Berlin shows twice, .*: 2024-10-27 02:30:00 in row 1$",
    ),
    "an hour that the clock skips": Case(
        file(text(table(at={5: "2024-03-31 02:15:00"}))),
        r"clock of Europe/Berlin never shows: 2024-03-31 02:15:00 in row 5$",
    ),
    "times in five forms": Case(
        file(
            text(
                table(
                    at={
                        1: "2024-05-01 00:00:00.123456789+00:00",
                        2: "20240502T000000Z",
                        3: "2024-05-03",
                        4: " 2024-05-04T05:00 +0500",
                        5: "2024-05-05 00:00:00-02",
                    }
                )
            )
        ),
        holds={
            "at": [
                *("2024-05-01T00:00:00.123456", "2024-05-02", "2024-05-02T22:00"),
                *("2024-05-04", "2024-05-05T02:00"),
            ]
        },
    ),
    "a month that does not exist": Case(
        file(text(table(at={5: "2024-13-01"}))), r"row 5 \(line 6\), at: '2024-13-01' is not a time"
    ),
    "headers of any kind": Case(file(text(table(), header=ODD_HEADER)), spec=FROM),
    "rows that have no label yet": Case(
        file(text(table(y={3: "", 4: "NA"}).copy())),
        r"3 classes in y \(NA, no, yes\)",
        spec=replace(SPEC, target=Target("y", drop_missing=True)),
    ),
    "a label for ten of twelve": Case(
        file(text(table(y={3: "", 4: ""}))),
        spec=replace(SPEC, target=Target("y", drop_missing=True)),
        labels=10,
    ),
    "a partitioned lake": Case(hive),
    "Parquet with NaN for missing": Case(
        parquet_of(n=pa.array([1.0, float("nan"), *map(float, range(10))])),
        holds={"n": [1.0, None, 0.0]},
    ),
    "Parquet with text for numbers": Case(
        parquet_of(x=pa.array([*map(str, range(11)), "0x1F"])), r"row 12, x: '0x1F' is not a number"
    ),
    "Parquet with lists": Case(
        parquet_of(x=pa.array([[1.0]] * ROWS)), r"row 1, x: \[1.0\] \(DOUBLE\[\]\) is not"
    ),
    "a query with colons, percent signs and comments": Case(database(table(), QUERY)),
    "a database of mixed types": Case(
        database(
            table(n=every(1, "2.0", None, 3.0), b=every(1, "FALSE", "0.0"), x={1: "1e3"}),
            "SELECT * FROM t",
        ),
        holds={"n": [1.0, 2.0, None, 3.0], "b": [1.0, 0.0, 0.0], "x": [1000.0]},
    ),
    "a database with a wrong value": Case(
        database(table(n={8: 1.5, 9: "many"}), "SELECT * FROM t ORDER BY id"),
        r"row 8, n: '1.5' is not a whole number of 64 bits, nor is 'many' in row 9",
    ),
    "a database that is not there": Case(
        lambda _: Source(
            sql=SqlQuery(f"postgresql://me:${{SOURCE_PW}}@127.0.0.1:{free_port()}/db", "SELECT 1")
        ),
        r"query on postgresql://(me:)?\*\*\*@127.*failed: .*[Cc]onnection refused",
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_a_source_trains_or_is_refused_with_its_place(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOURCE_PW", "s3cr3t")
    case = CASES[name]
    chain = feature_chain(tmp_path, spec=replace(case.spec, source=case.make(tmp_path)))
    if case.refused is not None:
        outcome = chain.run(FEATURES)
        assert list(outcome.failures) == [FEATURES]
        said = outcome.failures[FEATURES].partition(". Nothing changed in serving")[0]
        assert re.search(case.refused, said), said
        assert "s3cr3t" not in outcome.failures[FEATURES]
        assert not chain.features_file.exists()
        return
    outcome = chain.run()
    assert outcome.failures == {}
    failed = {key for key, check in outcome.checks.items() if not check.passed}
    assert failed == ({"features.losses"} if case.warned else set())
    warning = outcome.checks["features.losses"].description or ""
    assert (case.warned or "") in warning
    read = parquet.read_table(chain.features_file)
    for column, values in case.holds.items():
        expected = [
            dt.datetime.fromisoformat(one).replace(tzinfo=dt.UTC) if column == "at" else one
            for one in values
        ]
        assert read[column].to_pylist()[: len(values)] == expected
    rows = training_rows(chain.feast, outcome.values[FEATURES], chain.spec)
    assert len(rows.labels) == case.labels
    assert read.num_rows == ROWS
