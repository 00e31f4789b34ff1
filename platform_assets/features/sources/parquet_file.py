"""One Parquet file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from platform_assets.features.sources.casting import file_in_sql
from platform_assets.features.sources.sink import RowSink, SourceRows
from platform_assets.resources.source import SourceError


@dataclass(frozen=True, slots=True)
class ParquetFile:
    """A file; errors call it `name` and `part`, `constants` are the columns of its folders."""

    path: Path
    name: str
    part: str
    constants: Mapping[str, str | None]

    def header(self) -> tuple[list[str]]:
        """Return the column names; SourceError for a damaged file, or OSError."""
        import pyarrow as pa
        from pyarrow import parquet

        try:
            return (list(parquet.read_schema(self.path).names),)
        except pa.ArrowException as exc:
            raise self._damage_error(exc) from exc

    def read_into(self, sink: RowSink) -> None:
        """Add all rows; SourceError if the file is damaged or has values of another type."""
        import duckdb

        [header] = self.header()
        relation = f"read_parquet({file_in_sql(self.path)}, hive_partitioning=false)"
        # By position: DuckDB treats names that differ only in case as one.
        places = ", ".join(f"c{place}" for place in range(len(header)))
        try:
            types = [str(type_) for type_ in sink.database.sql(f"FROM {relation} LIMIT 0").types]
            relation = f"{relation} AS file({places})"
            sink.add(SourceRows(self.name, self.part, relation, header, types, self.constants))
        except duckdb.Error as exc:
            raise self._damage_error(exc) from exc

    def _damage_error(self, exc: Exception) -> SourceError:
        problem = f"{self.name} cannot be read as Parquet: {exc}"
        return SourceError(problem, "write the file again, and run again")
