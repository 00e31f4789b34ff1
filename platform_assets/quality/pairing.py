"""Two versions that answered the same rows, compared by the outcomes of these rows."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

from platform_assets.model_spec import ModelSpec
from serving_gateway.contract import BoundedMean, PairedOutcomes


def paired_outcomes(
    folder: Path,
    model: str,
    *,
    since: datetime,
    a_version: int,
    b_version: int,
    spec: ModelSpec,
    score_scale: float = 1.0,
    now: datetime | None = None,
) -> PairedOutcomes | BoundedMean:
    """Compare B's answers with A's on the mirrored rows whose outcome is matured.

    `folder` is the root of the prediction logs of all models; `since` the time of the oldest
    answer that counts. Of a classifier the result counts the rows that B alone, A alone, both or
    neither got wrong. Of a regression it holds the difference of the absolute errors, B's minus
    A's, in units of `score_scale` and limited to -1 and 1. Without a log or outcomes it is empty.

    Raises:
        QualityError: the files cannot be read as a prediction log or as outcomes.
    """
    raise NotImplementedError(folder, model, since, a_version, b_version, spec, score_scale, now)
