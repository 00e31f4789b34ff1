"""Outcomes for comparing two versions: of logged rows, and of rows that both answered."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from platform_assets.model_spec import ModelSpec, Task
from platform_assets.quality.matching import match
from platform_assets.quality.records import QualityError
from platform_assets.resources.samples import SamplesError
from serving_gateway.contract import BoundedMean, PairedOutcomes

_KNOWN: Final = "SELECT id, row, outcome FROM matched WHERE is_matured AND outcome IS NOT NULL"
# Rows of a request may resemble each other: one of them counts, chosen by a hash, whether or not
# its outcome is known yet.
_PAIRS: Final = """WITH chosen AS (
    SELECT * FROM matched WHERE version = $a AND b_version = $b
    QUALIFY row_number() OVER (PARTITION BY id ORDER BY md5(concat(id, ' ', row)), row) = 1
), pairs AS (
    SELECT * FROM chosen WHERE is_matured AND outcome IS NOT NULL AND answer IS NOT NULL
)"""
_WRONG: Final = """SELECT
    count(*) FILTER (b_answer <> outcome AND answer = outcome),
    count(*) FILTER (b_answer = outcome AND answer <> outcome),
    count(*) FILTER ((b_answer = outcome) = (answer = outcome))
FROM pairs WHERE b_answer IS NOT NULL"""
_ERRORS: Final = """SELECT greatest(-1.0, least(1.0,
    (abs(b_answer - outcome) - abs(answer - outcome)) / $scale))::DOUBLE AS difference
FROM pairs WHERE isfinite(answer) AND isfinite(b_answer)"""


def matured_outcomes(
    root: Path, spec: ModelSpec, since: datetime
) -> dict[tuple[str, int], str | float]:
    """Return the matured outcomes of a model's predictions since a time, by id and row.

    Raises:
        SamplesError: the files cannot be read as a prediction log or as outcomes.
    """
    now = datetime.now(UTC)
    try:
        with match(root, spec, since=since, until=now, now=now) as matched:
            known = matched.database.sql(_KNOWN).fetchall()
    except QualityError as error:
        raise SamplesError(str(error)) from error
    return {(name, row): outcome for name, row, outcome in known}


def paired_outcomes(
    folder: Path,
    spec: ModelSpec,
    *,
    since: datetime,
    a_version: int,
    b_version: int,
    now: datetime,
    score_scale: float = 1.0,
) -> PairedOutcomes | BoundedMean:
    """Compare B's answers with A's on mirrored requests whose outcome is matured.

    `folder` is the root of the prediction logs of all models; `since` the time of the oldest
    answer that counts. A request counts once, by one of its rows. Of a classifier the result
    counts the requests that B alone, A alone, both or neither got wrong. Of a regression it holds
    the difference of the absolute errors, B's minus A's, in units of `score_scale` and limited to
    -1 and 1. Without a log or outcomes it is empty.

    Raises:
        QualityError: the files cannot be read as a prediction log or as outcomes.
    """
    versions = {"a": a_version, "b": b_version}
    with match(folder, spec, since=since, until=now, now=now) as matched:
        if spec.task is not Task.REGRESSION:
            [counts] = matched.database.execute(f"{_PAIRS} {_WRONG}", versions).fetchall()
            return PairedOutcomes(*counts)
        scale = {"scale": score_scale}
        query = f"{_PAIRS} {_ERRORS}"
        columns: dict[str, Any] = matched.database.execute(query, versions | scale).fetchnumpy()
    values = columns["difference"].tolist()
    # The sums are the same for any order of the rows, to the last bit.
    total, squares = math.fsum(values), math.fsum(value * value for value in values)
    return BoundedMean(len(values), total, squares, -1.0, 1.0)
