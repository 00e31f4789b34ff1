"""Ask two versions the same rows in turn, next to live load."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from time import sleep
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from platform_assets.export.runtime import answers_in, model_inputs, output_names
from platform_assets.resources.records import RegisteredVersion
from platform_assets.resources.triton import TritonEndpoint, TritonRefused

if TYPE_CHECKING:
    import pandas as pd

    from platform_assets.resources.triton_endpoint import Infer

SINGLES: Final = 800
"""Rows that are asked one by one, as most clients ask: their times are those of the latency. With
fewer than 760 no 99th percentile has an upper bound at the error rate of one guard."""
BATCH_ROWS: Final = 32
"""Rows of one inference after these. A client that comes meanwhile waits for one of them."""
_REST: Final = 1.0
"""Length of the pause after an inference, as a part of its duration."""
_SECONDS: Final = 60.0
"""After which no further row is asked: slow versions answer fewer."""


class VersionAnswers:
    """What one version answers over an open connection, by row; NaN and None until it did."""

    def __init__(self, asked: RegisteredVersion, features: pd.DataFrame, infer: Infer) -> None:
        signature, rows = asked.signature, len(features)
        self.labels: NDArray[Any] = np.full(rows, None, dtype=object)
        """Shape (rows,), objects."""
        self.probabilities: NDArray[np.float64] | None = None
        """Shape (rows, classes); None for a regression."""
        if signature.probabilities_output is not None:
            self.probabilities = np.full((rows, len(signature.classes)), np.nan)
        self.is_answered: NDArray[np.bool_] = np.zeros(rows, dtype=np.bool_)
        self.failures: dict[int, str] = {}
        """Rows that Triton refused to answer, with its reason."""
        self.seconds: list[float] = []
        """Of each inference of a single row."""
        self._asked, self._infer = asked, infer
        self._inputs: Mapping[str, NDArray[Any]] = model_inputs(signature, features)
        self._outputs = output_names(signature)

    def ask(self, rows: slice) -> None:
        """Let the version answer these rows; of a batch that is refused, each row alone.

        Raises:
            TritonError: Triton does not answer, or not as it should.
        """
        began = time.perf_counter()
        try:
            self._take(rows)
        except TritonRefused as refusal:
            if rows.stop - rows.start == 1:
                self.failures[rows.start] = refusal.reason
                return
            for row in range(rows.start, rows.stop):
                self.ask(slice(row, row + 1))
        else:
            if rows.stop - rows.start == 1 and rows.start < SINGLES:
                self.seconds.append(time.perf_counter() - began)

    def _take(self, rows: slice) -> None:
        name, version = self._asked.model_name, self._asked.version
        inputs = {name: array[rows] for name, array in self._inputs.items()}
        outputs = self._infer(name, version, inputs, self._outputs)
        labels, probabilities = answers_in(outputs, self._asked.signature)
        self.labels[rows] = labels.tolist()
        if self.probabilities is not None:
            self.probabilities[rows] = probabilities
        self.is_answered[rows] = True


def ask_in_turn(
    endpoint: TritonEndpoint,
    versions: Sequence[tuple[RegisteredVersion, pd.DataFrame]],
    pause: Callable[[float], None] = sleep,
) -> tuple[int, list[VersionAnswers]]:
    """Let versions answer the same rows, in tensor form, one inference at a time.

    Each pauses in proportion to its time, so that live requests find the server idle. Two
    versions take turns in being first, so that other load on the machine affects both alike.

    Returns:
        How many of the rows were asked, from the first one on, and the answers by version.

    Raises:
        TritonError: Triton does not answer, or not as it should.
    """
    rows = len(versions[0][1])
    most = min(one.signature.max_batch_rows for one, _ in versions)
    end, asked = time.monotonic() + _SECONDS, 0
    with endpoint.connection("replay logged rows") as infer:
        answers = [VersionAnswers(one, frame, infer) for one, frame in versions]
        for turn, part in enumerate(_parts(rows, min(BATCH_ROWS, most))):
            for one in answers if turn % 2 else reversed(answers):
                began = time.perf_counter()
                one.ask(part)
                pause(_REST * (time.perf_counter() - began))
            asked = part.stop
            if time.monotonic() > end:
                break
    return asked, answers


def _parts(rows: int, batch: int) -> Iterator[slice]:
    singles = min(rows, SINGLES)
    for row in range(singles):
        yield slice(row, row + 1)
    for start in range(singles, rows, batch):
        yield slice(start, min(start + batch, rows))
