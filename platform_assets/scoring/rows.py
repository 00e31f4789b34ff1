"""The rows to score, read in parts by DuckDB."""

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
from platform_assets.resources.feast_errors import translate_feast_errors

_MEMORY: Final = "1GB"
"""Memory limit of a join; the rest spills to files."""


@dataclass(frozen=True, slots=True)
class InputRows:
    """Rows to score, with the identifying columns `names`, `AS_OF`, the features, and `REASON`.

    `total` is an upper bound of their number.
    """

    names: tuple[str, ...]
    total: int
    query: str
    files: Mapping[str, str | list[str]] = field(default_factory=dict)
    """Parquet files by variable of the query."""
    now: datetime | None = None
    keys: tuple[str, ...] = ()
    """The keys of the online store among `names`."""
    tables: tuple[FeatureData, ...] = ()
    """Records of the feature tables that are read, or of the model's own one."""

    def check_current(self) -> None:
        """Raise StaleDataError if the data was replaced meanwhile.

        Externally filled views are read in their present state, like the gateway does.
        """
        for table in self.tables:
            if not table.is_external:
                check_current(table)

    @contextmanager
    def read(self, part_rows: int, folder: Path) -> Iterator[pa.RecordBatchReader]:
        """Open the rows in batches of `part_rows`; `folder` takes what does not fit into memory.

        Raises:
            FeatureStoreError: the files cannot be read.
        """
        config: dict[str, str | bool | int | float | list[str]] = {
            "enable_external_file_cache": False,
            "threads": 1,  # keeps the order, and leaves the other cores to Triton
            "memory_limit": _MEMORY,
            "temp_directory": str(folder),
            # Keep the sides of a join as written, or the order would be lost.
            "disabled_optimizers": "build_side_probe_side",
        }
        with duckdb.connect(config=config) as database:
            with translate_feast_errors("read the rows to score"):
                database.execute("SET TimeZone = 'UTC'")
                database.execute("SET VARIABLE now = ?", [self.now])
                for name, path in self.files.items():
                    database.execute(f"SET VARIABLE {name} = ?", [path])
                reader = database.sql(self.query).to_arrow_reader(part_rows)
            yield reader
