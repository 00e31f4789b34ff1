"""Prometheus's text format, version 0.0.4.

https://prometheus.io/docs/instrumenting/exposition_formats/#text-based-format
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from itertools import accumulate

from serving_gateway.telemetry.counters import HistogramState


def labels(**values: object) -> str:
    """Labels as they stand between the braces of a sample."""
    return ",".join(f'{name}="{_escape(str(value))}"' for name, value in values.items())


def _escape(value: str) -> str:
    return value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")


class Family:
    """One metric: all of its samples must stand together.

    Args:
        name: of the metric; that of a counter ends in `_total`.
        kind: `counter`, `gauge` or `histogram`.
        description: one line.
    """

    def __init__(self, name: str, kind: str, description: str) -> None:
        self._name = name
        self._text = [f"# HELP {name} {description}\n# TYPE {name} {kind}\n"]

    def add(self, label: str, value: float) -> None:
        """Add a sample; `label` as `labels` made it, empty for none."""
        series = f"{self._name}{{{label}}}" if label else self._name
        self._text.append(f"{series} {+value!r}\n")  # a boolean becomes a number

    def add_histogram(self, label: str, histogram: HistogramState) -> None:
        """Add the samples of a histogram."""
        name = self._name
        start = f'{name}_bucket{{{label},le="'
        counts = accumulate(histogram.counts)
        pairs = zip(_texts(tuple(histogram.bounds)), counts, strict=True)
        self._text.append("".join([f'{start}{bound}"}} {count}\n' for bound, count in pairs]))
        if histogram.sum is not None:
            total = sum(histogram.counts)
            self._text.append(
                f"{name}_count{{{label}}} {total}\n{name}_sum{{{label}}} {histogram.sum!r}\n"
            )

    def encode(self) -> bytes:
        """The text of the whole metric."""
        return "".join(self._text).encode(errors="replace")


def families_of(table: str) -> dict[str, Family]:
    """Metrics by name, from one line each: name, kind, description."""
    rows = (line.split(" ", 2) for line in table.strip().splitlines())
    return {name: Family(name, kind, description) for name, kind, description in rows}


@lru_cache(maxsize=8)
def _texts(bounds: Iterable[float]) -> tuple[str, ...]:
    return (*map(str, bounds), "+Inf")
