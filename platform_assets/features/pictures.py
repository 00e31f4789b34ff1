"""A picture of the labels, as Markdown that the Dagster UI shows inline."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    import pyarrow as pa

_INK: Final = "#1f2937"
_ACCENT: Final = "#2563eb"
_BINS: Final = 40
_SHOWN_CLASSES: Final = 30


def class_picture(name: str, rows: Mapping[str, int]) -> str:
    """Draw how many rows each class has; the largest ones, if there are many."""
    shown = dict(sorted(rows.items(), key=lambda item: -item[1])[:_SHOWN_CLASSES])

    def draw(axes: Any) -> None:
        axes.bar(range(len(shown)), list(shown.values()), color=_ACCENT)
        axes.set_xticks(range(len(shown)), list(shown), rotation=45 if len(shown) > 4 else 0)

    return _picture(name, draw)


def target_picture(name: str, values: pa.ChunkedArray) -> str:
    """Draw the histogram of a regression's target."""

    def draw(axes: Any) -> None:
        axes.hist(values.to_numpy(), bins=_BINS, color=_ACCENT)

    return _picture(name, draw)


def _picture(name: str, draw: Any) -> str:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 3), dpi=80, layout="constrained")
    axes = figure.subplots()
    draw(axes)
    axes.set_xlabel(name.replace("$", r"\$"), color=_INK)
    axes.set_ylabel("rows", color=_INK)
    buffer = io.BytesIO()
    # Without the version in it, the same data gives the same bytes.
    figure.savefig(buffer, format="png", metadata={"Software": None})
    png = base64.b64encode(buffer.getvalue()).decode()
    return f"![rows by {name}](data:image/png;base64,{png})"
