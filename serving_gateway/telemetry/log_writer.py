"""Writes the prediction log to Parquet files, in a thread of its own.

A model's folder has a folder for each day (UTC), which holds whole files only: one is staged under
a name that starts with a dot, and renamed. Rows that cannot be written are counted and logged once;
answers go on.
"""

from __future__ import annotations

import logging
import re
import threading
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from datetime import date
from functools import lru_cache
from itertools import count
from pathlib import Path
from typing import Any, Final

from serving_gateway.contract import LOG_COLUMNS, Feature, client_hash, log_day
from serving_gateway.settings import Settings
from serving_gateway.telemetry.log_files import LogFolder
from serving_gateway.telemetry.prediction_log import (
    Entry,
    LogQueue,
    MirroredEntry,
    ModelLog,
    VariantLog,
)

log = logging.getLogger(__name__)

_PAUSE_SECONDS: Final = 1.0
"""Longest time between two looks at the queue. Waking for each request would take the interpreter
from the event loop each time."""
_END_SECONDS: Final = 5.0
_CHUNK_ENTRIES: Final = 8_192
"""Entries that are converted at once; the event loop waits for the interpreter meanwhile."""
_CHUNK_ROWS: Final = 8_192
_YIELD_SECONDS: Final = 0.001
"""Pause after a chunk."""
_KEPT_HASHES: Final = 65_536

_Key = tuple[ModelLog, str, tuple[Feature, ...], date]
"""What counts the rows, model, features and day: rows with the same ones may share a file."""
_Entries = Sequence[Entry | MirroredEntry]


class LogWriter:
    """Writes entries to a folder for each model; `replica` is part of the files' names.

    With `key`, clients are in the log by its hash; without, not at all.
    """

    def __init__(
        self,
        queue: LogQueue,
        directory: Path,
        replica: str,
        settings: Settings,
        key: bytes | None = None,
    ) -> None:
        self._queue = queue
        self._directory = directory
        self._replica = re.sub(r"[^A-Za-z0-9._]", "_", replica)
        self._settings = settings
        self._due: dict[_Key, float] = {}
        self._buffers: defaultdict[_Key, list[Any]] = defaultdict(list)
        self._buffered = 0
        """Bytes of the batches in all buffers."""
        self._folders: dict[str, LogFolder] = {}
        self._numbers = count(1)
        self._problem: str | None = None
        self._ending = False
        self._hash_client = lru_cache(_KEPT_HASHES)(
            lambda client: None if key is None else client_hash(client, key)
        )
        self._thread = threading.Thread(target=self._run, name="prediction-log", daemon=True)

    def start(self) -> None:
        """Start the thread; blocks while pyarrow is imported, RuntimeError if it cannot be."""
        try:
            import serving_gateway.telemetry.log_columns
        except Exception as error:
            raise RuntimeError(
                f"GATEWAY_SAMPLE_DIR is set, but pyarrow cannot be imported: {error}"
            ) from error
        self._convert = serving_gateway.telemetry.log_columns.record_batches
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
            self._queue.is_urgent = False
            self._work()
        self._work(everything=True)

    def _work(self, *, everything: bool = False) -> None:
        """Take what waits, and write what is due."""
        waiting = self._queue.waiting
        for _ in range(len(waiting)):
            variant = waiting.popleft()
            variant.is_waiting = False
            for held in (variant.entries, variant.mirrored):
                for entries in _chunks(held):
                    self._take(variant, entries)
        now = time.monotonic()
        for key, due in [*self._due.items()]:
            if everything or now >= due:
                self._write(key)

    def _take(self, variant: VariantLog, entries: _Entries) -> None:
        """Put entries into buffers, as the files will hold them."""
        limits, buffers = self._settings, self._buffers
        features = variant.signature.features
        for day, batch in self._to_batches(variant, entries):
            key = variant.model, variant.model_name, features, day
            self._due.setdefault(key, time.monotonic() + limits.sample_seconds)
            buffers[key].append(batch)
            self._buffered += batch.nbytes
            if sum(one.num_rows for one in buffers[key]) >= limits.sample_rows_per_file:
                self._write(key)
            while self._buffered > limits.sample_queue_bytes:
                self._write(max(buffers, key=lambda key: sum(one.nbytes for one in buffers[key])))
        self._queue.release(sum(one[2] for one in entries), sum(one[0] for one in entries))
        time.sleep(_YIELD_SECONDS)

    def _to_batches(self, variant: VariantLog, entries: _Entries) -> list[tuple[date, Any]]:
        """The entries as record batches by day; those that cannot be converted are counted."""
        names = {feature.name for feature in variant.signature.features}
        if clash := sorted(names & {*LOG_COLUMNS}):
            self._lose(variant, entries, f"a feature cannot be called {', '.join(clash)}")
            return []
        try:
            clock = time.time() - time.perf_counter()
            return self._convert(variant, entries, clock, self._hash_client)
        except Exception as error:
            if len(entries) == 1:
                self._lose(variant, entries, f"{type(error).__name__}: {error}")
                return []
        # One entry that is not like the others must not take them along.
        middle = len(entries) // 2
        halves = entries[:middle], entries[middle:]
        return [batch for half in halves for batch in self._to_batches(variant, half)]

    def _lose(self, variant: VariantLog, entries: _Entries, problem: str) -> None:
        variant.model.failed += sum(one[2] for one in entries)
        self._note(problem)

    def _write(self, key: _Key) -> None:
        """Write a buffer to a file; the buffer is dropped even if that fails."""
        origin, model_name, _, day = key
        del self._due[key]
        batches = self._buffers.pop(key)
        self._buffered -= sum(one.nbytes for one in batches)
        rows = sum(one.num_rows for one in batches)
        if model_name not in self._folders:
            limits = self._settings.sample_max_bytes, self._settings.sample_max_days
            self._folders[model_name] = LogFolder(self._directory / model_name, *limits)
        name = f"{log_day(day)}/{self._replica}-{next(self._numbers):06d}.parquet"
        try:
            self._folders[model_name].write(name, batches)
        except Exception as error:
            # A full or unwritable disk above all; a bug in here must not end the thread either.
            origin.failed += rows
            self._note(f"{type(error).__name__}: {error}")
            return
        origin.written += rows
        self._note(None)

    def _note(self, problem: str | None) -> None:
        if problem is None and self._problem is not None:
            log.info("the prediction log is written again")
        elif problem is not None and self._problem is None:
            log.warning(
                "rows of the prediction log are lost: they cannot be written; predictions are "
                "still answered",
                extra={"directory": str(self._directory), "reason": problem},
            )
        self._problem = problem


def _chunks(held: list[Any]) -> Iterator[_Entries]:
    """Take out what a list has now, in parts; the event loop goes on appending to it."""
    left = len(held)
    while left > 0:
        entries = held[: min(left, _CHUNK_ENTRIES)]
        rows = 0
        for at, entry in enumerate(entries):
            rows += entry[2]
            if rows > _CHUNK_ROWS and at > 0:
                entries = entries[:at]
                break
        del held[: len(entries)]
        left -= len(entries)
        yield entries
