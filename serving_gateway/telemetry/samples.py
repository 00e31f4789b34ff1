"""Samples of answered requests, by which drift from the training data is found later.

The request path chooses a sample and puts it into a bounded queue; everything else is done by
the writer (`sample_files`) in its own thread.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any, Final, NamedTuple

from serving_gateway.contract import DType, Feature, Signature
from serving_gateway.telemetry.counters import SampleCounts

_GOLDEN: Final = 0.6180339887498949
"""A step of this size spreads any share evenly, and coincides with no rhythm of clients."""
_ROW_BYTES: Final = 128
_CELL_BYTES: Final = 40
"""A number and its place in a list; a dictionary takes three times as much."""
_CHAR_BYTES: Final = 4


class Sample(NamedTuple):
    """One answered request: rows as `data` or as `instances`, and one prediction for each."""

    origin: ModelSamples
    """Counts it."""
    at_us: int
    """When it was answered: microseconds since the epoch, UTC."""
    model_name: str
    variant: str
    version: int
    signature: Signature
    data: list[list[Any]] | None
    instances: list[dict[str, Any]] | None
    predictions: list[Any]
    probabilities: list[list[float]] | None
    entities: Sequence[int | str] | None = None
    """Whose rows they are, of a request that named entities."""

    @property
    def rows(self) -> int:
        """How many rows it has."""
        return len(self.predictions)

    def size(self) -> int:
        """About how many bytes it holds, rather too many than too few."""
        features = self.signature.features
        cell = _CELL_BYTES if self.instances is None else 3 * _CELL_BYTES
        cells = len(features) + len(self.signature.classes or ())
        size = self.rows * (_ROW_BYTES + cell * cells)
        texts = [at for at, feature in enumerate(features) if feature.dtype is DType.BYTES]
        if not texts:
            return size
        values: Iterator[Any]
        if self.instances is None:
            values = (row[at] for row in self.data or () for at in texts)
        else:
            names = [features[at].name for at in texts]
            values = (one[name] for one in self.instances for name in names)
        return size + _CHAR_BYTES * sum(len(value or "") for value in values)


class SampleQueue:
    """Samples on their way from the event loop to the writer's thread; putting never waits.

    What the writer took counts until it is released, so that the bounds hold for both together.

    Args:
        max_rows: most rows.
        max_bytes: most bytes, as estimated.
    """

    def __init__(self, max_rows: int, max_bytes: int) -> None:
        self.wake = threading.Event()
        """Set when there is work before its time."""
        self._max_rows = max_rows
        self._max_bytes = max_bytes
        self._samples: deque[tuple[Sample, int]] = deque()
        # Each is changed by one thread only, so that no lock is needed.
        self._put_rows = self._put_bytes = 0
        self._released_rows = self._released_bytes = 0

    def put(self, sample: Sample) -> bool:
        """Add a sample; False when it does not fit."""
        rows = self._put_rows - self._released_rows + sample.rows
        if rows > self._max_rows:
            return False
        size = sample.size()
        held = self._put_bytes - self._released_bytes + size
        if held > self._max_bytes:
            return False
        self._put_rows += sample.rows
        self._put_bytes += size
        self._samples.append((sample, size))
        if 2 * rows > self._max_rows or 2 * held > self._max_bytes:
            self.wake.set()
        return True

    def drain(self) -> Iterator[tuple[Sample, int]]:
        """Take out what waits: each sample and its size, for `release`."""
        while self._samples:
            yield self._samples.popleft()

    def release(self, rows: int, size: int) -> None:
        """Make room: the writer has converted that much."""
        self._released_rows += rows
        self._released_bytes += size


class ModelSamples(SampleCounts):
    """Chooses the requests of one model that are sampled, and counts their rows.

    Args:
        queue: to the writer.
        fraction: share of the requests that are sampled, above 0 and up to 1.
    """

    __slots__ = ("_fraction", "_phase", "_queue")

    def __init__(self, queue: SampleQueue, fraction: float) -> None:
        super().__init__()
        self._queue = queue
        self._fraction = fraction
        self._phase = 0.0

    def is_due(self) -> bool:
        """Whether the next request is one to take; asked once for each."""
        self._phase = phase = (self._phase + _GOLDEN) % 1.0
        return phase < self._fraction

    def offer(
        self,
        model_name: str,
        variant: str,
        version: int,
        signature: Signature,
        data: list[list[Any]] | None,
        instances: list[dict[str, Any]] | None,
        predictions: list[Any],
        probabilities: list[list[float]] | None,
        entities: Sequence[int | str] | None = None,
    ) -> None:
        """Take an answered request that is due."""
        sample = Sample(
            self,
            time.time_ns() // 1000,
            model_name,
            variant,
            version,
            signature,
            data,
            instances,
            predictions,
            probabilities,
            entities,
        )
        if not self._queue.put(sample):
            self.dropped += sample.rows


def to_columns(samples: Sequence[Sample]) -> list[list[Any]]:
    """The rows of samples with the same features, by feature: logical values, None if missing."""
    features = samples[0].signature.features
    names = [feature.name for feature in features]
    rows: list[list[Any]] = []
    for sample in samples:
        if sample.instances is None:
            rows += sample.data or []
        else:
            rows += [[one[name] for name in names] for one in sample.instances]
    return [_column(feature, [row[i] for row in rows]) for i, feature in enumerate(features)]


def to_scores(sample: Sample) -> list[float | None]:
    """By row, the largest probability; without any the number predicted, if it is one."""
    if sample.probabilities is not None:
        return [max(row, default=None) for row in sample.probabilities]
    return [one if isinstance(one, float) else None for one in sample.predictions]


def to_entities(sample: Sample) -> list[str | None]:
    """By row, the id of its entity as text; None where the request named none."""
    if sample.entities is None:
        return [None] * sample.rows
    return [str(one) for one in sample.entities]


def _column(feature: Feature, values: list[Any]) -> list[Any]:
    """Checked values of one feature; in JSON a float may be written as an integer.

    NaN, which is how some encoders write a missing number, is None like null.
    """
    values = [None if one != one else one for one in values]  # noqa: PLR0124
    if feature.dtype in {DType.FP32, DType.FP64}:
        return [None if one is None else float(one) for one in values]
    return [one or None for one in values] if feature.dtype is DType.BYTES else values
