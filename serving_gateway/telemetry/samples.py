"""Samples of answered requests, for whoever asks later whether they still look like the training.

The request path decides, and puts what it has into a bounded queue; all else is the writer's
(`sample_files`), in a thread of its own.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any, Final, NamedTuple

from serving_gateway.contract import DType, Feature, Signature
from serving_gateway.inference.codec import Answers
from serving_gateway.inference.rows import Rows

_GOLDEN: Final = 0.6180339887498949
"""The step that spreads evenly whatever share of the steps is taken, and meets no rhythm."""


class Sample(NamedTuple):
    """One answered request."""

    origin: ModelSamples
    """Who counts it."""
    at_us: int
    """When it was answered: microseconds since the epoch, UTC."""
    model_name: str
    variant: str
    version: int
    signature: Signature
    data: list[list[Any]] | None
    instances: list[dict[str, Any]] | None
    answers: Answers

    @property
    def rows(self) -> int:
        """How many rows it has."""
        return len(self.answers.predictions)


class SampleQueue:
    """Samples on their way from the event loop to the writer's thread; never waited for.

    Args:
        limit: most rows waiting.
    """

    def __init__(self, limit: int) -> None:
        self.wake = threading.Event()
        """Set when there is work before its time."""
        self._limit = limit
        self._samples: deque[Sample] = deque()
        # Each is written by one thread only, so that no lock is needed.
        self._put = 0
        self._taken = 0

    def put(self, sample: Sample) -> bool:
        """Take a sample; False when too many wait already."""
        waiting = self._put - self._taken + sample.rows
        if waiting > self._limit:
            return False
        self._put += sample.rows
        self._samples.append(sample)
        if 2 * waiting > self._limit:
            self.wake.set()
        return True

    def drain(self) -> Iterator[Sample]:
        """Take out what waits."""
        while self._samples:
            sample = self._samples.popleft()
            self._taken += sample.rows
            yield sample


class ModelSamples:
    """Chooses the requests of one model that are sampled, and counts rows.

    Args:
        queue: to the writer.
        fraction: share of the requests that are sampled, above 0 and up to 1.

    Attributes:
        written: rows that lie in a file.
        dropped: rows that were not taken because too many waited.
        failed: rows that could not be written.
    """

    __slots__ = ("_fraction", "_phase", "_queue", "dropped", "failed", "written")

    def __init__(self, queue: SampleQueue, fraction: float) -> None:
        self._queue = queue
        self._fraction = fraction
        self._phase = 0.0
        self.written = 0
        self.dropped = 0
        self.failed = 0

    def offer(
        self,
        model_name: str,
        variant: str,
        version: int,
        signature: Signature,
        rows: Rows,
        answers: Answers,
    ) -> None:
        """Take an answered request, when it is one to take."""
        self._phase = phase = (self._phase + _GOLDEN) % 1.0
        if phase >= self._fraction:
            return
        sample = Sample(
            self,
            time.time_ns() // 1000,
            model_name,
            variant,
            version,
            signature,
            rows.data,
            rows.instances,
            answers,
        )
        if not self._queue.put(sample):
            self.dropped += rows.count


def columns_of(samples: Sequence[Sample]) -> list[list[Any]]:
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


def scores_of(answers: Answers) -> list[float | None]:
    """By row, the largest probability; without any the number predicted, if it is one."""
    if answers.probabilities is not None:
        return [max(row, default=None) for row in answers.probabilities]
    return [one if isinstance(one, float) else None for one in answers.predictions]


def _column(feature: Feature, values: list[Any]) -> list[Any]:
    """Checked values of one feature; in JSON a float may be written as an integer."""
    if feature.dtype in {DType.FP32, DType.FP64}:
        return [None if one is None else float(one) for one in values]
    return [one or None for one in values] if feature.dtype is DType.BYTES else values
