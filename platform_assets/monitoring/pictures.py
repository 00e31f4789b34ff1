"""A drift report as a picture, as PNG bytes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

from platform_assets.resources import plots

if TYPE_CHECKING:
    from platform_assets.monitoring.records import ColumnDrift, DriftReport

_MOST_BARS: Final = 20
_OVERLAYS: Final = 3


def drift_picture(report: DriftReport) -> bytes:
    """Draw the columns' indices with their limits, and the worst columns' distributions.

    At most the worst 20 columns get a bar, and the worst three a distribution. The report must
    have compared at least one column.
    """
    bars = report.worst_first[:_MOST_BARS]
    worst = report.worst_first[:_OVERLAYS]
    height = max(4.0, 0.32 * len(bars) + 1.2)
    figure, axes = plots.canvas(6 + 3.4 * len(worst), height, ratios=[1.6, *[1.0] * len(worst)])
    _indices(axes[0], bars)
    for place, column in enumerate(worst, start=1):
        _distributions(axes[place], column)
    return plots.png(figure)


def _indices(axes: Any, columns: Sequence[ColumnDrift]) -> None:
    places = range(len(columns))
    axes.barh(
        places,
        [column.psi for column in columns],
        color=[plots.BAD if column.drifted else plots.MUTED for column in columns],
    )
    limits = [column.limit for column in columns]
    axes.vlines(
        limits,
        [p - 0.45 for p in places],
        [p + 0.45 for p in places],
        color=plots.INK,
        label="limit",
    )
    axes.set_yticks(places, [plots.label(column.name) for column in columns])
    axes.invert_yaxis()
    axes.set(xlabel="population stability index", title="change by column")
    axes.legend(loc="lower right")


def _distributions(axes: Any, column: ColumnDrift) -> None:
    places = range(len(column.bins))
    for offset, shares, colour, label in (
        (-0.2, column.reference, plots.MUTED, "training"),
        (0.2, column.current, plots.ACCENT, "answered"),
    ):
        axes.barh([p + offset for p in places], shares, height=0.4, color=colour, label=label)
    axes.set_yticks(places, [plots.label(label) for label in column.bins], fontsize=8)
    axes.invert_yaxis()
    axes.set(xlabel="share of rows", title=f"{plots.label(column.name)}: {column.psi:.3f}")
    axes.legend()
