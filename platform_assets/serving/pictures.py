"""Pictures of the serving gates, as PNG bytes."""

from __future__ import annotations

import io
import math
from typing import TYPE_CHECKING, Final

from platform_assets.serving.comparison import Comparison

if TYPE_CHECKING:
    from collections.abc import Sequence

_INK: Final = "#1f2937"
_GOOD: Final = "#15803d"
_BAD: Final = "#b91c1c"
_ACCENT: Final = "#2563eb"


def comparison_picture(result: Comparison, metric: str, candidate: int, production: int) -> bytes:
    """Draw both metrics, and the interval of the gain against the margin, as a PNG."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 2.8), dpi=90, layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(1, 2))
    names = (f"production\nversion {production}", f"candidate\nversion {candidate}")
    bars = left.bar(names, (result.production, result.candidate), color=(_INK, _ACCENT), width=0.5)
    left.bar_label(bars, fmt="%.4g")
    left.set(title=metric)
    left.margins(y=0.15)
    gain = result.gain
    low, high = (bound if math.isfinite(bound) else gain.value for bound in (gain.low, gain.high))
    right.plot((low, high), (0, 0), color=_ACCENT, linewidth=6, alpha=0.5, label="interval")
    right.plot(gain.value, 0, "o", color=_GOOD, label="gain")
    right.axvline(0, color=_INK, linewidth=1)
    right.axvline(-result.margin, color=_BAD, linestyle="--", label="tolerated loss")
    right.set(title=f"gain over production: {result.verdict}", xlabel=metric, yticks=())
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
