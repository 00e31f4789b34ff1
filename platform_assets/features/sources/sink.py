"""Rows read from a source's files, and the interface that receives them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Protocol

from platform_assets.features.sources.casting import SPACES

if TYPE_CHECKING:
    import duckdb

ZERO_LED: Final = f"'^[{SPACES}]*[+-]?0[0-9]'"
"""Pattern of a number written with leading zeros, as an SQL literal."""


@dataclass(frozen=True, slots=True)
class SourceRows:
    """Some rows of a source, as DuckDB reads them.

    `name` is for errors, `part` a shorter one within the source. `relation` goes after FROM; it
    has a column c0, c1, ... of one of `types` for each of `headers`. `constants` are further
    columns, each of a single text. `before` rows of the same part came earlier; `locate` names
    rows by their numbers, from 1.
    """

    name: str
    part: str
    relation: str
    headers: Sequence[str]
    types: Sequence[str]
    constants: Mapping[str, str | None] = field(default_factory=dict)
    before: int = 0
    locate: Callable[[Sequence[int]], list[str]] = lambda rows: [f"row {row}" for row in rows]


class RowSink(Protocol):
    """Takes the rows of a source, part by part; their relations are in its database."""

    @property
    def database(self) -> duckdb.DuckDBPyConnection:
        """A connection made by `connect`."""

    def add(self, rows: SourceRows) -> None:
        """Add some rows; duckdb.Error, keeping none, if the relation cannot be read."""


def connect() -> duckdb.DuckDBPyConnection:
    """Open a database in memory, in which the casting rules hold."""
    import duckdb

    return duckdb.connect(
        config={
            "autoinstall_known_extensions": "false",  # nothing is downloaded
            "disabled_optimizers": "statistics_propagation",  # Parquet's statistics ignore NaN
            "temp_directory": "",
            "TimeZone": "UTC",
        }
    )
