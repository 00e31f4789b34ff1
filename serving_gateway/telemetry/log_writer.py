"""Writes the prediction log to Parquet files, in a thread of its own.

A model's folder has a folder for each day (UTC), which holds complete files only: a file is staged
under a name that starts with a dot, and renamed. Rows that cannot be written are counted and logged
once; predictions are still answered.
"""

from __future__ import annotations

import logging
import re
import threading
import time
from collections import defaultdict
from datetime import date
from functools import lru_cache
from itertools import count
from pathlib import Path
from typing import Any, Final

from serving_gateway.contract import LOG_COLUMNS, Feature, client_hash, log_day
from serving_gateway.settings import Settings
from serving_gateway.telemetry.log_files import LogFolder, require_pyarrow
from serving_gateway.telemetry.log_page import Page, PagePart
from serving_gateway.telemetry.prediction_log import LogQueue, ModelLog, VariantLog

log = logging.getLogger(__name__)

_PAUSE_SECONDS: Final = 1.0
"""Longest time between two looks at the queue. Waking for each request would take the interpreter
from the event loop each time."""
_END_SECONDS: Final = 5.0
_YIELD_SECONDS: Final = 0.001
"""Pause after a page."""
_KEPT_HASHES: Final = 65_536

_Key = tuple[ModelLog, str, tuple[Feature, ...], date]
"""The counter of the rows, model, features and day: rows with an equal key may share a file."""


class LogWriter:
    """Writes entries to a folder for each model; `replica` is part of the files' names.

    With `key`, the log identifies clients by a keyed hash; without, it names no clients.
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
        with require_pyarrow():
            from serving_gateway.telemetry.log_columns import record_batches
        self._convert = record_batches
        self._thread.start()

    def close(self) -> None:
        """Write what waits and end, without waiting for a disk that hangs."""
        self._ending = True
        self._queue.wake.set()
        if self._thread.is_alive():
            self._thread.join(_END_SECONDS)

    def _run(self) -> None:
        queue = self._queue
        while not self._ending:
            if not queue.wake.wait(min(_PAUSE_SECONDS, self._settings.sample_seconds)):
                self._ask_for_pages()
            queue.wake.clear()
            self._work()
        queue.seal()
        self._work(everything=True)

    def _ask_for_pages(self) -> None:
        queue = self._queue
        if queue.has_older(time.monotonic() - self._settings.sample_seconds):
            try:
                queue.call_in_loop(queue.seal)
            except RuntimeError:  # the loop has ended, and fills no pages any more
                queue.seal()

    def _work(self, *, everything: bool = False) -> None:
        """Take what waits, and write what is due."""
        sealed = self._queue.sealed
        while sealed:
            variant, page = sealed.popleft()
            if page.requests:
                self._take(variant, page)
            self._queue.release(page.rows, page.bytes)
            time.sleep(_YIELD_SECONDS)
        now = time.monotonic()
        for key, due in [*self._due.items()]:
            if everything or now >= due:
                self._write(key)

    def _take(self, variant: VariantLog, page: Page) -> None:
        """Convert a page to batches, and buffer them by file."""
        limits, buffers = self._settings, self._buffers
        features = variant.signature.features
        for day, batch in self._to_batches(variant, page.whole()):
            key = variant.model, variant.model_name, features, day
            self._due.setdefault(key, page.opened_at + limits.sample_seconds)
            buffers[key].append(batch)
            self._buffered += batch.nbytes
            if sum(batch.num_rows for batch in buffers[key]) >= limits.sample_rows_per_file:
                self._write(key)
            while self._buffered > limits.sample_queue_bytes:
                self._write(max(buffers, key=lambda key: sum(one.nbytes for one in buffers[key])))

    def _to_batches(self, variant: VariantLog, part: PagePart) -> list[tuple[date, Any]]:
        """Requests as record batches by day; those that cannot be converted are counted."""
        names = {feature.name for feature in variant.signature.features}
        if clash := sorted(names & {*LOG_COLUMNS}):
            self._lose(variant, part, f"a feature cannot be called {', '.join(clash)}")
            return []
        try:
            clock = time.time() - time.perf_counter()
            return self._convert(variant, part, clock, self._hash_client)
        except Exception as error:
            if part.stop - part.start == 1:
                self._lose(variant, part, f"{type(error).__name__}: {error}")
                return []
        # One invalid request must not take the others along.
        return [batch for half in part.halves() for batch in self._to_batches(variant, half)]

    def _lose(self, variant: VariantLog, part: PagePart, problem: str) -> None:
        variant.model.failed += part.rows
        self._note(problem)

    def _write(self, key: _Key) -> None:
        """Write a buffer to a file; the buffer is dropped even if that fails."""
        origin, model_name, _, day = key
        del self._due[key]
        batches = self._buffers.pop(key)
        self._buffered -= sum(batch.nbytes for batch in batches)
        rows = sum(batch.num_rows for batch in batches)
        if model_name not in self._folders:
            limits = self._settings.sample_max_bytes, self._settings.sample_max_days
            self._folders[model_name] = LogFolder(self._directory / model_name, *limits)
        name = f"{log_day(day)}/{self._replica}-{next(self._numbers):06d}.parquet"
        try:
            self._folders[model_name].write(name, batches)
        except Exception as error:
            # Mostly a full or unwritable disk; but a bug here must not end the thread either.
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
