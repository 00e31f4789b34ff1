"""The join of labels with feature tables, over files of Parquet."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pytest
from pyarrow import parquet

from platform_assets.components.loading import read_models
from platform_assets.features.point_in_time import RepeatedRowsError, join_tables
from platform_assets.features.records import FeatureData
from platform_assets.model_spec import ModelSpec
from tests.support.scoring import customers_data, data_of, shops_data
from tests.support.several_tables import Tables, tables, write_files


def test_columns_of_any_name_are_joined(tmp_path: Path) -> None:
    """Also by names that the join may want for itself."""
    drawn = tables(payments=20)
    write_files(tmp_path, drawn)
    for file in tmp_path.glob("*/defs.yaml"):
        text = file.read_text().replace("shop_id", "t0").replace("amount", "__row")
        file.write_text(text.replace("column: bad", "column: __found_0"))
    [spec] = read_models(tmp_path).specs.values()
    shops = shops_data(drawn, tmp_path)
    named = parquet.read_table(shops.features_path)
    parquet.write_table(named.rename_columns({"shop_id": "t0"}), shops.features_path)
    names = ("customer_id", "t0", spec.event_timestamp, "__row", "__found_0")
    columns = dict(zip(names, map(list, zip(*drawn.payments, strict=True)), strict=True))
    columns[spec.event_timestamp] = pa.array(
        columns[spec.event_timestamp], pa.timestamp("us", "UTC")
    )
    labels = data_of("payments", columns, tmp_path)
    made = (customers_data(drawn, tmp_path), shops)
    data = replace(labels, labels_path=labels.features_path, tables=made)

    joined = join_tables(data, spec)

    assert joined.column_names == [*names, "age", "region", "risk"]
    assert joined["__row"].to_pylist() == [one[3] for one in drawn.payments]
    assert joined["__found_0"].to_pylist() == [one[4] for one in drawn.payments]
    assert joined["risk"].null_count == 0


def labels_of(drawn: Tables, spec: ModelSpec, folder: Path) -> FeatureData:
    """The payments as labels, with their keys and times alone."""
    customer, shop, at, *_ = map(list, zip(*drawn.payments, strict=True))
    times = pa.array(at, pa.timestamp("us", "UTC"))
    columns = {"customer_id": customer, "shop_id": shop, spec.event_timestamp: times}
    return data_of("payments", columns, folder)


def test_times_without_a_zone_are_in_utc(tmp_path: Path) -> None:
    """As pandas writes them, in nanoseconds."""
    drawn = tables(payments=20)
    write_files(tmp_path, drawn)
    [spec] = read_models(tmp_path).specs.values()
    customers, shops = customers_data(drawn, tmp_path), shops_data(drawn, tmp_path)
    labels = labels_of(drawn, spec, tmp_path)
    data = replace(labels, labels_path=labels.features_path, tables=(customers, shops))
    expected = join_tables(data, spec)
    table = parquet.read_table(customers.features_path)
    place = table.column_names.index("seen")
    naive = table.column(place).cast(pa.timestamp("ns", "UTC")).cast(pa.timestamp("ns"))
    parquet.write_table(table.set_column(place, "seen", naive), customers.features_path)

    assert join_tables(data, spec) == expected


def test_table_without_times_that_repeats_a_key_is_refused(tmp_path: Path) -> None:
    """Each label would be learned from once for every such row."""
    drawn = tables(payments=20)
    write_files(tmp_path, drawn)
    [spec] = read_models(tmp_path).specs.values()
    shops = shops_data(drawn, tmp_path)
    once = parquet.read_table(shops.features_path)
    parquet.write_table(pa.concat_tables([once, once]), shops.features_path)
    labels = labels_of(drawn, spec, tmp_path)
    made = (customers_data(drawn, tmp_path), shops)
    data = replace(labels, labels_path=labels.features_path, tables=made)

    with pytest.raises(RepeatedRowsError, match="20 labels became 40 rows: shops has several rows"):
        join_tables(data, spec)
