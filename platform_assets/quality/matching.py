"""Join the prediction log with outcomes: one row for each logged prediction.

Pure except for reading the files. The result depends on their rows alone, not on the number of
files or their order: outcomes are ordered by when they were received, and a row that two files
hold, as while small files are merged, counts once.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Final

from platform_assets.model_spec import ModelSpec
from platform_assets.quality import queries
from platform_assets.quality.log_files import LogFiles
from platform_assets.quality.reading import OUTCOMES, PREDICTIONS, read_files, scan
from platform_assets.quality.records import OutcomeCounts, QualityError

if TYPE_CHECKING:
    import duckdb

_CONFIG: Final[dict[str, str | bool | int | float | list[str]]] = {
    "autoinstall_known_extensions": "false",  # nothing is downloaded
    "enable_external_file_cache": False,
    "memory_limit": "512MB",
    "preserve_insertion_order": False,
    "threads": 2,
    "TimeZone": "UTC",
}


@dataclass(frozen=True, slots=True)
class MatchedPredictions:
    """Predictions answered from `since` to before `until`, with their outcomes.

    `database` has them as the table `matched`: `id`, `row`, `answered_at` (microseconds since the
    epoch), `entity`, `version`, `answer`, `score`, `probabilities`, the same for B where it
    got a copy (`b_version`, `b_answer`, `b_score`), `is_matured`, `outcome` (null where
    unknown), `is_late`, and how many further outcomes the row has: `duplicate`,
    `contradicting`. Answers and outcomes are texts for a classifier, numbers for a regression.
    The view `known` has the matured rows with an outcome.
    """

    database: duckdb.DuckDBPyConnection
    files: LogFiles
    spec: ModelSpec
    since: datetime
    until: datetime

    def counts(self) -> OutcomeCounts:
        """Count rows and outcomes."""
        return read_files(lambda: self.files.predictions(None, self.until), self._count)

    def _count(self) -> OutcomeCounts:
        logged = self.files.predictions(None, self.until)
        rows = scan(logged, PREDICTIONS)
        self.database.execute(f"CREATE OR REPLACE TEMP VIEW all_log_rows AS {rows}")
        [matched] = self.database.sql(queries.COUNTS).fetchall()
        usable = queries.usable(self.spec)
        window = {"since": _microseconds(self.since), "until": _microseconds(self.until)}
        received = [
            self.database.execute(query.format(usable=usable), window).fetchall()[0][0]
            for query in (queries.STRAY, queries.UNUSABLE)
        ]
        aside = self.files.set_aside(self.since, self.until)
        return OutcomeCounts(*map(int, (*matched, *received, aside)))


@contextmanager
def match(
    root: Path, spec: ModelSpec, *, since: datetime, until: datetime, now: datetime
) -> Iterator[MatchedPredictions]:
    """Join a model's predictions of a period with their outcomes, as known at `now`.

    Raises:
        QualityError: files cannot be read as a prediction log or as outcomes; also within the
            block, for the queries there.
    """
    import duckdb

    files = LogFiles(root, spec.model_name)
    with TemporaryDirectory(prefix="outcomes-") as folder:
        try:
            with duckdb.connect(config=_CONFIG | {"temp_directory": folder}) as database:
                matched = MatchedPredictions(database, files, spec, since, until)
                _join(matched, now)
                yield matched
        except duckdb.Error as error:
            raise QualityError(
                f"the files in {files.folder} cannot be joined as predictions and outcomes: "
                f"{str(error)[:1_000]}"
            ) from error


def _join(matched: MatchedPredictions, now: datetime) -> None:
    def join() -> None:
        for view, paths, columns in _sources(matched):
            rows = scan(paths, columns)
            matched.database.execute(f"CREATE OR REPLACE TEMP VIEW {view} AS {rows}")
        _compute(matched, now)

    read_files(lambda: [path for _, paths, _ in _sources(matched) for path in paths], join)


def _sources(
    matched: MatchedPredictions,
) -> tuple[tuple[str, list[str], Mapping[str, str]], ...]:
    """Return the views to join: name, files, and their columns."""
    files, source = matched.files, matched.files.source_outcomes
    return (
        ("log_rows", files.predictions(matched.since, matched.until), PREDICTIONS),
        ("outcome_rows", files.outcomes(matched.since), OUTCOMES),
        ("source_rows", [str(source)] if source.is_file() else [], OUTCOMES),
    )


def _compute(matched: MatchedPredictions, now: datetime) -> None:
    spec, rule, database = matched.spec, matched.spec.outcome_rule, matched.database
    values = {"value": queries.value("outcome", spec), "usable": queries.usable(spec)}
    own = queries.SENT_OF_LOG, queries.FIRST_SENT
    for query in (queries.SENT, *own, queries.FIRST_OF_SOURCE):
        database.execute(query.format(**values))
    parameters: dict[str, int | None] = {
        "since": _microseconds(matched.since),
        "until": _microseconds(matched.until),
        "now": _microseconds(now),
        "delay": _length(rule.delay),
        "within": None if rule.within is None else _length(rule.within),
    }
    join = queries.JOIN_BY_ENTITY
    if spec.outcome_table is not None and spec.outcome_table.event_time is not None:
        join, parameters["tolerance"] = queries.JOIN_BY_TIME, _length(rule.tolerance)
    answers = {
        "answer": queries.answer("sample", spec),
        "b_answer": queries.answer("sample_b", spec),
    }
    database.execute(queries.MATCHED.format(join=join, **answers), parameters)
    database.execute(queries.KNOWN)


def _microseconds(at: datetime) -> int:
    return round(at.timestamp() * 1e6)


def _length(length: timedelta) -> int:
    return length // timedelta(microseconds=1)
