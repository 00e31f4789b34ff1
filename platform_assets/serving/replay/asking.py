"""Let two versions answer the same rows in turn, beside live load."""

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
"""Rows sent one by one, as most clients do; the latency is measured on them. With fewer than 760
the 99th percentile has no upper bound at the error rate of one guard."""
BATCH_ROWS: Final = 32
"""Rows per inference after these. A client request waits for at most one such inference."""
_REST: Final = 1.0
"""Length of the pause after an inference, relative to its duration."""
_SECONDS: Final = 60.0
"""Seconds after which no further row is sent: slow versions answer fewer."""


class VersionAnswers:
    """One version's answers over an open connection, by row; NaN and None until answered."""

    def __init__(self, registered: RegisteredVersion, features: pd.DataFrame, infer: Infer) -> None:
        signature, rows = registered.signature, len(features)
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
        """Duration of each single-row inference."""
        self._registered, self._infer = registered, infer
        self._inputs: Mapping[str, NDArray[Any]] = model_inputs(signature, features)
        self._outputs = output_names(signature)

    def answer(self, rows: slice) -> None:
        """Store the version's answers to these rows, sent one by one if it refuses them as a batch.

        Raises:
            TritonError: Triton does not answer, or its answer is invalid.
        """
        began = time.perf_counter()
        try:
            self._take(rows)
        except TritonRefused as refusal:
            if rows.stop - rows.start == 1:
                self.failures[rows.start] = refusal.reason
                return
            for row in range(rows.start, rows.stop):
                self.answer(slice(row, row + 1))
        else:
            if rows.stop - rows.start == 1 and rows.start < SINGLES:
                self.seconds.append(time.perf_counter() - began)

    def _take(self, rows: slice) -> None:
        name, version = self._registered.model_name, self._registered.version
        inputs = {name: array[rows] for name, array in self._inputs.items()}
        outputs = self._infer(name, version, inputs, self._outputs)
        labels, probabilities = answers_in(outputs, self._registered.signature)
        self.labels[rows] = labels.tolist()
        if self.probabilities is not None:
            self.probabilities[rows] = probabilities
        self.is_answered[rows] = True


def answer_in_turn(
    endpoint: TritonEndpoint,
    versions: Sequence[tuple[RegisteredVersion, pd.DataFrame]],
    pause: Callable[[float], None] = sleep,
) -> tuple[int, list[VersionAnswers]]:
    """Send the same rows, in tensor form, to versions in turn, one inference at a time.

    A pause in proportion to each inference leaves the server idle for live requests. The two
    versions take turns at going first, so that other load on the machine affects both alike.

    Returns:
        How many rows were sent, from the first one on, and the answers by version.

    Raises:
        TritonError: Triton does not answer, or its answer is invalid.
    """
    rows = len(versions[0][1])
    most = min(version.signature.max_batch_rows for version, _ in versions)
    end, row_count = time.monotonic() + _SECONDS, 0
    with endpoint.connection("replay logged rows") as infer:
        answers = [VersionAnswers(version, frame, infer) for version, frame in versions]
        for turn, part in enumerate(_parts(rows, min(BATCH_ROWS, most))):
            for each in answers if turn % 2 else reversed(answers):
                began = time.perf_counter()
                each.answer(part)
                pause(_REST * (time.perf_counter() - began))
            row_count = part.stop
            if time.monotonic() > end:
                break
    return row_count, answers


def _parts(rows: int, batch: int) -> Iterator[slice]:
    singles = min(rows, SINGLES)
    for row in range(singles):
        yield slice(row, row + 1)
    for start in range(singles, rows, batch):
        yield slice(start, min(start + batch, rows))
