"""Pictures of the serving gates, as PNG bytes."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from platform_assets.resources import plots
from platform_assets.serving.comparison import Comparison

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray


def comparison_picture(result: Comparison, metric: str, candidate: int, production: int) -> bytes:
    """Draw both metrics, and the interval of the gain against the margin, as a PNG."""
    figure, (left, right) = plots.canvas(9, 2.8, ratios=(1, 2))
    names = (f"production\nversion {production}", f"candidate\nversion {candidate}")
    bars = left.bar(
        names, (result.production, result.candidate), color=(plots.INK, plots.ACCENT), width=0.5
    )
    left.bar_label(bars, fmt="%.4g")
    left.set(title=metric)
    left.margins(y=0.15)
    gain = result.gain
    low, high = (bound if math.isfinite(bound) else gain.value for bound in (gain.low, gain.high))
    right.plot((low, high), (0, 0), color=plots.ACCENT, linewidth=6, alpha=0.5, label="interval")
    right.plot(gain.value, 0, "o", color=plots.GOOD, label="gain")
    right.axvline(0, color=plots.INK, linewidth=1)
    right.axvline(-result.margin, color=plots.BAD, linestyle="--", label="tolerated loss")
    right.set(title=f"gain over production: {result.verdict}", xlabel=metric, yticks=())
    right.legend(fontsize=8)
    return plots.png(figure)


def latency_picture(took_ms: Sequence[float], budget_ms: float) -> bytes:
    """Draw the distribution of single-row latencies against their budget, as a PNG."""
    figure, axes = plots.canvas(7, 2.8)
    axes.hist(took_ms, bins=40, color=plots.ACCENT)
    axes.axvline(budget_ms, color=plots.BAD, linestyle="--", label="budget at the 99th percentile")
    axes.set(xlabel="milliseconds of one row", yticks=())
    axes.legend(fontsize=8)
    return plots.png(figure)


def replay_picture(
    production: NDArray[np.float64],
    candidate: NDArray[np.float64],
    is_relabelled: NDArray[np.bool_],
    score: str,
) -> bytes:
    """Draw both versions' scores for the same rows, and their differences, as a PNG."""
    figure, (left, right) = plots.canvas(9, 3.4, ratios=(1, 1))
    ends = min(production.min(), candidate.min()), max(production.max(), candidate.max())
    left.plot(ends, ends, color=plots.MUTED, linewidth=1)
    for rows, color, name in (
        (~is_relabelled, plots.ACCENT, "same label"),
        (is_relabelled, plots.BAD, "another label"),
    ):
        left.plot(production[rows], candidate[rows], ".", color=color, markersize=3, label=name)
    left.set(title=plots.label(score, 48), xlabel="production", ylabel="candidate")
    if is_relabelled.any():
        left.legend(fontsize=8)
    difference = candidate - production
    right.hist(difference, bins=40, range=plots.span(difference), color=plots.ACCENT)
    right.axvline(0, color=plots.INK, linewidth=1)
    right.set(title="candidate minus production", yticks=())
    return plots.png(figure)
