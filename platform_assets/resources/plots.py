"""What all pictures share: colours, canvas, safe text, and reproducible PNG bytes.

matplotlib takes a second to import, so it is only imported when something is drawn.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final, cast

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

INK: Final = "#1b1f24"
SOFT: Final = "#57606a"
LINE: Final = "#d9dee4"
ACCENT: Final = "#0a58ca"
GOOD: Final = "#1a7f37"
BAD: Final = "#b42318"
MUTED: Final = "#8c959f"
"""Light-mode colours of the pages' style sheet, and a gray: pictures stay on a light card."""
_SAME: Final = 1e-9
"""Values whose relative difference is below this count as one value."""


def canvas(width: float, height: float, ratios: Sequence[float] = (1,)) -> tuple[Any, Any]:
    """Return a figure of this size in inches and its axes, side by side with these widths.

    One ratio gives one `Axes`, several give an array of them.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=90, layout="constrained")
    return figure, figure.subplots(1, len(ratios), width_ratios=ratios)


def png(figure: Any) -> bytes:
    """Return a figure as PNG in the style of the pages; the same bytes for the same data."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    for axes in figure.axes:
        _style(axes)
    buffer, drawn = io.BytesIO(), cast("Any", FigureCanvasAgg(figure))
    # `savefig` would draw everything twice; without "Software", matplotlib adds its version.
    drawn.print_png(buffer, metadata={"Software": None})
    return buffer.getvalue()


def _style(axes: Any) -> None:
    title = axes.get_title()
    axes.set_title("")
    axes.set_title(title, loc="left", fontsize=11, fontweight="bold", color=INK)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(LINE)
    axes.tick_params(colors=SOFT, labelcolor=INK, length=3)
    for text in (axes.xaxis.label, axes.yaxis.label):
        text.set_color(SOFT)
    if (legend := axes.get_legend()) is not None:
        legend.get_frame().set(linewidth=0, alpha=0.85)


def data_url(picture: bytes) -> str:
    """Return a data URL with a PNG."""
    return f"data:image/png;base64,{base64.b64encode(picture).decode()}"


def inline(picture: bytes, alternative: str) -> str:
    """Return Markdown with an embedded PNG."""
    return f"![{alternative}]({data_url(picture)})"


def label(text: str, length: int = 24) -> str:
    """Return a text that is safe for matplotlib: short, and not a formula."""
    short = text if len(text) <= length else f"{text[: length - 1]}…"
    return short.replace("$", r"\$") or "(empty)"


def span(values: NDArray[np.float64]) -> tuple[float, float] | None:
    """Return the range of a histogram of nearly equal values: bins need a width to be drawn.

    None if the values' own range is wide enough.
    """
    low, high = float(values.min()), float(values.max())
    size = max(abs(low), abs(high))
    if high - low > max(_SAME * size, 1e-300):
        return None
    room = max(size / 2, 0.5)
    return low - room, high + room
