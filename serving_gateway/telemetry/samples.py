"""Samples of answered requests, by which drift from the training data is found later.

The request path chooses a sample and puts it into a bounded queue; everything else is done by
the writer (`sample_files`) in its own thread.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from serving_gateway.contract import DType, Signature

_GOLDEN: Final = 0.6180339887498949
"""A step of this size spreads any share evenly, and coincides with no rhythm of clients."""
_ROW_BYTES: Final = 128
_CELL_BYTES: Final = 40
"""A number and its place in a list; a dictionary takes three times as much."""
_CHAR_BYTES: Final = 4


class Sample(NamedTuple):
    """One answered request: rows as `data` or as `instances`, and one prediction for each."""

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
    entities: Sequence[int | str | tuple[int | str | None, ...] | None] | None = None
    """Whose rows they are, of a request that named entities: an id, or one for each join key."""

    def size(self) -> int:
        """About how many bytes it holds, rather too many than too few."""
        features, is_named = self.signature.features, self.instances is not None
        cell = 3 * _CELL_BYTES if is_named else _CELL_BYTES
        cells = len(features) + len(self.signature.classes or ())
        size = len(self.predictions) * (_ROW_BYTES + cell * cells)
        texts = [one for one in enumerate(features) if one[1].dtype is DType.BYTES]
        keys: list[Any] = [feature.name if is_named else at for at, feature in texts]
        rows: Sequence[Any] = self.instances or self.data or ()
        size += _CHAR_BYTES * sum(len(row[key] or "") for row in rows for key in keys)
        return size + sum(map(_size_of_id, self.entities or ()))


def _size_of_id(one: object) -> int:
    if isinstance(one, tuple):
        return _CELL_BYTES + sum(map(_size_of_id, one))
    return _CELL_BYTES + (_CHAR_BYTES * len(one) if isinstance(one, str) else 0)


class SampleQueue:
    """Samples on their way from the event loop to the writer's thread; putting never waits.

    What the writer took counts until it is released, so that the bounds hold for both together.
    """

    def __init__(self, max_rows: int, max_bytes: int) -> None:
        self.wake = threading.Event()
        """Set when there is work before its time."""
        self._max_rows = max_rows
        self._max_bytes = max_bytes
        self._samples: deque[tuple[ModelSamples, Sample, int]] = deque()
        # Each is changed by one thread only, so that no lock is needed.
        self._put_rows = self._put_bytes = 0
        self._released_rows = self._released_bytes = 0

    def put(self, origin: ModelSamples, sample: Sample) -> bool:
        """Add a sample that `origin` counts; False when it does not fit."""
        count = len(sample.predictions)
        rows = self._put_rows - self._released_rows + count
        if rows > self._max_rows:
            return False
        size = sample.size()
        held = self._put_bytes - self._released_bytes + size
        if held > self._max_bytes:
            return False
        self._put_rows += count
        self._put_bytes += size
        self._samples.append((origin, sample, size))
        if 2 * rows > self._max_rows or 2 * held > self._max_bytes:
            self.wake.set()
        return True

    def drain(self) -> Iterator[tuple[ModelSamples, Sample, int]]:
        """Take out what waits: what counts it, each sample, and its size for `release`."""
        while self._samples:
            yield self._samples.popleft()

    def release(self, rows: int, size: int) -> None:
        """Make room: the writer has converted that much."""
        self._released_rows += rows
        self._released_bytes += size


@dataclass(slots=True, eq=False)
class ModelSamples:
    """Chooses which `fraction` (0 to 1) of a model's requests is sampled, and counts their rows.

    `written` are in a file, `dropped` were too many to wait, `failed` could not be written.
    """

    queue: SampleQueue
    fraction: float
    written: int = 0
    dropped: int = 0
    failed: int = 0
    _phase: float = 0.0

    def is_due(self) -> bool:
        """Whether the next request is one to take; asked once for each."""
        self._phase = phase = (self._phase + _GOLDEN) % 1.0
        return phase < self.fraction

    def offer(self, sample: Sample) -> None:
        """Take an answered request that is due."""
        if not self.queue.put(self, sample):
            self.dropped += len(sample.predictions)
