"""The summary of a benchmark as a picture: one group of bars per number of connections."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


def draw(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Write a PNG of the ratios to raw Triton.

    Args:
        rows: what `summary.summarize` returns.
        path: of the picture.
    """
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    cases = list(dict.fromkeys(row["case"] for row in rows))
    loads = list(dict.fromkeys(row["connections"] for row in rows))
    figure, axes = plt.subplots(figsize=(11, 0.5 * len(cases) * len(loads) * 0.45 + 1.5))
    height = 0.8 / len(loads)
    for number, load in enumerate(loads):
        found = {row["case"]: row for row in rows if row["connections"] == load}
        places = [place + number * height for place in range(len(cases))]
        bars = axes.barh(places, [found[case]["ratio"] for case in cases], height * 0.9)
        bars.set_label(f"{load} connection" + "s" * (load != 1))
        texts = [f"{found[c]['per_second']:,.0f}/s, p50 {found[c]['p50_ms']:.2f} ms" for c in cases]
        axes.bar_label(bars, texts, padding=3, fontsize=7)
    axes.axvline(1, color="grey", linewidth=1, linestyle="--")
    axes.set_yticks([place + 0.4 - height / 2 for place in range(len(cases))], cases)
    axes.invert_yaxis()
    axes.margins(x=0.18)
    axes.set_xlabel("requests/s as a ratio to the better raw Triton")
    axes.legend(loc="lower right")
    figure.tight_layout()
    figure.savefig(path, dpi=130)
    plt.close(figure)
