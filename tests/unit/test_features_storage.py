"""Feature files: whole, marked with their source, and measured by the checks."""

from __future__ import annotations

import hashlib
import os
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from pyarrow import parquet

from platform_assets.features.checks import CLOCK_SKEW, range_report
from platform_assets.features.reading import read_source
from platform_assets.features.records import FeatureData
from platform_assets.features.storage import StaleDataError, check_current, write_feature_data
from tests.support.feature_chain import MIXED, feature_chain
from tests.support.models import IRIS


@pytest.fixture
def data(tmp_path: Path) -> FeatureData:
    chain = feature_chain(tmp_path)
    return write_feature_data(read_source(IRIS, chain.resource), IRIS, chain.feast.data_dir)


@pytest.fixture
def mixed(tmp_path: Path) -> FeatureData:
    chain = feature_chain(tmp_path, spec=MIXED)
    return write_feature_data(read_source(MIXED, chain.resource), MIXED, chain.feast.data_dir)


def _changed(data: FeatureData, column: str, values: pa.Array) -> pa.Table:
    table = parquet.read_table(data.features_path)
    return table.set_column(table.column_names.index(column), column, values)


def test_features_and_labels_are_written_apart_and_nothing_else(data: FeatureData) -> None:
    assert (data.rows, data.entities) == (450, 150)
    names = ["entity_id", "event_timestamp"]
    assert parquet.read_schema(data.labels_path).names == [*names, "species"]
    assert parquet.read_schema(data.features_path).names == [*names, *IRIS.feature_names]
    assert len(list(Path(data.features_path).parent.iterdir())) == 2
    assert Path(data.features_path).parent.name == "best_model"
    check_current(data)


def test_rows_without_a_label_are_features_and_no_labels(tmp_path: Path) -> None:
    spec = replace(MIXED, target=replace(MIXED.target, drop_missing=True))
    chain = feature_chain(tmp_path, spec=spec)
    chain.source.write_text(chain.source.read_text().replace(",no,", ",,", 3))
    data = write_feature_data(read_source(spec, chain.resource), spec, chain.feast.data_dir)
    assert data.rows == parquet.read_metadata(data.features_path).num_rows == 40
    assert parquet.read_table(data.labels_path)["paid"].null_count == 0
    assert parquet.read_metadata(data.labels_path).num_rows == 37


def test_what_a_killed_run_left_is_removed_once_no_writer_can_exist(
    data: FeatureData, tmp_path: Path
) -> None:
    folder = Path(data.features_path).parent
    left, writing = folder / ".features.parquet.1.part", folder / ".labels.parquet.2.part"
    for part in (left, writing):
        part.touch()
    hours_ago = time.time() - 2 * 3600
    os.utime(left, (hours_ago, hours_ago))
    chain = feature_chain(tmp_path)
    write_feature_data(read_source(IRIS, chain.resource), IRIS, chain.feast.data_dir)
    assert not left.exists()
    assert writing.exists()


def test_what_is_missing_is_null_in_the_files(mixed: FeatureData) -> None:
    table = parquet.read_table(mixed.features_path)
    assert table.slice(0, 2).to_pylist()[1]["income"] is None
    assert {name: table[name].null_count for name in MIXED.feature_names} == mixed.nulls
    assert [(one.column, one.outside) for one in range_report(table, MIXED)] == [
        ("income", 0),
        ("ratio", 0),
        ("children", 0),
        ("accounts", 0),
        ("seen", 0),
    ]


def test_a_column_of_nothing_but_nulls_has_no_range(mixed: FeatureData) -> None:
    table = _changed(mixed, "income", pa.nulls(40, pa.float64()))
    assert range_report(table, MIXED)[0].found == "nothing"


def test_files_of_another_source_are_noticed(data: FeatureData, tmp_path: Path) -> None:
    table = parquet.read_table(data.labels_path).replace_schema_metadata(None)
    parquet.write_table(table, data.labels_path)
    with pytest.raises(StaleDataError, match=r"labels\.parquet holds other data"):
        check_current(data)


@pytest.mark.parametrize("damage", [b"", b"PAR1 and then nothing", None])
def test_files_that_are_damaged_or_gone_are_noticed(
    data: FeatureData, damage: bytes | None
) -> None:
    path = Path(data.features_path)
    path.unlink()
    if damage is not None:
        path.write_bytes(damage)
    with pytest.raises(StaleDataError, match=r"features\.parquet cannot be read"):
        check_current(data)


def test_external_file_that_was_replaced_since_its_table_was_read_is_noticed(
    data: FeatureData, tmp_path: Path
) -> None:
    path = tmp_path / "people.parquet"
    path.write_bytes(b"theirs")
    digest = hashlib.sha256(b"theirs").hexdigest()
    people = FeatureData("people", "a view", str(path), "", 3, 3, digest, is_external=True)
    joined = replace(data, tables=(people,))
    check_current(joined)

    path.write_bytes(b"newer!")

    with pytest.raises(
        StaleDataError, match=r"people\.parquet was replaced .* first run people_table"
    ):
        check_current(joined)
    path.unlink()
    with pytest.raises(StaleDataError, match=r"people\.parquet cannot be read"):
        check_current(joined)


def test_sound_data_passes_all_measurements(data: FeatureData) -> None:
    table = parquet.read_table(data.features_path)
    assert [line.outside for line in range_report(table, IRIS)] == [0] * 5


@pytest.mark.parametrize("bad", [-1.0, 100.0, float("inf"), float("nan")])
def test_a_value_outside_its_range_is_counted(data: FeatureData, bad: float) -> None:
    values = parquet.read_table(data.features_path)["sepal_width"].to_pylist()
    values[5] = bad
    table = _changed(data, "sepal_width", pa.array(values, pa.float32()))
    outside = {line.column: line.outside for line in range_report(table, IRIS)}
    assert outside["sepal_width"] == 1
    assert sum(outside.values()) == 1


def test_a_bound_is_inclusive_in_the_precision_of_the_column(data: FeatureData) -> None:
    table = _changed(data, "petal_width", pa.array([0.1, 0.7] * 225, pa.float32()))
    features = tuple(
        replace(one, minimum=0.1, maximum=0.7) if one.name == "petal_width" else one
        for one in IRIS.features
    )
    report = range_report(table, replace(IRIS, features=features))
    assert {line.column: line.outside for line in report}["petal_width"] == 0


@pytest.mark.parametrize(
    ("minimum", "maximum", "outside"),
    [
        (0, None, 1),
        (None, 0.5, 3),
        (-0.5, 2**53, 3),
        (-1, 1e30, 0),
        (-1e30, 1e30, 0),
        (1.5, None, 2),
    ],
)
def test_integers_beyond_the_precision_of_doubles_are_compared_as_integers(
    mixed: FeatureData, minimum: float | None, maximum: float | None, outside: int
) -> None:
    table = _changed(
        mixed, "accounts", pa.array([-1, 1, 2**53 + 1, -(-(2**63) + 1), *[None] * 36], pa.int64())
    )
    features = tuple(
        replace(one, minimum=minimum, maximum=maximum) if one.name == "accounts" else one
        for one in MIXED.features
    )

    lines = {one.column: one for one in range_report(table, replace(MIXED, features=features))}

    assert lines["accounts"].outside == outside
    assert lines["accounts"].found == "-1 .. 9.22337e+18"


def test_an_event_in_the_future_is_counted_beyond_what_clocks_differ_by(
    data: FeatureData,
) -> None:
    table = parquet.read_table(data.features_path)
    last = pc.max(table["event_timestamp"]).as_py()
    line = range_report(table, IRIS, now=datetime(2024, 3, 20, tzinfo=UTC))[-1]
    assert (line.column, line.outside) == ("event_timestamp", 150)
    assert range_report(table, IRIS, now=last - CLOCK_SKEW)[-1].outside == 0
    assert range_report(table, IRIS, now=last - CLOCK_SKEW - timedelta(seconds=1))[-1].outside == 1
