"""The evidence of a release against its margins over time, as PNG bytes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from platform_assets.resources import plots
from serving_gateway.contract import Guard


@dataclass(frozen=True, slots=True)
class EvidencePoint:
    """The bounds of all guards at one point in time, in seconds since the epoch.

    For each guard the lower bound, the value and the upper bound; None where unknown.
    """

    at: float
    bounds: Mapping[Guard, tuple[float | None, ...]]


def evidence_picture(points: Sequence[EvidencePoint], margins: Mapping[Guard, float]) -> bytes:
    """Draw each guard's bounds over minutes, and its margin; at least one point and one guard."""
    figure, axes = plots.canvas(3.1 * len(margins), 2.8, ratios=[1.0] * len(margins))
    panels = axes if len(margins) > 1 else [axes]
    for panel, (guard, margin) in zip(panels, margins.items(), strict=True):
        _panel(panel, guard, margin, points)
    return plots.png(figure)


def _panel(axes: Any, guard: Guard, margin: float, points: Sequence[EvidencePoint]) -> None:
    import numpy as np

    known = [
        ((point.at - points[0].at) / 60, *bounds)
        for point in points
        if (bounds := point.bounds.get(guard)) is not None and bounds[1] is not None
    ]
    minutes, lows, values, highs = np.array(known, np.float64).reshape(-1, 4).T
    reach = 2.5 * max(abs(margin), np.abs(values).max(initial=1e-9))
    # A missing bound, NaN here, extends beyond the panel.
    lows, highs = np.fmax(lows, -reach), np.fmin(highs, reach)
    axes.fill_between(minutes, lows, highs, color=plots.ACCENT, alpha=0.2, linewidth=0)
    axes.errorbar(
        minutes,
        values,
        yerr=[np.maximum(0.0, values - lows), np.maximum(0.0, highs - values)],
        color=plots.ACCENT,
        marker="o",
        markersize=3,
        linewidth=1,
    )
    for line in (margin, -margin) if guard is Guard.SCORE_SHIFT else (margin,):
        axes.axhline(line, color=plots.BAD, linewidth=1.2)
    least = 0.0 if guard in {Guard.LATENCY_P99, Guard.DISAGREEMENT} else -reach
    latest = max(1.0, (points[-1].at - points[0].at) / 60)
    axes.set(
        title=guard.value,
        xlabel="minutes",
        xlim=(-0.03 * latest, 1.03 * latest),
        ylim=(least, reach),
    )
