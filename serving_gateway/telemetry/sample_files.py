"""Writes samples to Parquet files in a thread of its own: the gateway's only user of pyarrow.

A model's folder holds whole files only: one is staged under a name that starts with a dot, and
renamed. Rows that cannot be written are counted and logged once; answers go on.
"""

from __future__ import annotations

import json
import logging
import os
import re
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from typing import Any, Final

from serving_gateway.contract import DType, Feature
from serving_gateway.settings import Settings
from serving_gateway.telemetry.samples import ModelSamples, Sample, SampleQueue

log = logging.getLogger(__name__)

OWN_COLUMNS: Final = tuple(
    f"sample_{what}" for what in ("time", "version", "variant", "prediction", "score", "entity")
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

_Key = tuple[ModelSamples, str, tuple[Feature, ...]]
"""What counts the rows, model and features: rows with the same ones may share a file."""


class SampleWriter:
    """Writes samples to a folder for each model; `replica` is part of the files' names."""

    def __init__(
        self, queue: SampleQueue, directory: Path, replica: str, settings: Settings
    ) -> None:
        self._queue = queue
        self._directory = directory
        self._replica = re.sub(r"[^A-Za-z0-9._]", "_", replica)
        self._settings = settings
        self._due: dict[_Key, float] = {}
        self._buffers: defaultdict[_Key, list[Any]] = defaultdict(list)
        self._buffered = 0
        """Bytes of the batches in all buffers."""
        self._numbers = count(1)
        self._problem: str | None = None
        self._ending = False
        self._thread = threading.Thread(target=self._run, name="samples", daemon=True)

    def start(self) -> None:
        """Start the thread; blocks while pyarrow is imported, RuntimeError if it cannot be."""
        try:
            import pyarrow.parquet  # noqa: F401
        except Exception as error:
            raise RuntimeError(
                f"GATEWAY_SAMPLE_DIR is set, but pyarrow cannot be imported: {error}"
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
            self._queue.wake.wait(min(_PAUSE_SECONDS, self._settings.sample_seconds))
            self._queue.wake.clear()
            self._work()
        self._work(everything=True)

    def _work(self, *, everything: bool = False) -> None:
        """Take what waits, and write what is due."""
        chunk = min(_CHUNK, self._settings.sample_rows_per_file)
        waiting: defaultdict[_Key, list[tuple[Sample, int]]] = defaultdict(list)
        rows: Counter[_Key] = Counter()
        for origin, sample, size in self._queue.drain():
            key = (origin, sample.model_name, sample.signature.features)
            waiting[key].append((sample, size))
            rows[key] += len(sample.predictions)
            if rows[key] >= chunk:
                self._take(key, waiting.pop(key), rows.pop(key))
        for key, samples in waiting.items():
            self._take(key, samples, rows[key])
        now = time.monotonic()
        for key, due in [*self._due.items()]:
            if everything or now >= due:
                self._write(key)

    def _take(self, key: _Key, samples: list[tuple[Sample, int]], rows: int) -> None:
        """Put samples into a buffer, as the file will hold them.

        Converted at once: otherwise they would be thousands of objects for the garbage collector
        to traverse while requests wait.
        """
        limits, buffers = self._settings, self._buffers
        try:
            batch = to_record_batch([sample for sample, _ in samples])
        except Exception as error:
            key[0].failed += rows
            self._note(f"{type(error).__name__}: {error}")
        else:
            self._due.setdefault(key, time.monotonic() + limits.sample_seconds)
            buffers[key].append(batch)
            self._buffered += batch.nbytes
            if sum(one.num_rows for one in buffers[key]) >= limits.sample_rows_per_file:
                self._write(key)
            while self._buffered > limits.sample_queue_bytes:
                self._write(max(buffers, key=lambda key: sum(one.nbytes for one in buffers[key])))
        self._queue.release(rows, sum(size for _, size in samples))
        time.sleep(_YIELD_SECONDS)

    def _write(self, key: _Key) -> None:
        """Write a buffer to a file; the buffer is dropped even if that fails."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        origin, model_name, _ = key
        del self._due[key]
        batches = self._buffers.pop(key)
        self._buffered -= sum(one.nbytes for one in batches)
        table = pa.Table.from_batches(batches)
        folder = self._directory / model_name
        day = datetime.now(UTC).date().isoformat()
        name = f"{day}-{self._replica}-{next(self._numbers):06d}.parquet"
        staged = folder / f".{name}.staged"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with staged.open("wb") as file:
                pq.write_table(table, file)
                file.flush()
                os.fsync(file.fileno())
            staged.replace(folder / name)
        except Exception as error:
            # A full or unwritable disk above all; a bug in here must not end the thread either.
            with suppress(OSError):
                staged.unlink()
            origin.failed += table.num_rows
            self._note(f"{type(error).__name__}: {error}")
            return
        origin.written += table.num_rows
        self._note(None)
        try:
            delete_oldest(folder, self._settings.sample_max_bytes, keep=name)
        except OSError as error:
            log.warning("old samples were not deleted", extra={"reason": str(error)})

    def _note(self, problem: str | None) -> None:
        if problem is None and self._problem is not None:
            log.info("samples are written again")
        elif problem is not None and self._problem is None:
            log.warning(
                "samples are lost: they cannot be written; predictions are still answered",
                extra={"directory": str(self._directory), "reason": problem},
            )
        self._problem = problem


def to_record_batch(samples: Sequence[Sample]) -> Any:
    """Samples with the same features as Arrow columns: the features, then `OWN_COLUMNS`.

    NaN, by which some encoders mean null, is null. `ValueError` for a feature named as one of ours.
    """
    import pyarrow as pa

    features = samples[0].signature.features
    names = [feature.name for feature in features]
    if twice := sorted(set(names) & set(OWN_COLUMNS)):
        raise ValueError(f"a feature cannot be called {', '.join(twice)}")
    kinds = {
        DType.FP32: pa.float32(),
        DType.FP64: pa.float64(),
        DType.INT64: pa.int64(),
        DType.BOOL: pa.bool_(),
        DType.BYTES: pa.string(),
    }
    rows: list[list[Any]] = []
    for one in samples:
        rows += one.data or [[row[name] for name in names] for row in one.instances or ()]
    arrays = [
        pa.array(_column(rows, at, feature.dtype), kinds[feature.dtype], from_pandas=True)
        for at, feature in enumerate(features)
    ]
    every = [one for one in samples for _ in one.predictions]
    arrays += [
        pa.array([one.at_us for one in every], pa.timestamp("us", tz="UTC")),
        pa.array([one.version for one in every], pa.int64()),
        pa.array([one.variant for one in every], pa.string()),
        pa.array([str(label) for one in samples for label in one.predictions], pa.string()),
        pa.array([score for one in samples for score in _scores(one)], pa.float64()),
        pa.array([entity for one in samples for entity in _entities(one)], pa.string()),
    ]
    return pa.record_batch(arrays, names=[*names, *OWN_COLUMNS])


def _column(rows: list[list[Any]], at: int, dtype: DType) -> list[Any]:
    """The values of one feature; in JSON a float may be written as an integer."""
    values = [row[at] for row in rows]
    if dtype in {DType.FP32, DType.FP64}:
        return [None if one is None else float(one) for one in values]
    return [one or None for one in values] if dtype is DType.BYTES else values


def _scores(sample: Sample) -> list[float | None]:
    """By row, the largest probability; without any the number predicted, if it is one."""
    if sample.probabilities is not None:
        return [max(row, default=None) for row in sample.probabilities]
    return [one if isinstance(one, float) else None for one in sample.predictions]


def _entities(sample: Sample) -> list[str | None]:
    """By row, its entity as text; None where the request named none.

    An entity of several keys is a JSON object of those that the request named.
    """
    if sample.entities is None:
        return [None] * len(sample.predictions)
    keys = sample.signature.join_keys
    return [_entity(one, keys) for one in sample.entities]


def _entity(one: object, keys: Sequence[str]) -> str | None:
    if not isinstance(one, tuple):
        return None if one is None else str(one)
    named = {key: value for key, value in zip(keys, one, strict=True) if value is not None}
    return json.dumps(named, ensure_ascii=False, separators=(",", ":")) if named else None


def delete_oldest(folder: Path, max_bytes: int, *, keep: str) -> None:
    """Delete a model's oldest files beyond `max_bytes`, but not `keep`; and what is stale."""
    found: list[tuple[float, int, Path]] = []
    for path in folder.iterdir():
        with suppress(FileNotFoundError):
            about = path.stat()
            if path.suffix == ".parquet":
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
