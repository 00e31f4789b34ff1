"""Writes samples to Parquet files in a thread of its own: the gateway's only user of pyarrow.

A model's folder holds whole files only: one is staged under a name that starts with a dot, and
renamed. Rows that cannot be written are counted and logged once; answers go on.
"""

from __future__ import annotations

import logging
import os
import re
import threading
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from typing import Any, Final

from serving_gateway.contract import DType, Feature
from serving_gateway.telemetry.samples import (
    ModelSamples,
    Sample,
    SampleQueue,
    to_columns,
    to_entities,
    to_scores,
)

log = logging.getLogger(__name__)

OWN_COLUMNS: Final = (
    "sample_time",
    "sample_version",
    "sample_variant",
    "sample_prediction",
    "sample_score",
    "sample_entity",
)
_PAUSE_SECONDS: Final = 1.0
"""Longest time between two drains of the queue. Waking for each sample would take the
interpreter from the event loop each time."""
_END_SECONDS: Final = 5.0
_CHUNK: Final = 128
"""Rows that are converted at once; the event loop waits for the interpreter meanwhile."""
_YIELD_SECONDS: Final = 0.001
"""Pause after a chunk."""
_STALE_SECONDS: Final = 3600.0
"""Age of a staged file whose process must have died."""


_Key = tuple[str, tuple[Feature, ...]]
"""Model and features: rows with the same ones may share a file."""


class _Buffer:
    """Rows of one model with the same features, on their way to one file."""

    def __init__(self, due: float) -> None:
        self.due = due
        self.batches: list[Any] = []
        self.rows = 0
        self.bytes = 0
        self.origins: Counter[ModelSamples] = Counter()


class SampleWriter:
    """Takes samples out of a queue and writes them.

    Args:
        queue: where they come from.
        directory: holds a folder for each model; made when missing.
        replica: part of the files' names, so that replicas may share the directory.
        rows_per_file: rows after which a file is written.
        seconds: age of the oldest row after which a file is written.
        max_bytes: most bytes of a model's files; the oldest ones are deleted.
        max_buffered_bytes: most bytes in memory, of all models; beyond it a file is written early.
    """

    def __init__(
        self,
        queue: SampleQueue,
        directory: Path,
        replica: str,
        *,
        rows_per_file: int,
        seconds: float,
        max_bytes: int,
        max_buffered_bytes: int,
    ) -> None:
        self._queue = queue
        self._directory = directory
        self._replica = re.sub(r"[^A-Za-z0-9._]", "_", replica)
        self._rows_per_file = rows_per_file
        self._seconds = seconds
        self._max_bytes = max_bytes
        self._max_buffered = max_buffered_bytes
        self._buffers: dict[_Key, _Buffer] = {}
        self._numbers = count(1)
        self._problem: str | None = None
        self._ending = False
        self._thread = threading.Thread(target=self._run, name="samples", daemon=True)

    def start(self) -> None:
        """Start the thread; blocks for as long as the import of pyarrow takes.

        Raises:
            RuntimeError: pyarrow cannot be imported.
        """
        try:
            import pyarrow.parquet  # noqa: F401
        except Exception as error:
            raise RuntimeError(
                f"GATEWAY_SAMPLE_DIR needs pyarrow, which cannot be imported: {error}. "
                "Install the extra 'samples', or unset it."
            ) from error
        self._thread.start()

    def close(self) -> None:
        """Write what waits and end; a disk that hangs is not waited for."""
        self._ending = True
        self._queue.wake.set()
        if self._thread.is_alive():
            self._thread.join(_END_SECONDS)

    def _run(self) -> None:
        while not self._ending:
            self._queue.wake.wait(min(_PAUSE_SECONDS, self._seconds))
            self._queue.wake.clear()
            self._work()
        self._work(everything=True)

    def _work(self, *, everything: bool = False) -> None:
        """Take what waits, and write what is due."""
        taken: dict[_Key, list[Sample]] = {}
        rows: Counter[_Key] = Counter()
        sizes: Counter[_Key] = Counter()
        for sample, size in self._queue.drain():
            key = (sample.model_name, sample.signature.features)
            taken.setdefault(key, []).append(sample)
            rows[key] += sample.rows
            sizes[key] += size
            if rows[key] >= min(_CHUNK, self._rows_per_file):
                self._take(key, taken.pop(key), rows[key])
                self._queue.release(rows.pop(key), sizes.pop(key))
        for key, samples in taken.items():
            self._take(key, samples, rows[key])
            self._queue.release(rows[key], sizes[key])
        now = time.monotonic()
        for key, buffer in [*self._buffers.items()]:
            if everything or now >= buffer.due:
                self._write(key, buffer)

    def _take(self, key: _Key, samples: list[Sample], rows: int) -> None:
        """Put samples into a buffer, as they will stand in the file.

        Converted at once: otherwise they would be thousands of objects for the garbage collector
        to traverse while requests wait.
        """
        try:
            batch = to_record_batch(samples)
        except Exception as error:
            for sample in samples:
                sample.origin.failed += sample.rows
            self._note(f"{type(error).__name__}: {error}")
            return
        buffer = self._buffers.get(key)
        if buffer is None:
            buffer = self._buffers[key] = _Buffer(time.monotonic() + self._seconds)
        buffer.batches.append(batch)
        buffer.rows += rows
        buffer.bytes += batch.nbytes
        for sample in samples:
            buffer.origins[sample.origin] += sample.rows
        if buffer.rows >= self._rows_per_file:
            self._write(key, buffer)
        while sum(one.bytes for one in self._buffers.values()) > self._max_buffered:
            self._write(*max(self._buffers.items(), key=lambda item: item[1].bytes))
        time.sleep(_YIELD_SECONDS)

    def _write(self, key: _Key, buffer: _Buffer) -> None:
        """Write a buffer to a file; the buffer is emptied even if that fails."""
        del self._buffers[key]
        folder = self._directory / key[0]
        day = datetime.now(UTC).date().isoformat()
        name = f"{day}-{self._replica}-{next(self._numbers):06d}.parquet"
        staged = folder / f".{name}.staged"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            write_file(buffer.batches, staged)
            staged.replace(folder / name)
        except Exception as error:
            # A full or unwritable disk above all; a bug in here must not end the thread either.
            with suppress(OSError):
                staged.unlink()
            for origin, rows in buffer.origins.items():
                origin.failed += rows
            self._note(f"{type(error).__name__}: {error}")
            return
        for origin, rows in buffer.origins.items():
            origin.written += rows
        self._note(None)
        try:
            delete_oldest(folder, self._max_bytes, keep=name)
        except OSError as error:
            log.warning("old samples were not deleted", extra={"reason": str(error)})

    def _note(self, problem: str | None) -> None:
        if problem is None and self._problem is not None:
            log.info("samples are written again")
        elif problem is not None and self._problem is None:
            log.warning(
                "samples are lost: they cannot be written; answers go on",
                extra={"directory": str(self._directory), "reason": problem},
            )
        self._problem = problem


def to_record_batch(samples: Sequence[Sample]) -> Any:
    """Samples with the same features as Arrow columns: the features, then `OWN_COLUMNS`.

    Raises:
        ValueError: a feature has the name of one of `OWN_COLUMNS`.
    """
    import pyarrow as pa

    features = samples[0].signature.features
    names = [feature.name for feature in features]
    twice = sorted(set(names) & set(OWN_COLUMNS))
    if twice:
        raise ValueError(f"a feature cannot be called {', '.join(twice)}")
    kinds = {
        DType.FP32: pa.float32(),
        DType.FP64: pa.float64(),
        DType.INT64: pa.int64(),
        DType.BOOL: pa.bool_(),
        DType.BYTES: pa.string(),
    }
    text = pa.string()
    own = (pa.timestamp("us", tz="UTC"), pa.int64(), text, text, pa.float64(), text)
    columns = (
        *to_columns(samples),
        [one.at_us for one in samples for _ in range(one.rows)],
        [one.version for one in samples for _ in range(one.rows)],
        [one.variant for one in samples for _ in range(one.rows)],
        [str(label) for one in samples for label in one.predictions],
        [score for one in samples for score in to_scores(one)],
        [entity for one in samples for entity in to_entities(one)],
    )
    types = (*(kinds[feature.dtype] for feature in features), *own)
    arrays = [pa.array(column, type=kind) for column, kind in zip(columns, types, strict=True)]
    return pa.record_batch(arrays, names=[*names, *OWN_COLUMNS])


def write_file(batches: list[Any], path: Path) -> None:
    """Write batches of the same columns to a Parquet file, and sync it to the disk.

    Raises:
        OSError: it cannot be written.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.Table.from_batches(batches), path)
    file = os.open(path, os.O_RDONLY)
    try:
        os.fsync(file)
    finally:
        os.close(file)


def delete_oldest(folder: Path, max_bytes: int, *, keep: str) -> None:
    """Delete the oldest files of a folder until all together have at most `max_bytes`.

    Deletes what dead processes left half written, too. Other replicas may do so at the same time.

    Args:
        folder: of one model.
        max_bytes: the bound.
        keep: a file that stays whatever its size.
    """
    found: list[tuple[float, int, Path]] = []
    for path in folder.iterdir():
        with suppress(FileNotFoundError):
            about = path.stat()
            if path.suffix == ".parquet" and not path.name.startswith("."):
                found.append((about.st_mtime, about.st_size, path))
            elif path.suffix == ".staged" and time.time() - about.st_mtime > _STALE_SECONDS:
                path.unlink()
    total = sum(size for _, size, _ in found)
    for _, size, path in sorted(found):
        if total <= max_bytes:
            return
        if path.name != keep:
            path.unlink(missing_ok=True)
            total -= size
