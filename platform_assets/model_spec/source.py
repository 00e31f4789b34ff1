"""The source of a model's rows."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Final, Self

from pydantic import AfterValidator, Field, StrictInt, StrictStr, model_validator
from pydantic.dataclasses import dataclass

from platform_assets.model_spec.fields import (
    CONFIG,
    Duration,
    as_yaml,
    duration,
    full_match,
    reject,
)

SOURCE_PREFIX: Final = "SOURCE_"
"""Prefix of the environment variables that sources may name: others may hold secrets."""
_LONGEST_NAME: Final = 255
_LONGEST: Final = 4_000
"""Maximum bytes of a name and characters of a path on Linux and macOS."""
_VARIABLE: Final = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")
_PASSWORD: Final = re.compile(
    r"(?:://[^/@:]*:(?=[^@]+@)|(?:password|passwd|pwd)(?:=|%3D))(?P<password>[^@&;]+)",
    re.IGNORECASE,
)


def _expandable(text: str) -> str:
    if "{{" in text:
        raise ValueError(
            "templates are not expanded: write ${SOURCE_NAME} for an environment variable, which "
            "is read together with the source"
        )
    for name in _VARIABLE.findall(text):
        if not name.startswith(SOURCE_PREFIX):
            raise ValueError(f"{name}: a source may only use variables named {SOURCE_PREFIX}...")
    return text


def check_path(text: str) -> str:
    """Return a local path of a file, a folder or a pattern; ValueError for anything else."""
    if not text.strip() or not text.isprintable():
        raise ValueError(f"{as_yaml(text)} is not a path")
    if "://" in text:
        raise ValueError(
            f"{as_yaml(text)} is an address: files are read from this machine only, so mount the "
            "storage, or use sql"
        )
    if max(len(part.encode()) for part in text.split("/")) > _LONGEST_NAME or len(text) > _LONGEST:
        raise ValueError(f"{as_yaml(text)} is longer than a path can be")
    try:
        Path(text).expanduser()
    except RuntimeError:
        raise ValueError(
            f"{as_yaml(text)}: this user has no home directory here: write the whole path"
        ) from None
    return text


def _url(text: str) -> str:
    if "://" not in text and not text.startswith("${"):
        raise ValueError("write dialect://..., or ${SOURCE_NAME} for all of it")
    if any(not match["password"].startswith("${") for match in _PASSWORD.finditer(text)):
        raise ValueError(
            "holds a password that anyone can read: put it into an environment variable and write "
            "${SOURCE_NAME} in its place"
        )
    return text


def _query(text: str) -> str:
    if not text.strip():
        raise ValueError("is empty: write a SELECT")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"character {error.start + 1} is half a pair: remove it") from None
    return text


Query = Annotated[StrictStr, AfterValidator(_query)]
Template = AfterValidator(_expandable)


@dataclass(frozen=True, config=CONFIG)
class SqlQuery:
    """The rows of a query."""

    url: Annotated[StrictStr, Template, AfterValidator(_url)]
    """SQLAlchemy's URL of the database. Put passwords into an environment variable, written as
    `${SOURCE_NAME}` (with `@ : /` as `%40 %3A %2F`)."""
    query: Query
    """The SELECT that returns the model's columns, run exactly as written."""
    timeout: Annotated[Duration, Field(json_schema_extra={"default": "1h"})] = duration("1h")
    """Time limit for reading all rows."""
    changed: Annotated[Query | None, Field(examples=["SELECT max(updated), count(*) FROM t"])] = (
        None
    )
    """A cheap SELECT whose answer changes with the rows. `on_new_data` runs it instead of `query`,
    and reads the rows only when the answer has changed."""


SourceFile = Annotated[StrictStr, Template, AfterValidator(check_path)]
_ViewName = Annotated[StrictStr, full_match(r"[A-Za-z0-9_]+", "not the name of a view")]
_VIEW_RULE: Final = "use an ASCII letter, then letters, digits or underscores"


@dataclass(frozen=True, config=CONFIG)
class DuckdbQuery:
    """The rows of a DuckDB query over files."""

    query: Query
    """The SELECT that returns the columns, run exactly as written; it reads nothing but `files`."""
    files: Annotated[
        dict[Annotated[StrictStr, full_match(r"[A-Za-z][A-Za-z0-9_]*", _VIEW_RULE)], SourceFile],
        Field(min_length=1, examples=[{"payments": "payments.parquet"}]),
    ]
    """Name in the query -> file, folder or glob pattern, as `file` takes them. Columns of a CSV
    have the types that DuckDB finds in all rows."""
    timeout: Annotated[Duration, Field(json_schema_extra={"default": "1h"})] = duration("1h")
    """Time limit for reading all rows."""


@dataclass(frozen=True, config=CONFIG)
class Source:
    """Where the rows are; exactly one of `file`, `sql`, `duckdb`, `feast_view` and `dataset`."""

    file: SourceFile | None = None
    """A CSV (also .csv.gz, .tsv) or Parquet file, a folder of them (also Hive partitions) or a glob
    pattern, relative to the model file. `${SOURCE_NAME}` stands for an environment variable; its
    name must begin with `SOURCE_`."""
    separator: Annotated[StrictStr, Field(examples=[";"], min_length=1, max_length=1)] | None = None
    """The separator of a CSV; by default the one of `,` `;` `|` and tab that yields the columns."""
    sql: SqlQuery | None = None
    """The rows of a query."""
    duckdb: DuckdbQuery | None = None
    """The rows of a DuckDB query over files, for aggregates and windows in SQL."""
    feast_view: _ViewName | None = None
    """For a feature table: a view that is registered in Feast by others. It is only read."""
    dataset: (
        Annotated[
            StrictStr,
            Template,
            full_match(
                r"(sklearn|vega|fraud)\.[A-Za-z][A-Za-z0-9_-]*",
                "write sklearn.<name>, vega.<name> or fraud.<name>, as sklearn.wine",
            ),
            Field(examples=["sklearn.wine", "vega.cars"]),
        ]
        | None
    ) = None
    """A data set from a package, `sklearn.<name>` or `vega.<name>`; or a table of generated card
    transactions, `fraud.customers`, `fraud.merchants` or `fraud.transactions`."""
    scale: Annotated[StrictInt, Field(ge=1, le=1000)] = 1
    """How many times larger than by default the tables of `fraud` are made."""
    check_every: Duration | None = None
    """How often the sensor of `on_new_data` checks the source; by default every `SENSOR_SECONDS` if
    set, else every minute, or every hour for a query without `changed`."""

    @model_validator(mode="after")
    def _check_kind(self) -> Self:
        kinds = ("file", "sql", "duckdb", "feast_view", "dataset")
        kinds_given = [name for name in kinds if getattr(self, name) is not None]
        if len(kinds_given) != 1:
            problem = f"has {' and '.join(kinds_given)}" if kinds_given else "is empty"
            raise ValueError(f"{problem}: give exactly one of {', '.join(kinds)}")
        if self.separator is not None and (self.file is None or self.separator in '"\r\n'):
            message = "belongs to a file, and cannot be a quotation mark or a line break"
            reject([(("separator",), message)])
        if self.scale != 1 and not (self.dataset or "").startswith("fraud."):
            reject([(("scale",), "belongs to the generated tables of fraud: remove it")])
        return self

    @property
    def kind(self) -> str:
        """Dagster's kind tag: sql, duckdb, feast, file or python."""
        if self.duckdb or self.feast_view:
            return "duckdb" if self.duckdb else "feast"
        return "sql" if self.sql else "file" if self.file else "python"
