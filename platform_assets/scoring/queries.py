"""SQL for the rows to score: from tables, from a file, or from both."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path

from platform_assets.features.records import FeatureData
from platform_assets.features.sources.casting import quoted
from platform_assets.features.sources.reader import Progress
from platform_assets.model_spec import FeatureTableSpec, ModelSpec, SourceSpec, table_job_name
from platform_assets.resources.source import SourceError
from platform_assets.scoring.records import AS_OF, REASON, ROW
from platform_assets.scoring.rows import InputRows
from platform_assets.scoring.staging import ParquetStage, stage_file


def open_rows(
    file: str | None,
    tables: tuple[FeatureData, ...],
    spec: ModelSpec,
    now: datetime,
    folder: Path,
    progress: Progress,
) -> InputRows:
    """Return the rows of a file, or of all entities; `tables` are those that the model reads.

    A file is first read completely into `folder` and checked. Raises as `stage_file` and
    `joined_rows` do.
    """
    stage = None if file is None else stage_file(file, spec, folder, progress)
    if spec.tables:
        return joined_rows(tables, spec, now, stage)
    return newest_rows(tables[0], spec, now) if stage is None else file_rows(stage, spec)


def newest_rows(data: FeatureData, spec: ModelSpec, now: datetime) -> InputRows:
    """Return the newest row of every entity in a model's own table."""
    table = _Table(spec, "t0", spec.feature_names)
    columns = [_identifier(name) for name in (spec.join_key.name, *spec.feature_names)]
    reason = f"CASE WHEN NOT {table.is_fresh} THEN {quoted(table.expired)} END AS {REASON}"
    return InputRows(
        names=(spec.join_key.name,),
        total=data.entities,
        query=f"SELECT {', '.join(columns)}, {table.time} AS {AS_OF}, {reason} FROM {table.newest}",
        files={table.alias: data.features_path},
        now=now,
        keys=(spec.join_key.name,),
        tables=(data,),
    )


def file_rows(stage: ParquetStage, spec: ModelSpec) -> InputRows:
    """Return the rows of a file with all features of the model."""
    names = tuple(name for name in (ROW, *stage.names) if name not in spec.feature_names)
    return InputRows(
        names=names,
        total=stage.rows,
        query=f"SELECT *, NULL::TIMESTAMPTZ AS {AS_OF}, NULL::VARCHAR AS {REASON} "
        "FROM read_parquet(getvariable('rows'))",
        files={"rows": stage.files},
    )


def joined_rows(
    tables: tuple[FeatureData, ...], spec: ModelSpec, now: datetime, stage: ParquetStage | None
) -> InputRows:
    """Join keys with the newest values of feature tables, as the gateway would.

    The keys and the request features come from a file; without one, from all keys of the tables
    if there is a single key and no request feature.

    Raises:
        SourceError: there is no file, and the tables do not determine which keys belong together;
            or a table without times has several rows of one key.
    """
    for table, data in zip(spec.tables, tables, strict=True):
        if table.event_time is None and data.rows != data.entities:
            raise SourceError(
                f"{table.name} has several rows of one {table.join_key.name}, and no "
                "event_timestamp that says which of them is the newest",
                f"give the file of {table.name} its event_timestamp, or keep one row per key, and "
                f"run {table_job_name(table.name)}, then again",
            )
    keys = spec.join_key_names
    parts = [
        _Table(
            table,
            f"t{n}",
            tuple(feature.name for feature in spec.stored_features if feature.table == table.name),
        )
        for n, table in enumerate(spec.tables)
    ]
    files: dict[str, str | list[str]] = {
        part.alias: data.features_path for part, data in zip(parts, tables, strict=True)
    }
    if stage is not None:
        base, total, names = "read_parquet(getvariable('rows'))", stage.rows, (ROW, *keys)
        files["rows"] = stage.files
    elif len(keys) > 1 or spec.request:
        raise SourceError(
            f"the tables of {spec.name} do not say which rows there are to score",
            f"give the path of a file with the columns {', '.join((*keys, *spec.request_names))} "
            "as `source` in the configuration of the run",
        )
    else:
        key = _identifier(keys[0])
        every = " UNION ALL ".join(f"SELECT {key} FROM {part.rows}" for part in parts)
        base, total, names = (
            f"(SELECT DISTINCT {key} FROM ({every}))",
            max(data.entities for data in tables),
            keys,
        )
    columns = [
        *(f"r.{_identifier(name)}" for name in (*names, *spec.request_names)),
        *(column for part in parts for column in part.columns),
        f"least({', '.join(part.time for part in parts)}) AS {AS_OF}",
        f"coalesce({', '.join(_reasons(parts))}) AS {REASON}",
    ]
    joins = " ".join(part.join for part in parts)
    query = f"SELECT {', '.join(columns)} FROM {base} r {joins}"
    return InputRows(names, total, query, files, now, keys, tables)


def _reasons(parts: Sequence[_Table]) -> Iterator[str]:
    """Yield SQL for why the gateway would refuse a row: unknown key, or expired values."""
    for key in dict.fromkeys(part.key for part in parts):
        own = [part for part in parts if part.key == key]
        names = " and ".join(part.name for part in own)
        unknown = " AND ".join(f"{part.alias}.{_identifier(key)} IS NULL" for part in own)
        yield f"CASE WHEN {unknown} THEN {quoted(f'no row of {names} has this {key}')} END"
    for part in parts:
        yield f"CASE WHEN NOT {part.is_fresh} THEN {quoted(part.expired)} END"


class _Table:
    """The SQL for the newest rows of one table."""

    def __init__(
        self, table: SourceSpec | FeatureTableSpec, alias: str, names: Sequence[str]
    ) -> None:
        is_external = isinstance(table, FeatureTableSpec) and table.is_external
        self.alias, self.name, self.key = alias, table.name, table.join_key.name
        self.rows = f"read_parquet(getvariable('{alias}'))"
        key = _identifier(self.key)
        self.columns = [f"{alias}.{_identifier(name)}" for name in names]
        self.expired = f"values of {self.name} have expired"
        self.is_fresh, self.time, self.newest = "true", "NULL::TIMESTAMPTZ", f"{self.rows} {alias}"
        if table.event_time is not None:
            time = _identifier(table.event_timestamp)
            self.time = f"{alias}.{time}::TIMESTAMPTZ"
            if ttl := int(table.expires_after.total_seconds()):
                self.is_fresh = f"({self.time} >= getvariable('now') - INTERVAL {ttl} SECOND)"
            # Externally written rows may be in the future, or duplicated.
            past = f"WHERE {time}::TIMESTAMPTZ <= getvariable('now')" if is_external else ""
            once = f"SELECT DISTINCT ON ({key}) *" if is_external else ""
            times = f"SELECT {key}, max({time}) AS {time} FROM {self.rows} {past} GROUP BY {key}"
            self.newest = (
                f"({once} FROM {self.rows} SEMI JOIN ({times}) USING ({key}, {time})) {alias}"
            )
        self.join = f"LEFT JOIN {self.newest} ON r.{key} = {alias}.{key}"


def _identifier(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
