"""Live quality over the days as a picture: PNG bytes."""

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
    """Draw the metric of each version by day with its bounds, the switches, floor and promises.

    `points` are those of the days before and of this one.
    """
    figure, axes = plots.canvas(9, 3.4)
    versions = sorted({one.version for one in points})
    for number, version in enumerate(versions):
        own = [one for one in points if one.version == version]
        colour = _COLOURS[number % len(_COLOURS)]
        days = [_day(one.day) for one in own]
        label = f"version {version}"
        axes.plot(days, [one.value for one in own], "o-", color=colour, label=label)
        axes.vlines(days, [one.low for one in own], [one.high for one in own], color=colour)
        offline = report.offline.get(version)
        if isinstance(offline, OfflineEstimate):
            axes.axhline(
                offline.value, color=colour, linestyle=":", label=f"{label}, held-out rows"
            )
    axes.axhline(report.floor, color=plots.BAD, linestyle="--", label="floor")
    _mark(axes, [*map(_day, sorted({one.day for one in points}))], switches)
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
    """The middle of a day, for its predictions are those of all of it."""
    return datetime.fromisoformat(day).replace(hour=12, tzinfo=UTC)
