"""PNG pictures of a training, the same bytes for the same numbers, and how the UI shows them."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from typing import Any, Final

from platform_assets.training.importance import Importance

INK: Final = "#1f2937"
ACCENT: Final = "#2563eb"
_BARS: Final = 30


def canvas(panels: int, height: float = 4.0) -> tuple[Any, Any]:
    """Return a figure and its axes, beside each other."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.5 * panels if panels > 1 else 7, height), dpi=90,
                    layout="constrained")  # fmt: skip
    return figure, figure.subplots(1, panels)


def png(figure: Any) -> bytes:
    """Return a figure as PNG."""
    buffer = io.BytesIO()
    # Without the version in it, the same data gives the same bytes.
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


def inline(picture: bytes, alternative: str) -> str:
    """Return Markdown that holds the picture itself."""
    return f"![{alternative}](data:image/png;base64,{base64.b64encode(picture).decode()})"


def shown(text: str, length: int = 24) -> str:
    """Return a text as matplotlib may print it: short, and no formula."""
    short = text if len(text) <= length else f"{text[: length - 1]}…"
    return short.replace("$", r"\$") or "(empty)"


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
    figure, axes = canvas(1, height=max(2.0, 0.9 + 0.28 * len(names)))
    positions = range(len(names))
    axes.barh(positions, values, xerr=spreads, color=ACCENT, ecolor=INK, height=0.6)
    axes.set_yticks(positions, [shown(name, 48) for name in names])
    axes.invert_yaxis()
    axes.axvline(0, color=INK, linewidth=0.8)
    axes.set(xlabel=xlabel, title=title)
    return png(figure)
