"""What the check `replay` displays: numbers, the rows that differ most, and a picture."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from platform_assets.resources.metadata import picture, table
from platform_assets.serving.pictures import replay_picture
from platform_assets.serving.replay.comparison import ComparedAnswers
from platform_assets.serving.replay.judging import Finding
from platform_assets.serving.replay.reading import LoggedRows
from serving_gateway.contract import LOG_ID, LOG_ROW, LOG_TIME, LOG_VERSION

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

_TEXT: Final = 500
"""Longest text shown for a row's features."""


def finding_metadata(findings: Sequence[Finding]) -> dict[str, Any]:
    """Return the numbers of each guard as a table."""
    return {
        "guards": table(
            {
                "guard": finding.guard.value,
                "value": _finite(finding.value),
                "low": _finite(finding.bounds.low),
                "high": _finite(finding.bounds.high),
                "limit": finding.limit,
                "observations": finding.observations,
                "verdict": finding.verdict.value,
            }
            for finding in findings
        )
    }


def log_metadata(logged: LoggedRows) -> dict[str, Any]:
    """Return the versions that the replayed requests were logged for, and the rows left out."""
    counts = logged.table[LOG_VERSION].value_counts().to_pylist()
    versions = sorted((count["values"], count["counts"]) for count in counts)
    shown: dict[str, Any] = {
        "logged_of_versions": ", ".join(f"{rows:,} of {version}" for version, rows in versions)
    }
    if logged.left_out:
        shown["rows_left_out"] = table(
            {"rows": rows, "reason": reason} for reason, rows in logged.left_out.items()
        )
    return shown


def row_metadata(
    logged: pa.Table, features: pd.DataFrame, compared: ComparedAnswers, most: int
) -> dict[str, Any]:
    """Return the picture, and the `most` rows that the versions answer most differently."""
    if not len(compared.rows):
        return {}
    distance = np.abs(compared.shifts).max(axis=1)
    score = int(np.abs(compared.shifts).mean(axis=0).argmax())
    drawn = replay_picture(
        compared.production_scores[:, score],
        compared.scores[:, score],
        compared.is_relabelled,
        compared.names[score],
    )
    shown = {"answers": picture(drawn, "answers for logged rows")}
    # A different label counts more than any difference of scores.
    order = np.lexsort((-distance, ~compared.is_relabelled))[:most]
    if not len(order):
        return shown
    return shown | {
        "rows_that_differ_most": table(
            {
                "logged": _name(logged, int(compared.rows[at])),
                "candidate": _answer(compared.labels[at], compared.scores[at, score]),
                "production": _answer(
                    compared.production_labels[at], compared.production_scores[at, score]
                ),
                "score": compared.names[score],
                "difference": f"{distance[at]:.3g} spreads",
                "features": _features(features.iloc[int(compared.rows[at])]),
            }
            for at in order.tolist()
        )
    }


def _name(logged: pa.Table, row: int) -> str:
    names = set(logged.column_names)
    if {LOG_ID, LOG_ROW} <= names and logged[LOG_ID][row].is_valid:
        return f"{logged[LOG_ID][row]} row {logged[LOG_ROW][row]}"
    return str(logged[LOG_TIME][row].as_py().isoformat(timespec="milliseconds"))


def _answer(label: object, score: float) -> str:
    return f"{score:.4g}" if isinstance(label, float) else f"{label} ({score:.3g})"


def _features(row: pd.Series[Any]) -> str:
    values = {name: _plain(value) for name, value in row.items()}
    text = json.dumps(values, ensure_ascii=False)
    return text if len(text) <= _TEXT else f"{text[: _TEXT - 1]}…"


def _plain(value: Any) -> Any:
    plain = value.item() if isinstance(value, np.generic) else value
    if isinstance(plain, float):
        return float(f"{plain:.6g}") if math.isfinite(plain) else None
    return plain


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
