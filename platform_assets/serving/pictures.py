"""Pictures of the serving gates, as PNG bytes."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Final

from platform_assets.serving.champion import Duel

if TYPE_CHECKING:
    from collections.abc import Sequence

_INK: Final = "#1f2937"
_GOOD: Final = "#15803d"
_BAD: Final = "#b91c1c"
_ACCENT: Final = "#2563eb"
_SAME: Final = 1e-9
"""Gains that are closer than this part of their size are one gain."""


def duel_picture(
    result: Duel, metric: str, tolerance: float, candidate: int, production: int
) -> bytes:
    """Draw both metrics, and how the gain spreads over the resamples, as a PNG."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.4), dpi=90, layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(1, 2))
    names = (f"production\nversion {production}", f"candidate\nversion {candidate}")
    bars = left.bar(names, (result.champion, result.candidate), color=(_INK, _ACCENT), width=0.5)
    left.bar_label(bars, fmt="%.4g")
    left.set(title=metric)
    left.margins(y=0.15)
    gains = result.gains or (result.gain,)
    # Versions that answer alike have one gain only: it stands in the midst of twice what is
    # tolerated, for bins of (nearly) no width cannot be drawn.
    size = max(1.0, abs(gains[0]))
    room = max(2 * (tolerance or 0.01), 1e-3 * size)
    same = max(gains) - min(gains) < _SAME * size
    span = (gains[0] - room, gains[0] + room) if same else None
    right.hist(gains, bins=31, range=span, color=_ACCENT, alpha=0.7)
    right.axvline(0, color=_INK, linewidth=1)
    right.axvline(-tolerance, color=_BAD, linestyle="--", label="tolerated loss")
    right.axvline(result.gain, color=_GOOD, label="gain on all rows")
    right.axvspan(result.low, result.high, color=_ACCENT, alpha=0.12, label="interval")
    right.set(title="gain over production, resampled by entity", xlabel=metric, yticks=())
    right.legend(fontsize=8)
    return _png(figure)


def latency_picture(took_ms: Sequence[float], budget_ms: float) -> bytes:
    """Draw the distribution of single-row latencies against their budget, as a PNG."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 2.8), dpi=90, layout="constrained")
    axes = figure.subplots()
    axes.hist(took_ms, bins=40, color=_ACCENT)
    axes.axvline(budget_ms, color=_BAD, linestyle="--", label="budget at the 99th percentile")
    axes.set(xlabel="milliseconds of one row", yticks=())
    axes.legend(fontsize=8)
    return _png(figure)


def _png(figure: object) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})  # type: ignore[attr-defined] # matplotlib ships no complete types
    return buffer.getvalue()
