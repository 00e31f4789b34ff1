"""A drift report as a picture: PNG bytes."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from platform_assets.monitoring.records import ColumnDrift, DriftReport

_REFERENCE: Final = "#94a3b8"
_CURRENT: Final = "#2563eb"
_DRIFTED: Final = "#dc2626"
_MOST_BARS: Final = 20
_OVERLAYS: Final = 3
_LABEL_LENGTH: Final = 24


def drift_picture(report: DriftReport) -> bytes:
    """Draw the index of each column with its limit, and the worst columns' distributions.

    At most the worst 20 columns get a bar, and the worst three a distribution.

    Args:
        report: one that compared at least one column.

    Returns:
        A PNG.
    """
    from matplotlib.figure import Figure

    bars = report.worst_first[:_MOST_BARS]
    worst = report.worst_first[:_OVERLAYS]
    height = max(4.0, 0.32 * len(bars) + 1.2)
    figure = Figure(figsize=(6 + 3.4 * len(worst), height), dpi=90, layout="constrained")
    axes = figure.subplots(1, 1 + len(worst), width_ratios=[1.6, *[1.0] * len(worst)])
    _indices(axes[0], bars)
    for place, column in enumerate(worst, start=1):
        _distributions(axes[place], column)
    buffer = io.BytesIO()
    # Without the version in it, the same data gives the same bytes.
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


def data_url(png: bytes) -> str:
    """Return the address that holds the picture itself."""
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"


def _indices(axes: Any, columns: Sequence[ColumnDrift]) -> None:
    places = range(len(columns))
    axes.barh(
        places,
        [column.psi for column in columns],
        color=[_DRIFTED if column.drifted else _REFERENCE for column in columns],
    )
    limits = [column.limit for column in columns]
    axes.vlines(
        limits, [p - 0.45 for p in places], [p + 0.45 for p in places], color="black", label="limit"
    )
    axes.set_yticks(places, [_plain(column.name) for column in columns])
    axes.invert_yaxis()
    axes.set(xlabel="population stability index", title="change by column")
    axes.legend(loc="lower right")


def _distributions(axes: Any, column: ColumnDrift) -> None:
    places = range(len(column.bins))
    for offset, shares, colour, label in (
        (-0.2, column.reference, _REFERENCE, "training"),
        (0.2, column.current, _CURRENT, "answered"),
    ):
        axes.barh([p + offset for p in places], shares, height=0.4, color=colour, label=label)
    axes.set_yticks(places, [_plain(label) for label in column.bins], fontsize=8)
    axes.invert_yaxis()
    axes.set(xlabel="share of rows", title=f"{_plain(column.name)}: {column.psi:.3f}")
    axes.legend()


def _plain(text: str) -> str:
    # A dollar sign would start mathematics.
    short = text if len(text) <= _LABEL_LENGTH else f"{text[: _LABEL_LENGTH - 1]}…"
    return short.replace("$", r"\$")
