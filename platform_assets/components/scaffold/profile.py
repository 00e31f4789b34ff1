"""Statistics of each column of a table, and the user's request."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final

from platform_assets.components.scaffold.names import valid_model_name
from platform_assets.features.sources.columns import Column
from serving_gateway.contract import DType

INTEGER: Final = Column("integer", DType.INT64)
BOOLEAN: Final = Column("boolean", DType.BOOL)
NUMBER: Final = Column("number", DType.FP64)
TEXT: Final = Column("text", DType.BYTES)
TIME: Final = Column("time", None, timezone="UTC")
_MOST_STRAY: Final = 0.05
"""Share of cells that are likelier errors than texts of their own."""
TYPES: Final = (INTEGER, BOOLEAN, NUMBER, TEXT, TIME)
"""The types to which a column is tentatively cast, by the casting rules."""


class ScaffoldError(Exception):
    """No model file can be made from the table; the message says why in one sentence."""


@dataclass(frozen=True, slots=True)
class ModelRequest:
    """The user's input; fields that are None are inferred."""

    table: str
    """Path of the table."""
    target: str
    name: str | None = None
    key: str | None = None
    time: str | None = None
    task: str | None = None
    separator: str | None = None

    def __post_init__(self) -> None:
        """Take what a shell makes of a tab; ScaffoldError for what cannot separate."""
        mark = "\t" if self.separator == r"\t" else self.separator
        if mark is not None and (len(mark) != 1 or mark in '"\r\n'):
            raise ScaffoldError(f"{mark!r} is not a separator: give one character, such as ;")
        object.__setattr__(self, "separator", mark)

    @property
    def path(self) -> Path:
        """The whole path of the table; ScaffoldError for the home of an unknown user."""
        try:
            return Path(self.table).expanduser().absolute()
        except RuntimeError as error:
            raise ScaffoldError(f"{self.table} cannot be found: {error}") from error

    @property
    def title(self) -> str:
        """Display name of the table in messages."""
        return Path(self.table).name

    @property
    def stem(self) -> str:
        """The name of the table without suffixes."""
        return self.path.name.partition(".")[0]

    @property
    def model_name(self) -> str:
        """The name of the model, as requested or from the table."""
        return self.name or valid_model_name(self.stem)


@dataclass(frozen=True, slots=True)
class ColumnProfile:
    """One column; counts are numbers of cells."""

    header: str
    place: int
    """Position of the column, from 1."""
    source_type: str
    """Type as named by DuckDB."""
    rows: int
    texts: int
    """Cells that are not missing if the column is text."""
    values: int
    """Cells that are not missing if it is any other type, in which `NA` and the like are."""
    wrong: Mapping[str, int]
    """Cells whose cast failed, by the name of the type tried."""
    distinct: int
    """Number of distinct texts."""
    distinct_integers: int
    distinct_booleans: int
    least: float | None
    """Least of the numbers; likewise the greatest."""
    greatest: float | None
    decimals: int
    """Numbers with a decimal point, and floats."""
    zero_led: int
    """Integers written with leading zeros."""
    lossy: int
    """Numbers that lose digits in 32 bits."""
    infinite: int
    earliest: datetime | None
    latest: datetime | None
    local_times: int
    """Times without an offset."""
    otherwise_written: int
    """Numbers, amounts and dates in a notation that is not read: 3,5, $1,200 or 03/01/2024."""

    def fits(self, column: Column) -> bool:
        """Whether all cells that are not missing, at least one, have a value of this type."""
        present = self.texts if column is TEXT else self.values
        return present > 0 and self.wrong[column.name] == 0

    @property
    def is_whole(self) -> bool:
        """Whether the cells are integers without significant leading zeros."""
        return self.fits(INTEGER) and not self.zero_led

    @property
    def is_time(self) -> bool:
        """Whether the cells are times rather than numbers."""
        return self.fits(TIME) and not self.fits(NUMBER)

    @property
    def missing(self) -> int:
        """Cells without a value."""
        is_text = not any(map(self.fits, (NUMBER, BOOLEAN, TIME)))
        return self.rows - (self.texts if is_text else self.values)

    @property
    def is_constant(self) -> bool:
        """Whether all cells that are not missing have the same value."""
        if self.fits(NUMBER) and not self.zero_led:
            # Doubles do not tell large integers apart.
            is_exact = self.least is not None and abs(self.least) < 2**53
            return self.least == self.greatest and (is_exact or self.distinct == 1)
        return (self.distinct_booleans if self.fits(BOOLEAN) else self.distinct) == 1

    @property
    def is_in_other_notation(self) -> bool:
        """Whether every cell is a number or a date, none of which is read as one."""
        return self.otherwise_written == self.texts > 0 and not self.fits(NUMBER)

    @property
    def stray(self) -> str | None:
        """Which few cells keep the column from being numbers, in words."""
        count = self.wrong[NUMBER.name]
        if not 0 < count <= self.values * _MOST_STRAY or self.fits(BOOLEAN) or self.fits(TIME):
            return None
        return f"all but {count:,} of {self.values:,} cells are numbers: correct or empty those"

    @property
    def is_unique(self) -> bool:
        """Whether no two cells are equal, and none is missing."""
        count = self.distinct_integers if self.is_whole else self.distinct
        return count == self.rows

    @property
    def is_consecutive(self) -> bool:
        """Whether the cells are consecutive integers, each once."""
        if not (self.is_whole and self.is_unique and self.least is not None):
            return False
        return (self.greatest or 0.0) - self.least + 1 == self.rows


Unique = Callable[[ColumnProfile, ColumnProfile], bool]
"""Whether no two rows have the same pair of a key and a time."""


@dataclass(frozen=True, slots=True)
class TableProfile:
    """A table: its columns with unique headers, and the duplicate headers."""

    rows: int
    columns: tuple[ColumnProfile, ...]
    repeated: tuple[str, ...]
    is_unique: Unique
