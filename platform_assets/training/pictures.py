"""Pictures of a training, as PNG bytes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from platform_assets.resources import plots
from platform_assets.training.importance import Importance

_BARS: Final = 30


def importance_picture(found: Sequence[Importance], metric: str) -> bytes:
    """Draw the most important features, the first one on top."""
    return _bars(
        [one.feature for one in found[:_BARS]],
        [one.mean for one in found[:_BARS]],
        [one.spread for one in found[:_BARS]],
        xlabel=f"loss of {metric} when the column is shuffled",
        title="permutation importance",
    )


def candidates_picture(results: Mapping[str, Mapping[str, float]], metric: str) -> bytes:
    """Draw the cross-validated metric of every candidate with its spread over the folds."""
    names = list(results)[:_BARS]
    return _bars(
        names,
        [results[name][f"cv_{metric}"] for name in names],
        [results[name][f"cv_{metric}_std"] for name in names],
        xlabel=metric,
        title="candidates in cross-validation",
    )


def _bars(
    names: Sequence[str],
    values: Sequence[float],
    spreads: Sequence[float],
    *,
    xlabel: str,
    title: str,
) -> bytes:
    figure, axes = plots.canvas(7, max(2.0, 0.9 + 0.28 * len(names)))
    positions = range(len(names))
    axes.barh(positions, values, xerr=spreads, color=plots.ACCENT, ecolor=plots.INK, height=0.6)
    axes.set_yticks(positions, [plots.label(name, 48) for name in names])
    axes.invert_yaxis()
    axes.axvline(0, color=plots.INK, linewidth=0.8)
    axes.set(xlabel=xlabel, title=title)
    return plots.png(figure)
