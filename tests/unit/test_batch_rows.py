"""Which rows batch scoring reads, and what it says of those that cannot be scored."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from platform_assets.components.loading import read_models
from platform_assets.features.records import FeatureData
from platform_assets.features.sources.reader import Progress
from platform_assets.model_spec import EventTime, FeatureSpec, ModelSpec
from platform_assets.resources.source import ColumnsError, SourceError
from platform_assets.scoring.inference import unscorable_reasons
from platform_assets.scoring.queries import joined_rows, newest_rows, open_rows
from platform_assets.scoring.records import AS_OF, REASON, ROW
from platform_assets.scoring.rows import InputRows
from platform_assets.scoring.staging import stage_file
from serving_gateway.contract import DType, Feature
from tests.support.drifting import VISITORS
from tests.support.scoring import customers_data, data_of, shops_data
from tests.support.several_tables import BEGIN, Tables, tables, write_files

NOW = BEGIN + timedelta(days=101)
STAMP = pa.timestamp("us", "UTC")
DATED = replace(VISITORS, event_time=EventTime("seen"), ttl=timedelta(days=30))


def read(rows: InputRows, folder: Path, part_rows: int = 7) -> list[dict[str, Any]]:
    with rows.read(part_rows, folder) as reader:
        found: list[dict[str, Any]] = reader.read_all().to_pylist()
    return found


def visits(folder: Path) -> FeatureData:
    """Entities 1 to 40, each seen on two days; every fifth one long ago."""
    entities = [entity for entity in range(1, 41) for _ in range(2)]
    days = [number % 2 + (0 if entity % 5 else -60) for number, entity in enumerate(entities)]
    return data_of(
        VISITORS.model_name,
        {
            "entity_id": entities,
            "seen": pa.array([NOW + timedelta(days=day - 3) for day in days], STAMP),
            "age": pa.array([float(number) for number in range(80)], pa.float32()),
            "visits": [*range(80)],
            "country": ["CH"] * 80,
            "member": [True] * 80,
        },
        folder,
    )


def test_entities_are_scored_by_their_newest_row_unless_it_has_expired(tmp_path: Path) -> None:
    rows = newest_rows(visits(tmp_path), DATED, NOW)

    found = read(rows, tmp_path)

    assert rows.total == 40
    assert [one["entity_id"] for one in found] == [*range(1, 41)]
    assert [one["visits"] for one in found] == [*range(1, 80, 2)]
    assert {one[AS_OF] for one in found if one["entity_id"] % 5} == {NOW - timedelta(days=2)}
    expired = {one["entity_id"]: one[REASON] for one in found if one[REASON]}
    assert expired == dict.fromkeys(range(5, 41, 5), "values of visitors have expired")


def test_values_without_a_time_do_not_expire(tmp_path: Path) -> None:
    data = visits(tmp_path)
    table = parquet.read_table(data.features_path).rename_columns(
        ["entity_id", "event_timestamp", *VISITORS.feature_names]
    )
    parquet.write_table(table.slice(0, 1), data.features_path)
    [found] = read(newest_rows(data, VISITORS, NOW), tmp_path)
    assert (found[AS_OF], found[REASON]) == (None, None)


@pytest.fixture
def payments(tmp_path: Path) -> tuple[ModelSpec, Tables, tuple[FeatureData, ...]]:
    """A model of two tables, with the rows behind it."""
    drawn = tables(payments=60)
    write_files(tmp_path, drawn)
    [spec] = read_models(tmp_path).specs.values()
    return spec, drawn, (customers_data(drawn, tmp_path), shops_data(drawn, tmp_path))


def test_keys_of_a_file_are_joined_with_the_newest_rows_of_the_tables(
    payments: tuple[ModelSpec, Tables, tuple[FeatureData, ...]], tmp_path: Path
) -> None:
    spec, drawn, made = payments
    lines = [f"{one},{shop},{amount}" for one, shop, _, amount, _ in drawn.payments]
    file = tmp_path / "score.csv"
    file.write_text("\n".join(["customer_id,shop_id,amount", *lines, "99,s1,1.5", "1,sX,"]) + "\n")

    found = read(open_rows(str(file), made, spec, NOW, tmp_path, Progress()), tmp_path)

    assert [one[ROW] for one in found] == [*range(1, 63)]
    newest = {
        one: max(at for each, at, *_ in drawn.customers if each == one) for one in range(1, 21)
    }
    fresh = {one for one, at in newest.items() if at >= NOW - timedelta(days=30)}
    assert 3 < len(fresh) < 20
    for (customer, shop, _, amount, _), one in zip(drawn.payments, found, strict=False):
        assert (one["customer_id"], one["shop_id"]) == (customer, shop)
        assert one["risk"] == np.float32(drawn.shops[shop])
        assert one["amount"] == np.float32(amount)
        assert one[AS_OF] == newest[customer]
        if customer in fresh:
            assert (one["age"], one["region"]) == drawn.known(customer, NOW)
            assert one[REASON] is None
        else:
            assert one[REASON] == "values of customers have expired"
    assert found[60][REASON] == "no row of customers has this customer_id"
    assert found[61][REASON] == "no row of shops has this shop_id"


def test_table_without_times_that_repeats_a_key_is_not_scored(
    payments: tuple[ModelSpec, Tables, tuple[FeatureData, ...]], tmp_path: Path
) -> None:
    spec, _, (customers, shops) = payments
    file = tmp_path / "score.csv"
    file.write_text("customer_id,shop_id,amount\n1,s1,1.5\n")
    twice = replace(shops, rows=2 * shops.rows)

    with pytest.raises(SourceError, match="shops has several rows of one shop_id"):
        open_rows(str(file), (customers, twice), spec, NOW, tmp_path, Progress())


def test_rows_that_others_replace_are_scored_as_they_are_now(
    payments: tuple[ModelSpec, Tables, tuple[FeatureData, ...]], tmp_path: Path
) -> None:
    """The gateway, too, reads what they have brought to the store since."""
    spec, _, (customers, shops) = payments
    file = tmp_path / "score.csv"
    file.write_text("customer_id,shop_id,amount\n1,s1,1.5\n")
    theirs = replace(customers, fingerprint="of another day", is_external=True)

    rows = open_rows(str(file), (theirs, shops), spec, NOW, tmp_path, Progress())

    rows.check_current()


def test_order_of_a_file_is_kept_however_large_the_tables_are(
    payments: tuple[ModelSpec, Tables, tuple[FeatureData, ...]], tmp_path: Path
) -> None:
    spec, drawn, (_, shops) = payments
    many = [(one, BEGIN, one % 90, "n") for one in range(5_000)]
    customers = customers_data(replace(drawn, customers=many), tmp_path)
    asked = [4_000, 17, 6_000, 3, 4_999, 17]
    file = tmp_path / "score.csv"
    file.write_text("\n".join(["customer_id,shop_id,amount", *(f"{n},s1,1" for n in asked)]) + "\n")

    found = read(
        open_rows(str(file), (customers, shops), spec, BEGIN, tmp_path, Progress()), tmp_path
    )

    assert [(one[ROW], one["customer_id"]) for one in found] == [*enumerate(asked, start=1)]


def test_tables_with_several_keys_or_request_features_need_a_file(
    payments: tuple[ModelSpec, Tables, tuple[FeatureData, ...]],
) -> None:
    spec, _, made = payments
    with pytest.raises(SourceError) as refused:
        joined_rows(made, spec, NOW, None)
    assert "columns customer_id, shop_id, amount as `source`" in refused.value.todo


def test_tables_with_one_key_are_scored_for_all_of_its_values(tmp_path: Path) -> None:
    drawn = tables(payments=10)
    write_files(tmp_path, drawn)
    text = (tmp_path / "payments" / "defs.yaml").read_text()
    text = text.replace(", shop_id: null", "").replace("    shops: [risk]\n", "")
    text = text.replace("  request:\n    amount: {minimum: 0}\n", "")
    (tmp_path / "payments" / "defs.yaml").write_text(text)
    [spec] = read_models(tmp_path).specs.values()
    data = customers_data(drawn, tmp_path)

    found = read(joined_rows((data,), spec, NOW, None), tmp_path)

    assert sorted(one["customer_id"] for one in found) == sorted(
        {one for one, *_ in drawn.customers}
    )


def test_files_are_numbered_through_and_may_name_columns_as_the_source_does(tmp_path: Path) -> None:
    features = (FeatureSpec("age", source_column="Age in years"), *VISITORS.features[1:])
    spec = replace(VISITORS, features=features)
    (tmp_path / "a.csv").write_text(
        "Age in years;visits;country;member\n1,5;3;;true\n".replace(",", ".")
    )
    (tmp_path / "b.csv").write_text("Age in years;visits;country;member\n;4;CH;0\n7;5;FR;1\n")

    stage = stage_file(str(tmp_path / "?.csv"), spec, tmp_path, Progress())

    rows = parquet.read_table(stage.files).to_pylist()
    assert [
        (one[ROW], one["age"], one["visits"], one["country"], one["member"]) for one in rows
    ] == [
        (1, 1.5, 3, None, True),
        (2, None, 4, "CH", False),
        (3, 7.0, 5, "FR", True),
    ]


def test_key_is_kept_where_the_file_has_it(tmp_path: Path) -> None:
    file = tmp_path / "rows.csv"
    file.write_text("member,entity_id,age,visits,country\n1,17,2,3,CH\n")
    [found] = read(open_rows(str(file), (), VISITORS, NOW, tmp_path, Progress()), tmp_path)
    assert (found[ROW], found["entity_id"], found["visits"]) == (1, 17, 3)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("age,visits,country,member\n1,2,CH,yes\n", "row 1 (line 2), member: 'yes' is not true or"),
        ("age,visits,country,member\n", "has columns and no rows"),
        ("age,visits\n1,2\n", "lacks country, member in its columns"),
        ("age,visits,country,member\n1,2\n", "row 1 (line 2) has 2 values, not 4"),
    ],
)
def test_file_that_does_not_fit_is_refused_with_the_place(
    tmp_path: Path, text: str, said: str
) -> None:
    file = tmp_path / "rows.csv"
    file.write_text(text)
    with pytest.raises(SourceError) as refused:
        stage_file(str(file), VISITORS, tmp_path, Progress())
    assert said in str(refused.value)
    assert "entity_id" not in refused.value.todo
    assert isinstance(refused.value, ColumnsError) is ("lacks" in said)


def test_rows_are_refused_for_what_the_gateway_refuses() -> None:
    batch = pa.record_batch(
        {
            REASON: pa.array(["expired", None, None, None, None]),
            "number": pa.array([None, 1.0, np.inf, None, 2.0], pa.float32()),
            "gap": pa.array([None, None, 1.0, None, 2.0], pa.float64()),
            "text": ["a", "", "b", "c", "d"],
            "count": pa.array([1, 2, 3, 4, None], pa.int64()),
        }
    )
    features = (
        Feature("number", DType.FP32),
        Feature("gap", DType.FP64, nullable=True),
        Feature("text", DType.BYTES),
        Feature("count", DType.INT64, nullable=True),
    )
    assert unscorable_reasons(batch, features).to_pylist() == [
        "expired",
        "text is missing",
        "number is infinite",
        "number is missing",
        None,
    ]


def test_rows_are_refused_for_nan_and_for_numbers_that_a_double_cannot_hold() -> None:
    """A table that others write may have NaN for null."""
    batch = pa.record_batch(
        {
            REASON: pa.nulls(4, pa.string()),
            "number": pa.array([1.0, np.nan, 1.0, 1.0], pa.float64()),
            "count": pa.array([2**53, 1, 2**53 + 1, -(2**63)], pa.int64()),
        }
    )
    features = Feature("number", DType.FP64), Feature("count", DType.INT64, nullable=True)
    assert unscorable_reasons(batch, features).to_pylist() == [
        None,
        "number is missing",
        *["count is beyond 2^53"] * 2,
    ]


@pytest.mark.parametrize(
    "path", ["a\0.csv", "~nobody-has-this-name/x.csv", "\ud800.csv", "x" * 256, "https://h/x.csv"]
)
def test_path_that_no_file_can_have_is_refused(
    payments: tuple[ModelSpec, Tables, tuple[FeatureData, ...]], tmp_path: Path, path: str
) -> None:
    spec, _, made = payments
    with pytest.raises(SourceError, match="the source to score: ") as caught:
        open_rows(path, made, spec, NOW, tmp_path, Progress())
    assert "path of a file" in caught.value.todo
