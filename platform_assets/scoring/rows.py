"""The rows to score, as DuckDB hands them over in parts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Final

import duckdb
import pyarrow as pa

from platform_assets.features.records import FeatureData
from platform_assets.features.storage import check_current
from platform_assets.resources.feast_errors import translated

_MEMORY: Final = "1GB"
"""What a join may hold; the rest goes to files."""


@dataclass(frozen=True, slots=True)
class InputRows:
    """Rows to score: `names` as they are known by, `AS_OF`, the features, and `REASON`.

    `total` is how many there are, at most.
    """

    names: tuple[str, ...]
    total: int
    query: str
    files: Mapping[str, str | list[str]] = field(default_factory=dict)
    """Parquet files by the variables of the query."""
    now: datetime | None = None
    keys: tuple[str, ...] = ()
    """Those of `names` by which the online store has the row."""
    tables: tuple[FeatureData, ...] = ()
    """What was read of feature tables, or of the model's own."""

    def check_current(self) -> None:
        """Raise StaleDataError where other data took the place of what is read.

        The rows of a view that others fill are read as they are now, as by the gateway.
        """
        for one in self.tables:
            if not one.is_external:
                check_current(one)

    @contextmanager
    def read(self, part_rows: int, folder: Path) -> Iterator[pa.RecordBatchReader]:
        """Open the rows, so many at a time; `folder` takes what does not fit into memory.

        Raises:
            FeatureStoreError: the files cannot be read.
        """
        config: dict[str, str | bool | int | float | list[str]] = {
            "enable_external_file_cache": False,
            "threads": 1,  # one keeps the order; Triton needs the others
            "memory_limit": _MEMORY,
            "temp_directory": str(folder),
            # The sides of a join as they are written, or the order would be lost.
            "disabled_optimizers": "build_side_probe_side",
        }
        with duckdb.connect(config=config) as database:
            with translated("read the rows to score"):
                database.execute("SET TimeZone = 'UTC'")
                database.execute("SET VARIABLE now = ?", [self.now])
                for name, path in self.files.items():
                    database.execute(f"SET VARIABLE {name} = ?", [path])
                reader = database.sql(self.query).to_arrow_reader(part_rows)
            yield reader
