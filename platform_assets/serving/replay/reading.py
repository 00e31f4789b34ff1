"""Read the logged rows that a candidate and production can both answer."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final

import numpy as np

from platform_assets.resources.records import RegisteredVersion
from platform_assets.resources.samples import SamplesFolder
from platform_assets.serving.replay.rows import (
    LogMismatchError,
    complete_rows,
    missing_columns,
    tensor_frame,
)
from serving_gateway.contract import LOG_ENTITY, LOG_ID, LOG_PREDICTION, LOG_ROW, LOG_SCORE

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

FEWEST_ROWS: Final = 50
"""Without which nothing is replayed: they would show nothing."""
_OLDEST: Final = timedelta(days=30)
_LOGGED: Final = (LOG_ID, LOG_ROW, LOG_ENTITY, LOG_PREDICTION, LOG_SCORE)


class NothingToReplayError(Exception):
    """There are no logged rows that the versions can answer; the message says why."""


@dataclass(frozen=True, slots=True)
class LoggedRows:
    """Logged rows, the newest first, and what either version reads of them, in tensor form."""

    table: pa.Table
    candidate: pd.DataFrame
    production: pd.DataFrame


def read_logged(
    candidate: RegisteredVersion, production: RegisteredVersion, samples: SamplesFolder, rows: int
) -> LoggedRows:
    """Read the newest `rows` that production answered in the last 30 days.

    Raises:
        NothingToReplayError: there are too few, or they lack what a version reads.
        SamplesError: the log cannot be read.
    """
    both, version = (candidate.signature, production.signature), production.version
    names = {feature.name: None for one in both for feature in one.features}
    window = samples.window(
        production.model_name,
        version,
        since=datetime.now(UTC) - _OLDEST,
        max_rows=rows,
        columns=[*names, *_LOGGED],
    )
    lacking = {name for one in both for name in missing_columns(one, window.table)}
    if window.rows and lacking:
        raise NothingToReplayError(
            f"nothing was replayed: what is logged of version {version} lacks "
            f"{', '.join(sorted(lacking))}"
        )
    table = complete_rows(window.table, both) if window.rows else window.table
    if table.num_rows < FEWEST_ROWS:
        raise NothingToReplayError(
            f"nothing was replayed: {table.num_rows} rows with all features are logged of version "
            f"{version}, and {FEWEST_ROWS} are needed (GATEWAY_SAMPLE_DIR, GATEWAY_SAMPLE_FRACTION)"
        )
    table = table.take(np.arange(table.num_rows)[::-1])
    try:
        return LoggedRows(table, tensor_frame(both[0], table), tensor_frame(both[1], table))
    except LogMismatchError as error:
        raise NothingToReplayError(f"nothing was replayed: the log has {error}") from error
