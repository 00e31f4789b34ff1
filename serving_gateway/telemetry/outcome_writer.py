"""Writes outcomes of callers to files, in a thread of its own.

A caller is answered once its outcomes are in a file, which many callers may share. A call that
cannot be written is refused as a whole: the caller sends it again.
"""

from __future__ import annotations

import errno
import logging
import queue
import threading
import time
from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, NamedTuple

from serving_gateway.contract import (
    OUTCOME_COLUMNS,
    OUTCOME_SCHEMA,
    OUTCOME_SCHEMA_KEY,
    Outcome,
    OutcomeValue,
)
from serving_gateway.errors import GatewayError, InvalidInput, Unavailable
from serving_gateway.settings import Settings
from serving_gateway.telemetry.log_files import require_pyarrow
from serving_gateway.telemetry.outcome_files import OutcomeFiles

log = logging.getLogger(__name__)

_GATHER_SECONDS: Final = 0.01
"""How long the first outcomes wait for others that share their file."""
_TIDY_SECONDS: Final = 5.0
_END_SECONDS: Final = 5.0
_CHUNK: Final = 1_024
"""Outcomes that are converted in one go, while the event loop waits for the interpreter."""
_YIELD_SECONDS: Final = 0.001
_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT})
_EXACT: Final = 2.0**53
"""From here on not every whole number is a float."""


class OutcomesNotWritten(Unavailable, code="outcomes_not_written", retry_after=10):
    """The folder of the outcomes is full or cannot be written; none of the call were kept."""


class _Call(NamedTuple):
    model_name: str
    outcomes: Sequence[Outcome]
    done: Future[None]


class OutcomeWriter:
    """Writes outcomes to files below `directory`; `replica` is part of their names."""

    def __init__(self, directory: Path, replica: str, settings: Settings) -> None:
        self._directory = directory
        self._files = OutcomeFiles(
            directory,
            replica,
            max_bytes=settings.outcome_max_bytes,
            max_days=settings.sample_max_days,
        )
        self._calls: queue.SimpleQueue[_Call | None] = queue.SimpleQueue()
        self._received_us = 0
        self._problem: str | None = None
        self._thread = threading.Thread(target=self._run, name="outcomes", daemon=True)

    def start(self) -> None:
        """Start the thread; blocks while pyarrow is imported, RuntimeError if it cannot be."""
        with require_pyarrow():
            import pyarrow.parquet  # noqa: F401
        self._thread.start()

    def close(self) -> None:
        """Write what waits and end, without waiting for a disk that hangs."""
        self._calls.put(None)
        if self._thread.is_alive():
            self._thread.join(_END_SECONDS)

    def submit(self, model_name: str, outcomes: Sequence[Outcome]) -> Future[None]:
        """Have outcomes written; the result comes once they are in place.

        Its errors are `OutcomesNotWritten`, and `InvalidInput` for what no file can hold.
        """
        done: Future[None] = Future()
        self._calls.put(_Call(model_name, outcomes, done))
        return done

    def _run(self) -> None:
        is_ending = False
        while not is_ending:
            calls, is_ending = self._gather()
            by_model: defaultdict[str, list[_Call]] = defaultdict(list)
            for call in calls:
                by_model[call.model_name].append(call)
            for model_name, own in by_model.items():
                self._write(model_name, own)
            try:
                self._files.tidy(everything=is_ending)
            except Exception as error:  # mostly of a disk; the files stay as they are
                log.warning("small files of outcomes were not merged", exc_info=error)

    def _gather(self) -> tuple[list[_Call], bool]:
        """Return the calls that wait, and whether there will be no more."""
        calls: list[_Call] = []
        try:
            call = self._calls.get(timeout=_TIDY_SECONDS)
            if call is not None:
                time.sleep(_GATHER_SECONDS)
            while call is not None:
                calls.append(call)
                call = self._calls.get_nowait()
        except queue.Empty:
            return calls, False
        return calls, True

    def _write(self, model_name: str, calls: list[_Call]) -> None:
        import pyarrow as pa

        written: list[_Call] = []
        tables: list[Any] = []
        for call in calls:
            try:
                tables.append(self._to_table(call.outcomes))
                written.append(call)
            except Exception as error:  # it affects this call alone
                refusal = f"An outcome cannot be written ({error}); nothing of the call was kept."
                _settle(call, InvalidInput(refusal, field="outcomes"))
        if not written:
            return
        problem: GatewayError | None = None
        try:
            self._files.write(model_name, pa.concat_tables(tables))
        except Exception as error:
            # Mostly a full or unwritable disk; but a bug here must not end the thread either.
            problem = self._translate(error)
        if problem is None and self._problem is not None:
            log.info("outcomes are written again")
            self._problem = None
        for call in written:
            _settle(call, problem)

    def _to_table(self, outcomes: Sequence[Outcome]) -> Any:
        import pyarrow as pa

        tables = []
        for at in range(0, len(outcomes), _CHUNK):
            part = outcomes[at : at + _CHUNK]
            # Each a microsecond after the one before it, so that no two are the same.
            first = max(time.time_ns() // 1_000, self._received_us + 1)
            self._received_us = first + len(part) - 1
            tables.append(to_table(part, first))
            if len(outcomes) > _CHUNK:
                time.sleep(_YIELD_SECONDS)
        return pa.concat_tables(tables)

    def _translate(self, error: Exception) -> GatewayError:
        reason = f"{type(error).__name__}: {error}"
        if self._problem is None:
            extra = {"directory": str(self._directory), "reason": reason}
            log.warning("outcomes cannot be written; callers are refused", extra=extra)
        self._problem = reason
        is_full = isinstance(error, OSError) and error.errno in _FULL
        what = (
            "The disk of the outcomes is full: make room there"
            if is_full
            else f"The outcomes cannot be written ({type(error).__name__}): look at the folder "
            "that GATEWAY_SAMPLE_DIR names, and at the gateway's log for the reason"
        )
        return OutcomesNotWritten(f"{what}, then send them again. None of this call were kept.")


def _settle(call: _Call, problem: GatewayError | None) -> None:
    with suppress(InvalidStateError):  # the caller has left
        if problem is None:
            call.done.set_result(None)
        else:
            call.done.set_exception(problem)


def to_table(outcomes: Sequence[Outcome], first_us: int) -> Any:
    """Outcomes as an Arrow table of `OUTCOME_COLUMNS`, received a microsecond apart."""
    import pyarrow as pa

    time_type = pa.timestamp("us", tz="UTC")
    arrays = [
        pa.array([outcome.prediction_id for outcome in outcomes], pa.string()),
        pa.array([outcome.row for outcome in outcomes], pa.int32()),
        pa.array([as_text(outcome.outcome) for outcome in outcomes], pa.string()),
        pa.array([outcome.observed_at for outcome in outcomes], time_type),
        pa.array(range(first_us, first_us + len(outcomes)), pa.int64()).cast(time_type),
    ]
    schema = {OUTCOME_SCHEMA_KEY: str(OUTCOME_SCHEMA)}
    return pa.table(arrays, names=OUTCOME_COLUMNS).replace_schema_metadata(schema)


def as_text(value: OutcomeValue) -> str:
    """A true value as the files have it: `true`, `false`, a number's shortest text, or the text."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float) and value.is_integer() and abs(value) < _EXACT:
        return str(int(value))
    return value if isinstance(value, str) else repr(value)
