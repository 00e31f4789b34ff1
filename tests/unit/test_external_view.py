"""The rows of a view that another team fills, in whatever form their tools wrote them."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import dagster as dg
import pyarrow as pa
import pytest
from pyarrow import parquet

from platform_assets.components.loading import read_models
from platform_assets.features.external_view import read_external_view
from platform_assets.model_definitions import build

FILE = """type: platform_assets.components.FeatureTable
attributes:
  source: {feast_view: people}
  join_key: {column: person, type: text}
  event_timestamp: {column: seen}
  ttl: 30d
  columns:
    age: integer
"""


@pytest.mark.parametrize(
    "kind",
    [pa.string(), pa.large_string(), pa.string_view(), pa.dictionary(pa.int32(), pa.string())],
    ids=str,
)
def test_entities_are_counted_whatever_type_their_key_is_stored_in(
    tmp_path: Path, kind: pa.DataType
) -> None:
    from feast import Entity, FeatureView, Field, FileSource, ValueType
    from feast.types import Int64, String

    (tmp_path / "people").mkdir()
    (tmp_path / "people" / "defs.yaml").write_text(FILE)
    parquet.write_table(
        pa.table(
            {
                "person": pa.array(["ann", "bob", "ann", None]).cast(kind),
                "seen": pa.array([1, 2, 3, 4], pa.timestamp("us", tz="UTC")),
                "age": pa.array([30, 40, 31, 50]),
            }
        ),
        tmp_path / "people.parquet",
    )
    view = FeatureView(
        name="people",
        entities=[Entity(name="human", join_keys=["person"], value_type=ValueType.STRING)],
        ttl=timedelta(days=30),
        schema=[Field(name="person", dtype=String), Field(name="age", dtype=Int64)],
        source=FileSource(path=str(tmp_path / "people.parquet"), timestamp_field="seen"),
    )
    [spec] = read_models(tmp_path).tables.values()

    found = read_external_view(spec, view, tmp_path)

    assert (found.rows, found.entities) == (4, 2)


def _problems(folder: Path, text: str) -> list[str]:
    (folder / "people").mkdir()
    (folder / "people" / "defs.yaml").write_text(text)
    return [str(one).partition("defs.yaml:")[2] for one in read_models(folder).problems]


def test_view_is_refused_without_the_column_of_its_times(tmp_path: Path) -> None:
    """Every label would get all rows of its entity, later ones too."""
    text = FILE.replace("  event_timestamp: {column: seen}\n  ttl: 30d\n", "")

    assert _problems(tmp_path, text) == [
        "3: source.feast_view: needs `event_timestamp`: every view of Feast has times; write "
        "`event_timestamp: {column: <the view's timestamp_field>}`"
    ]


def test_view_whose_values_never_expire_can_be_described(tmp_path: Path) -> None:
    """A ttl of zero is Feast's default."""
    from feast import Entity, FeatureView, Field, FileSource, ValueType
    from feast.types import Int64, String

    assert _problems(tmp_path, FILE.replace("ttl: 30d", "ttl: none")) == []
    [spec] = read_models(tmp_path).tables.values()
    rows = {"person": ["ann"], "seen": pa.array([1], pa.timestamp("us", tz="UTC")), "age": [30]}
    parquet.write_table(pa.table(rows), tmp_path / "people.parquet")
    view = FeatureView(
        name="people",
        entities=[Entity(name="human", join_keys=["person"], value_type=ValueType.STRING)],
        schema=[Field(name="person", dtype=String), Field(name="age", dtype=Int64)],
        source=FileSource(path=str(tmp_path / "people.parquet"), timestamp_field="seen"),
    )

    assert read_external_view(spec, view, tmp_path).rows == 1
    assert spec.expires_after == timedelta()


def test_view_can_be_looked_at_again_at_the_times_of_a_schedule(tmp_path: Path) -> None:
    """A training refuses a file that was replaced since."""
    assert _problems(tmp_path, FILE.replace("  ttl", '  schedule: "0 3 * * *"\n  ttl')) == []
    [spec] = read_models(tmp_path).tables.values()

    definitions = build(spec)

    [schedule] = definitions.schedules or ()
    assert isinstance(schedule, dg.ScheduleDefinition)
    assert (schedule.cron_schedule, schedule.job_name) == ("0 3 * * *", "people_table")


def test_view_cannot_be_watched_for_new_data(tmp_path: Path) -> None:
    assert _problems(tmp_path, FILE.replace("  ttl", "  on_new_data: true\n  ttl")) == [
        "6: on_new_data: cannot be asked of a view of Feast: give the table a `schedule` instead"
    ]
