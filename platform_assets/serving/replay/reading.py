"""Read the logged requests that a candidate and production can both answer.

Requests to any version are replayed, since production answers them again now: right after a
switch, hardly any are logged for the version in production.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final

import numpy as np

from platform_assets.resources.records import RegisteredVersion
from platform_assets.resources.samples import SamplesError, SamplesFolder, retry_read
from platform_assets.serving.replay.rows import (
    LogMismatchError,
    complete_rows,
    tensor_frame,
)
from serving_gateway.contract import (
    LOG_ENTITY,
    LOG_ID,
    LOG_PREDICTION,
    LOG_ROW,
    LOG_SCORE,
    LOG_TIME,
    LOG_VERSION,
    Signature,
)

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

FEWEST_ROWS: Final = 50
"""Minimum for a replay: fewer rows would show nothing."""
_OLDEST: Final = timedelta(days=30)
_LOGGED: Final = (LOG_ID, LOG_ROW, LOG_ENTITY, LOG_VERSION, LOG_PREDICTION, LOG_SCORE)
_Signatures = tuple[Signature, Signature]
"""The candidate's and production's."""
_Part = tuple["pa.Table", "pd.DataFrame", "pd.DataFrame"]
"""Rows of one file, and each version's tensor-form view of them."""


class NothingToReplayError(Exception):
    """There are no logged rows that the versions can answer; the message says why."""


@dataclass(frozen=True, slots=True)
class LoggedRows:
    """Logged rows, newest first, as each version reads them, in tensor form.

    `table` holds the log's other columns. `left_out` counts, by reason, the rows looked at that
    cannot be read by both versions.
    """

    table: pa.Table
    candidate: pd.DataFrame
    production: pd.DataFrame
    left_out: Counter[str]


def read_logged(
    candidate: RegisteredVersion, production: RegisteredVersion, samples: SamplesFolder, rows: int
) -> LoggedRows:
    """Read the newest `rows` that both versions can read, of the last 30 days.

    Raises:
        NothingToReplayError: there are too few.
        SamplesError: the log cannot be read.
    """
    both, name = (candidate.signature, production.signature), production.model_name

    def read() -> tuple[list[_Part], Counter[str]]:
        parts, left_out = list[_Part](), Counter[str]()
        for part in _readable_parts(both, name, samples, rows, left_out):
            parts.append(part)
            if sum(table.num_rows for table, _, _ in parts) >= rows:
                break
        return parts, left_out

    try:
        parts, left_out = retry_read(read)
        logged = _newest(parts, rows, left_out) if parts else None
    except (OSError, ValueError, TypeError) as error:
        raise SamplesError(
            f"the samples in {samples.folder(name)} cannot be read as one table: {error}"
        ) from error
    if logged is None or logged.table.num_rows < FEWEST_ROWS:
        count = 0 if logged is None else logged.table.num_rows
        reasons = "".join(f"; {rows:,} were left out: {why}" for why, rows in left_out.items())
        raise NothingToReplayError(
            f"nothing was replayed: {count} rows with all features are logged, and {FEWEST_ROWS} "
            f"are needed (GATEWAY_SAMPLE_DIR, GATEWAY_SAMPLE_FRACTION){reasons}"
        )
    return logged


def _readable_parts(
    both: _Signatures, model_name: str, samples: SamplesFolder, rows: int, left_out: Counter[str]
) -> Iterator[_Part]:
    """Yield the newest rows of each file that both versions can read, newest file first."""
    names = dict.fromkeys(feature.name for signature in both for feature in signature.features)
    since = datetime.now(UTC) - _OLDEST
    for table in samples.by_file(model_name, None, since, [*names, *_LOGGED], []):
        if lacking := names.keys() - {*table.column_names}:
            left_out[f"the log lacks {', '.join(sorted(lacking))}"] += table.num_rows
            continue
        complete = complete_rows(table, both)
        if missing := table.num_rows - complete.num_rows:
            left_out["a feature without which a version cannot answer is missing"] += missing
        complete = complete.sort_by(LOG_TIME).slice(max(0, complete.num_rows - rows))
        try:
            frames = tensor_frame(both[0], complete), tensor_frame(both[1], complete)
        except LogMismatchError as error:
            left_out[f"the log has {error}"] += complete.num_rows
            continue
        if complete.num_rows:
            kept = [name for name in complete.column_names if name in {LOG_TIME, *_LOGGED}]
            yield complete.select(kept), *frames


def _newest(parts: list[_Part], rows: int, left_out: Counter[str]) -> LoggedRows:
    import pandas as pd
    import pyarrow as pa

    tables, candidate, production = zip(*parts, strict=True)
    table = pa.concat_tables(tables, promote_options="permissive")
    times = table[LOG_TIME].cast(pa.timestamp("us", "UTC")).cast(pa.int64()).to_numpy()
    order = np.argsort(-times, kind="stable")[:rows]
    both = (pd.concat(frames, ignore_index=True) for frames in (candidate, production))
    ours, theirs = (frame.iloc[order].reset_index(drop=True) for frame in both)
    return LoggedRows(table.take(order), ours, theirs, left_out)
