"""Prometheus's text format, version 0.0.4."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from itertools import accumulate, chain
from typing import Final

from serving_gateway.telemetry.counters import HistogramState

_PART_CHARACTERS: Final = 65_536
_ESCAPES: Final = str.maketrans({"\\": r"\\", '"': r"\"", "\n": r"\n"})


def labels(**values: object) -> str:
    """Labels as they stand between the braces of a sample."""
    return ",".join(
        [f'{name}="{str(value).translate(_ESCAPES)}"' for name, value in values.items()]
    )


class Exposition:
    """The text of a scrape; `table` has a line for each metric: name, kind, description."""

    def __init__(self, table: str) -> None:
        rows = (line.split(" ", 2) for line in table.splitlines() if line)
        self._texts = {
            name: [f"# HELP {name} {description}\n# TYPE {name} {kind}\n"]
            for name, kind, description in rows
        }

    def add(self, name: str, label: str, value: float) -> None:
        """Add a sample; `label` as `labels` made it, empty for none."""
        series = f"{name}{{{label}}}" if label else name
        self._texts[name].append(f"{series} {+value!r}\n")  # a boolean becomes a number

    def add_histogram(self, name: str, label: str, histogram: HistogramState) -> None:
        """Add the samples of a histogram."""
        bounds, counts, total = histogram
        start = f'{name}_bucket{{{label},le="'
        pairs = zip(_bounds(tuple(bounds)), accumulate(counts), strict=True)
        text = "".join([f'{start}{bound}"}} {count}\n' for bound, count in pairs])
        if total is not None:
            text += f"{name}_count{{{label}}} {sum(counts)}\n{name}_sum{{{label}}} {total!r}\n"
        self._texts[name].append(text)

    def encode(self) -> Iterator[bytes]:
        """The text in parts, each of which is made in a fraction of a millisecond."""
        part: list[str] = []
        size = 0
        for text in chain.from_iterable(self._texts.values()):
            part.append(text)
            size += len(text)
            if size >= _PART_CHARACTERS:
                yield "".join(part).encode(errors="replace")
                part.clear()
                size = 0
        yield "".join(part).encode(errors="replace")


@lru_cache(maxsize=8)
def _bounds(bounds: tuple[float, ...]) -> tuple[str, ...]:
    return (*map(str, bounds), "+Inf")
