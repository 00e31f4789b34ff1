"""A picture of the labels, as Markdown that the Dagster UI shows inline."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final

from platform_assets.resources import plots

if TYPE_CHECKING:
    import pyarrow as pa

_BINS: Final = 40
_SHOWN_CLASSES: Final = 30


def class_picture(name: str, rows: Mapping[str, int]) -> str:
    """Draw how many rows each class has; the largest ones, if there are many."""
    shown = dict(sorted(rows.items(), key=lambda item: -item[1])[:_SHOWN_CLASSES])

    def draw(axes: Any) -> None:
        axes.bar(range(len(shown)), list(shown.values()), color=plots.ACCENT)
        words = [plots.label(label) for label in shown]
        axes.set_xticks(range(len(shown)), words, rotation=45 if len(shown) > 4 else 0)

    return _picture(name, draw)


def target_picture(name: str, values: pa.ChunkedArray) -> str:
    """Draw the histogram of a regression's target."""

    def draw(axes: Any) -> None:
        numbers = values.to_numpy()
        axes.hist(numbers, bins=_BINS, range=plots.span(numbers), color=plots.ACCENT)

    return _picture(name, draw)


def _picture(name: str, draw: Callable[[Any], None]) -> str:
    figure, axes = plots.canvas(6, 3)
    draw(axes)
    axes.set_xlabel(plots.label(name), color=plots.INK)
    axes.set_ylabel("rows", color=plots.INK)
    return plots.inline(plots.png(figure), f"rows by {name}")
