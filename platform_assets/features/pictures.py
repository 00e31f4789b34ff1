"""A picture of the labels, as Markdown that the Dagster UI shows inline."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    from numpy.typing import NDArray

_INK: Final = "#1f2937"
_ACCENT: Final = "#2563eb"
_BINS: Final = 40
_SHOWN_CLASSES: Final = 30
_SAME: Final = 1e-9
"""Values that differ by less than this part of their size are one value."""


def class_picture(name: str, rows: Mapping[str, int]) -> str:
    """Draw how many rows each class has; the largest ones, if there are many."""
    shown = dict(sorted(rows.items(), key=lambda item: -item[1])[:_SHOWN_CLASSES])

    def draw(axes: Any) -> None:
        axes.bar(range(len(shown)), list(shown.values()), color=_ACCENT)
        words = [_plain(label) for label in shown]
        axes.set_xticks(range(len(shown)), words, rotation=45 if len(shown) > 4 else 0)

    return _picture(name, draw)


def target_picture(name: str, values: pa.ChunkedArray) -> str:
    """Draw the histogram of a regression's target."""

    def draw(axes: Any) -> None:
        numbers = values.to_numpy()
        axes.hist(numbers, bins=_BINS, range=span(numbers), color=_ACCENT)

    return _picture(name, draw)


def span(values: NDArray[np.float64]) -> tuple[float, float] | None:
    """Ends of a histogram of values that are all but equal: bins of no width cannot be drawn.

    None where the values' own ends will do.
    """
    low, high = float(values.min()), float(values.max())
    size = max(abs(low), abs(high))
    if high - low > max(_SAME * size, 1e-300):
        return None
    room = max(size / 2, 0.5)
    return low - room, high + room


def _plain(text: str) -> str:
    # Between dollar signs stands mathematics, and what is none cannot be drawn.
    return text.replace("$", r"\$")


def _picture(name: str, draw: Any) -> str:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 3), dpi=80, layout="constrained")
    axes = figure.subplots()
    draw(axes)
    axes.set_xlabel(_plain(name), color=_INK)
    axes.set_ylabel("rows", color=_INK)
    buffer = io.BytesIO()
    # Without the version in it, the same data gives the same bytes.
    figure.savefig(buffer, format="png", metadata={"Software": None})
    png = base64.b64encode(buffer.getvalue()).decode()
    return f"![rows by {name}](data:image/png;base64,{png})"
