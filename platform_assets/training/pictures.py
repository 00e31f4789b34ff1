"""Pictures of an evaluation, as PNG bytes and as Markdown that the Dagster UI shows inline."""

from __future__ import annotations

import base64
import io
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_INK: Final = "#1f2937"
_ACCENT: Final = "#2563eb"
_BINS: Final = 10


def evaluation_picture(
    label_true: NDArray[np.int64],
    labels: NDArray[np.int64],
    probabilities: NDArray[np.float64],
    classes: tuple[int, ...],
    names: tuple[str, ...],
) -> bytes:
    """Draw the confusion matrix beside the calibration of the stated probabilities.

    Args:
        label_true: shape (rows,).
        labels: predicted, shape (rows,).
        probabilities: shape (rows, classes).
        classes: labels in the column order of `probabilities`.
        names: words for the classes, same order.

    Returns:
        A PNG.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 4), dpi=90, layout="constrained")
    left, right = figure.subplots(1, 2)
    _confusion(left, label_true, labels, classes, names)
    _calibration(right, label_true, labels, probabilities)
    buffer = io.BytesIO()
    # Without the version in it, the same data gives the same bytes.
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


def inline(png: bytes, alternative: str) -> str:
    """Return Markdown that holds the picture itself."""
    return f"![{alternative}](data:image/png;base64,{base64.b64encode(png).decode()})"


def _confusion(
    axes: Any,
    label_true: NDArray[np.int64],
    labels: NDArray[np.int64],
    classes: tuple[int, ...],
    names: tuple[str, ...],
) -> None:
    from sklearn.metrics import confusion_matrix

    counts = confusion_matrix(label_true, labels, labels=list(classes))
    shares = counts / counts.sum(axis=1, keepdims=True).clip(min=1)
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for row in range(len(classes)):
        for column in range(len(classes)):
            colour = "white" if shares[row, column] > 0.5 else _INK
            axes.text(column, row, str(counts[row, column]), ha="center", va="center", color=colour)
    axes.set_xticks(range(len(names)), names)
    axes.set_yticks(range(len(names)), names)
    axes.set(xlabel="predicted", ylabel="true", title=f"{len(label_true)} evaluation rows")


def _calibration(
    axes: Any,
    label_true: NDArray[np.int64],
    labels: NDArray[np.int64],
    probabilities: NDArray[np.float64],
) -> None:
    import numpy as np

    confidence = probabilities.max(axis=1)
    right = labels == label_true
    bins = np.clip((confidence * _BINS).astype(int), 0, _BINS - 1)
    used = [index for index in range(_BINS) if (bins == index).any()]
    stated = [float(confidence[bins == index].mean()) for index in used]
    true = [float(right[bins == index].mean()) for index in used]
    sizes = [20 + 180 * float((bins == index).mean()) for index in used]
    axes.plot([0, 1], [0, 1], linestyle=":", color=_INK, linewidth=1)
    axes.scatter(stated, true, s=sizes, color=_ACCENT)
    axes.set(
        xlabel="stated probability of the answer",
        ylabel="share that is right",
        title="calibration (size: share of rows)",
        xlim=(0, 1.03),
        ylim=(-0.03, 1.03),
    )
