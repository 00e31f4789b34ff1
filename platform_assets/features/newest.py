"""The newest row of every entity; `features.parquet` has one row per entity and time."""

from __future__ import annotations

import os
from datetime import datetime
from pathlib import Path

import duckdb
import pyarrow as pa
from pyarrow import compute, parquet

from platform_assets.features.records import FeatureData
from platform_assets.model_spec import SourceSpec
from platform_assets.resources.feast_errors import translate_feast_errors


def write_newest(data: FeatureData, spec: SourceSpec, path: Path) -> None:
    """Write the newest row of each entity in `features.parquet`, in the order of the file."""
    key, time = f'"{spec.join_key.name}"', f'"{spec.event_timestamp}"'
    rows = "read_parquet(getvariable('source'))"
    newest = f"SELECT {key}, max({time}) AS {time} FROM {rows} GROUP BY {key}"  # noqa: S608
    # A single thread keeps the order and needs less memory.
    with (
        translate_feast_errors("find the newest rows"),
        duckdb.connect(config={"enable_external_file_cache": False, "threads": 1}) as database,
    ):
        database.execute("SET TimeZone = 'UTC'")
        database.execute("SET VARIABLE source = ?", [data.features_path])
        relation = database.sql(f"FROM {rows} SEMI JOIN ({newest}) USING ({key}, {time})")
        relation.write_parquet(str(path))
    with path.open("rb") as file:
        os.fsync(file.fileno())


def newest_times(data: FeatureData, spec: SourceSpec) -> dict[int | str, datetime]:
    """Return the newest event time (UTC) of every entity, in the order of the entities."""
    key, time = spec.join_key.name, spec.event_timestamp
    newest = _columns(data, key, time).group_by(key).aggregate([(time, "max")]).sort_by(key)
    return dict(zip(newest[key].to_pylist(), newest[f"{time}_max"].to_pylist(), strict=True))


def time_span(data: FeatureData, spec: SourceSpec) -> tuple[datetime, datetime]:
    """Return the first and the last event time, in UTC."""
    times = _columns(data, spec.event_timestamp)[spec.event_timestamp]
    extremes = compute.min_max(times).as_py()
    return extremes["min"], extremes["max"]


def _columns(data: FeatureData, *names: str) -> pa.Table:
    return parquet.read_table(data.features_path, columns=list(names))
