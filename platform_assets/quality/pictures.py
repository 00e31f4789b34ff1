"""A picture of live quality by day, as PNG bytes."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from platform_assets.quality.records import OfflineEstimate
from platform_assets.resources import plots

if TYPE_CHECKING:
    from platform_assets.quality.records import QualityPoint, QualityReport
    from platform_assets.serving.ledger import Entry

_COLOURS: Final = (plots.ACCENT, plots.GOOD, plots.INK, plots.SOFT)


def quality_picture(
    report: QualityReport, points: Sequence[QualityPoint], switches: Sequence[Entry]
) -> bytes:
    """Draw each version's metric and bounds by day, switches, floor and offline estimates.

    `points` are those of the previous days and of this one.
    """
    figure, axes = plots.canvas(9, 3.4)
    versions = sorted({point.version for point in points})
    for number, version in enumerate(versions):
        own = [point for point in points if point.version == version]
        colour = _COLOURS[number % len(_COLOURS)]
        days = [_day(point.day) for point in own]
        label = f"version {version}"
        axes.plot(days, [point.value for point in own], "o-", color=colour, label=label)
        axes.vlines(days, [point.low for point in own], [point.high for point in own], color=colour)
        offline = report.offline.get(version)
        if isinstance(offline, OfflineEstimate):
            axes.axhline(
                offline.value, color=colour, linestyle=":", label=f"{label}, held-out rows"
            )
    axes.axhline(report.floor, color=plots.BAD, linestyle="--", label="floor")
    _mark(axes, [*map(_day, sorted({point.day for point in points}))], switches)
    axes.set(title=f"{report.metric} on matured predictions, by day")
    axes.tick_params(axis="x", labelrotation=30)
    axes.legend(fontsize=8)
    return plots.png(figure)


def _mark(axes: Any, days: Sequence[datetime], switches: Sequence[Entry]) -> None:
    """Mark the switches within the days that are shown."""
    for entry in switches:
        at = datetime.fromisoformat(entry.at)
        if days and days[0].date() <= at.date() <= days[-1].date():
            axes.axvline(at, color=plots.MUTED, linewidth=1)
            text, place = f" to {entry.version}", axes.get_xaxis_transform()
            axes.text(at, 0.02, text, color=plots.SOFT, fontsize=8, transform=place)


def _day(day: str) -> datetime:
    """Return the middle of a day, since its predictions are spread over it."""
    return datetime.fromisoformat(day).replace(hour=12, tzinfo=UTC)
