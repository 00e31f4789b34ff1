"""Write a file of predictions with only a few parts in memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final

import pyarrow as pa
from pyarrow import parquet

from platform_assets.features.sources.reader import Progress
from platform_assets.model_spec import ModelSpec
from platform_assets.resources.atomic_files import open_replacement
from platform_assets.resources.feast_errors import translate_feast_errors
from platform_assets.resources.records import RegisteredVersion
from platform_assets.resources.triton import TritonEndpoint
from platform_assets.scoring.inference import ScoredPart, Scorer, map_in_order
from platform_assets.scoring.records import BatchPredictions, SampledRow
from platform_assets.scoring.rows import InputRows
from platform_assets.scoring.summary import count_reasons

SAMPLE: Final = 200
"""Number of rows compared with the gateway's answers."""
_REQUESTS: Final = 2
"""Requests in flight to each Triton: one is prepared while another is answered, and a client's
request waits behind these at most."""
_PART_ROWS: Final = 32_768
_PART_VALUES: Final = 2_000_000
"""Maximum values read at once: fewer rows of a wide table."""


@dataclass(frozen=True, slots=True)
class PredictionWriter:
    """Writes the predictions of a version from these Triton servers."""

    spec: ModelSpec
    version: RegisteredVersion
    endpoints: Sequence[TritonEndpoint]
    scored_at: datetime
    progress: Progress

    def write(self, rows: InputRows, path: Path, folder: Path) -> BatchPredictions:
        """Write the file completely or not at all.

        `folder` takes what does not fit into memory.

        Raises:
            TritonError: the version did not answer all requests.
            FeatureStoreError: the rows cannot be read.
            StaleDataError: the rows were replaced meanwhile.
            OSError: the file cannot be written.
        """
        part_rows = max(1, min(_PART_ROWS, _PART_VALUES // len(self.spec.features)))
        sample: list[SampledRow] = []
        row_count = 0
        rows.check_current()
        with rows.read(part_rows, folder) as reader:
            every = max(1, -(-rows.total // SAMPLE))
            scorer = Scorer(
                self.spec, self.version, rows.names, rows.keys, reader.schema, self.scored_at, every
            )
            with (
                open_replacement(path) as file,
                parquet.ParquetWriter(file, scorer.schema) as writer,
            ):
                for part, compared in self._parts(scorer, reader):
                    writer.write_batch(part)
                    sample += compared
                    row_count += part.num_rows
                    self.progress.report("scoring", row_count, rows.total)
                writer.close()
                rows.check_current()
        reasons = count_reasons(path)
        return BatchPredictions(str(path), self.version, row_count, reasons, tuple(sample))

    def _parts(self, scorer: Scorer, reader: pa.RecordBatchReader) -> Iterator[ScoredPart]:
        def score(part: tuple[int, int, pa.RecordBatch]) -> ScoredPart:
            number, start, rows = part
            return scorer.score(rows, start, self.endpoints[number % len(self.endpoints)])

        return map_in_order(score, _enumerate_parts(reader), _REQUESTS * len(self.endpoints))


def _enumerate_parts(reader: pa.RecordBatchReader) -> Iterator[tuple[int, int, pa.RecordBatch]]:
    """Yield each part with its number and that of its first row."""
    start = 0
    with translate_feast_errors("read the rows to score"):
        for number, rows in enumerate(reader):
            yield number, start, rows
            start += rows.num_rows
