"""The rows of a view that another team fills, in whatever form their tools wrote them."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pyarrow as pa
import pytest
from pyarrow import parquet

from platform_assets.components.loading import read_models
from platform_assets.features.external_view import read_external_view

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
