"""Sources that are DuckDB queries over files."""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import duckdb
import pytest

from platform_assets.components.__main__ import main
from platform_assets.components.loading import read_models
from platform_assets.features.reading import read_table
from platform_assets.features.source import current_fingerprint, source_fingerprint
from platform_assets.model_spec import FeatureTableSpec
from platform_assets.model_spec.source import DuckdbQuery
from platform_assets.resources.source import ColumnsError, SourceError, SourceResource

TABLE = """type: platform_assets.components.FeatureTable
attributes:
  source:
    duckdb:
      query: |
        SELECT customer AS customer_id, date_trunc('day', paid_at) AS day,
               sum(amount) AS spent, count(*) AS payments
        FROM paid JOIN shops USING (shop) WHERE risky GROUP BY ALL
      files: {paid: paid.parquet, shops: "shops*.csv"}
  join_key: {column: customer_id, type: integer}
  event_timestamp: {column: day}
  columns: {spent: {type: double, minimum: 0}, payments: integer}
"""


@pytest.fixture
def spec(tmp_path: Path) -> FeatureTableSpec:
    folder = tmp_path / "spending"
    folder.mkdir()
    (folder / "defs.yaml").write_text(TABLE)
    (folder / "shops1.csv").write_text("shop,risky\na,true\n")
    (folder / "shops2.csv").write_text("shop,risky\nb,false\nc,true\n")
    _write_payments(folder, amount=2.5)
    [found] = read_models(tmp_path).tables.values()
    return found


def _write_payments(folder: Path, amount: float) -> None:
    rows = ", ".join(
        f"({number % 2 + 1}, '{shop}', TIMESTAMPTZ '2024-01-0{number % 2 + 1} 12:00Z', {amount})"
        for number in range(4)
        for shop in "abc"
    )
    query = f"SELECT * FROM (VALUES {rows}) t(customer, shop, paid_at, amount)"
    duckdb.execute(f"COPY ({query}) TO '{folder / 'paid.parquet'}'")


def _folder(spec: FeatureTableSpec) -> Path:
    assert spec.source.duckdb is not None
    return Path(spec.source.duckdb.files["paid"]).parent


def _with_query(spec: FeatureTableSpec, query: str) -> FeatureTableSpec:
    assert spec.source.duckdb is not None
    source = replace(spec.source, duckdb=replace(spec.source.duckdb, query=query))
    return replace(spec, source=source)


def test_aggregates_are_the_rows_of_a_table(spec: FeatureTableSpec) -> None:
    rows = read_table(spec, SourceResource())

    found = sorted(rows.table.select(["customer_id", "spent", "payments"]).to_pylist(), key=str)
    assert found == [
        {"customer_id": 1, "spent": 10.0, "payments": 4},
        {"customer_id": 2, "spent": 10.0, "payments": 4},
    ]
    assert rows.fingerprint == source_fingerprint(spec, SourceResource())


def test_content_is_that_of_files_and_query(spec: FeatureTableSpec) -> None:
    before, cursor = current_fingerprint(spec, SourceResource(), None)
    assert spec.source.duckdb is not None
    other = _with_query(spec, spec.source.duckdb.query + " HAVING true")
    assert source_fingerprint(other, SourceResource()) != before

    _write_payments(_folder(spec), amount=3)

    assert current_fingerprint(spec, SourceResource(), cursor)[0] != before


@pytest.mark.parametrize(
    ("query", "kind", "said"),
    [
        ("SELECT nothing FROM paid", SourceError, "the DuckDB query over paid, shops failed: .*n"),
        ("SELECT customer AS customer_id FROM paid", ColumnsError, "lacks spent, payments, day"),
        ("SELECT * FROM read_csv('{home}/secret.csv')", SourceError, "(?i)permission|disabled"),
        ("COPY paid TO '{home}/stolen.csv'", SourceError, "is not a single SELECT"),
        ("SET enable_external_access = true", SourceError, "is not a single SELECT"),
        (
            "SELECT 'x' AS customer_id, now() AS day, 1 AS spent, 1 AS payments FROM paid",
            SourceError,
            "row 1, customer_id: 'x' is not a whole number",
        ),
        (
            "SELECT 1 AS customer_id, TIMESTAMPTZ 'infinity' AS day, 1.0 AS spent, 1 AS payments",
            SourceError,
            r"times before 1678 or from 2262, .*\(day: 1, first in row 1\)",
        ),
    ],
    ids=["column", "columns", "another file", "writing", "settings", "value", "time"],
)
def test_query_that_cannot_be_a_source_is_refused(
    spec: FeatureTableSpec, query: str, kind: type[Exception], said: str
) -> None:
    home = _folder(spec).parent
    (home / "secret.csv").write_text("customer_id,day,spent,payments\n1,2024-01-01T00:00Z,1,1\n")

    with pytest.raises(kind, match=said):
        read_table(_with_query(spec, query.replace("{home}", str(home))), SourceResource())

    assert not (home / "stolen.csv").exists()


def test_file_that_is_not_there_is_named(spec: FeatureTableSpec) -> None:
    (_folder(spec) / "paid.parquet").unlink()

    with pytest.raises(SourceError, match=r"paid\.parquet does not exist"):
        read_table(spec, SourceResource())


@pytest.mark.parametrize(
    "query",
    [
        "COPY shops TO '{shops}' (USE_TMP_FILE false)",
        "COPY shops TO '{shops}' (USE_TMP_FILE false); SELECT * FROM shops",
        "ATTACH '{shops}' AS other; SELECT * FROM shops",
        "SELECT * FROM shops; SELECT * FROM shops",
        "SET VARIABLE one = 1",
        "-- nothing",
    ],
)
def test_query_only_reads_even_its_own_files(spec: FeatureTableSpec, query: str) -> None:
    shops = _folder(spec) / "shops1.csv"
    before = shops.read_bytes()

    with pytest.raises(SourceError, match="is not a single SELECT"):
        read_table(_with_query(spec, query.replace("{shops}", str(shops))), SourceResource())

    assert shops.read_bytes() == before


ROW = "SELECT 1 AS customer_id, TIMESTAMPTZ '2024-01-01 00:00Z' AS day, {} AS spent, 1 AS payments"


@pytest.mark.parametrize("value", ["CAST(shop AS INTEGER)", "union_value(one := 1)"])
def test_failure_among_the_rows_is_that_of_the_query(spec: FeatureTableSpec, value: str) -> None:
    query = f"{ROW.format(value)} FROM paid, range(100000)"
    with pytest.raises(SourceError, match="the DuckDB query over paid, shops failed: "):
        read_table(_with_query(spec, query), SourceResource())


def test_endless_query_is_canceled(spec: FeatureTableSpec) -> None:
    query = f"{ROW.format('sum(range)')} FROM range(1000000000000) WHERE range % 7 = 3"
    spec = _with_query(spec, query)
    assert spec.source.duckdb is not None
    limited = replace(spec.source.duckdb, timeout=timedelta(milliseconds=50))
    spec = replace(spec, source=replace(spec.source, duckdb=limited))

    with pytest.raises(SourceError, match=r"took longer than 0:00:00.05\d* and was canceled"):
        read_table(spec, SourceResource())


def test_error_is_short_and_does_not_tell_what_a_variable_holds(
    spec: FeatureTableSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOURCE_SHOPS", str(_folder(spec) / "shops1.csv"))
    assert spec.source.duckdb is not None
    files = {"paid": spec.source.duckdb.files["paid"], "shops": "${SOURCE_SHOPS}"}
    duckdb_query = replace(spec.source.duckdb, files=files)
    spec = replace(spec, source=replace(spec.source, duckdb=duckdb_query))
    (_folder(spec) / "shops1.csv").write_bytes(b"shop,risky\n" + b"a" * 100_000 + b"\xe9,true\n")

    with pytest.raises(SourceError, match=r"failed: .*CSV") as caught:
        read_table(spec, SourceResource())
    assert len(str(caught.value)) < 1_200

    (_folder(spec) / "shops1.csv").write_bytes(b"shop,risky\n\xe9,true\n")
    with pytest.raises(SourceError, match=r"file = \$\{SOURCE_SHOPS\}") as caught:
        read_table(spec, SourceResource())
    assert str(_folder(spec)) not in str(caught.value)


def test_query_that_no_encoding_can_write_is_refused() -> None:
    with pytest.raises(ValueError, match="character 9 is half a pair"):
        DuckdbQuery("SELECT '\ud800'", {"a": "a.csv"})


def test_name_with_brackets_is_that_of_one_file(spec: FeatureTableSpec) -> None:
    (_folder(spec) / "paid[1].csv").write_text("amount\n7\n")
    (_folder(spec) / "paid1.csv").write_text("amount\n8\n")
    assert spec.source.duckdb is not None
    query = ROW.format("amount::DOUBLE") + " FROM paid"
    named = replace(
        spec.source.duckdb, query=query, files={"paid": str(_folder(spec) / "paid[1].csv")}
    )
    spec = replace(spec, source=replace(spec.source, duckdb=named))

    assert read_table(spec, SourceResource()).table["spent"].to_pylist() == [7.0]


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("AS spent", "AS spend", "lacks spent in its columns: it has customer_id, day, spend"),
        ("GROUP BY ALL", "GROUP BY", "failed: Parser Error: syntax error"),
        ("sum(amount)", "sum(price)", 'failed: Binder Error: .* "price" not found'),
    ],
)
def test_check_refuses_a_query_that_cannot_be_run(
    spec: FeatureTableSpec, capsys: pytest.CaptureFixture[str], old: str, new: str, said: str
) -> None:
    file = _folder(spec) / "defs.yaml"
    assert main(["check", str(file)]) == 0
    file.write_text(TABLE.replace(old, new))
    assert main(["check", str(file)]) == 1
    place = re.escape(f"{file}:5: source.duckdb.query: the DuckDB query over paid, shops ")
    assert re.search(place + said, capsys.readouterr().out)
