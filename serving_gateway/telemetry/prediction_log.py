"""The request path's part of the prediction log: a bounded queue of answered requests.

The request path chooses a request and puts a tuple of what it has anyway into a bounded queue: the
tensors that were sent, and the bytes that Triton answered. Columns are made of them by the writer
(`log_writer`), in its own thread.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from serving_gateway.contract import Signature

_GOLDEN: Final = 0.6180339887498949
"""A step of this size spreads any share evenly, and coincides with no rhythm of clients."""
ENTRY_BYTES: Final = 600
"""What an entry takes beside its tensors, texts and Triton's answer, rather too much."""
_FAILURE_CHARACTERS: Final = 200
_WAKE_ROWS: Final = 4_096
"""Rows that are enough for the writer to begin at once: more would leave the processor's cache."""
_STEPS: Final = 16
"""How often the bounds are looked at while as many rows arrive."""

Place = tuple[str, int, int, int]
"""Type, first byte, end and elements per row of an output; no type where there is none."""
Places = tuple[int, bool, Place, Place]
"""Where Triton's answer has the prediction: rows of the answer; whether labels are booleans; the
labels, and the probabilities."""

Entity = int | str | tuple[int | str | None, ...] | None
"""Whose row it is: an id, or one for each join key; None for a row without."""

Entry = tuple[
    int,
    int,
    int,
    float,
    float,
    tuple[bytes, ...],
    str | None,
    Sequence[Entity] | None,
    float | None,
    bytes,
    int,
    Places,
]
"""An answered request: its size in bytes; the number of its id; its rows; by `perf_counter`, when
it was sent to Triton and the seconds until its answer; its tensors; the client's id; its entities;
when its oldest stored value was observed (seconds since the epoch); Triton's answer to all that
were asked together, the request's first row there, and where the prediction is.

A plain tuple of plain values: the garbage collector stops looking at such a one at once."""

MirroredEntry = tuple[
    *Entry,
    int,
    float | None,
    bytes | None,
    int,
    Places | None,
    str | None,
]
"""The same of a request that was mirrored, with B's version, latency in seconds, answer, first row
and places, or the reason why there are none."""


class LogQueue:
    """Entries on their way from the event loop to the writer's thread; putting never waits.

    What the writer took counts until it is released, so that the bounds hold for both together.
    """

    __slots__ = (
        *("_max_bytes", "_max_rows", "_released_bytes", "_released_rows", "_wake_rows"),
        *("bytes", "is_urgent", "next_bytes", "next_rows", "rows", "waiting", "wake"),
    )

    def __init__(self, max_rows: int, max_bytes: int) -> None:
        self.wake = threading.Event()
        """Set when there is work before its time."""
        self.is_urgent = False
        """Whether that was done since the writer looked."""
        self.waiting: deque[VariantLog] = deque()
        self._max_rows = max_rows
        self._max_bytes = max_bytes
        self._wake_rows = min(_WAKE_ROWS, max_rows // 2)
        # Each is changed by one thread only, so that no lock is needed.
        self.rows = self.bytes = 0
        """All that was put since the start."""
        self._released_rows = self._released_bytes = 0
        self.next_rows = self.next_bytes = 0
        """Up to where it may grow before `admit` is asked."""

    def admit(self, rows: int, size: int) -> bool:
        """Whether an entry that is counted already fits; else it is taken back."""
        held_rows, held = self.rows - self._released_rows, self.bytes - self._released_bytes
        if held_rows > self._max_rows or held > self._max_bytes:
            self.rows -= rows
            self.bytes -= size
            return False
        if (held_rows >= self._wake_rows or 2 * held > self._max_bytes) and not self.is_urgent:
            self.is_urgent = True
            self.wake.set()
        step = self._wake_rows // _STEPS, self._max_bytes // (2 * _STEPS)
        self.next_rows = self.rows + min(step[0], self._max_rows - held_rows)
        self.next_bytes = self.bytes + min(step[1], self._max_bytes - held)
        return True

    def release(self, rows: int, size: int) -> None:
        """Return room: the writer has converted that much."""
        self._released_rows += rows
        self._released_bytes += size


@dataclass(slots=True, eq=False)
class ModelLog:
    """Chooses which `fraction` (0 to 1) of a model's requests is logged, and counts their rows.

    `id_prefix` is that of the predictions' ids. `written` rows are in a file, `dropped` ones were
    too many to wait, `failed` ones could not be written.
    """

    queue: LogQueue
    fraction: float
    id_prefix: str
    written: int = 0
    dropped: int = 0
    failed: int = 0
    takes_all: bool = field(init=False)
    _phase: float = 0.0

    def __post_init__(self) -> None:
        self.takes_all = self.fraction >= 1

    def is_due(self) -> bool:
        """Whether the next request is one to log; asked once for each."""
        self._phase = phase = (self._phase + _GOLDEN) % 1.0
        return phase < self.fraction


class VariantLog:
    """Entries of one variant and version in one generation, until the writer takes them."""

    __slots__ = (
        *("entries", "generation", "is_waiting", "last_answer", "mirrored", "model", "model_name"),
        *("queue", "signature", "variant", "version"),
    )

    def __init__(
        self,
        model: ModelLog,
        model_name: str,
        variant: str,
        version: int,
        generation: int,
        signature: Signature,
    ) -> None:
        self.model = model
        self.queue = model.queue
        self.model_name = model_name
        self.variant = variant
        self.version = version
        self.generation = generation
        self.signature = signature
        self.entries: list[Entry] = []
        self.mirrored: list[MirroredEntry] = []
        self.is_waiting = False
        """Whether the queue has it."""
        self.last_answer = b""
        """Triton's answer that was counted last: requests that share one hold it once."""

    def put(self, entry: Entry) -> None:
        """Add an answered request, or count that there is no room."""
        queue = self.queue
        queue.rows = rows = queue.rows + entry[2]
        queue.bytes = size = queue.bytes + entry[0]
        is_due = rows > queue.next_rows or size > queue.next_bytes
        if is_due and not queue.admit(entry[2], entry[0]):
            self.model.dropped += entry[2]
            return
        self.entries.append(entry)
        if not self.is_waiting:
            self._wait()

    def put_mirrored(self, entry: MirroredEntry) -> None:
        """Add a mirrored request, likewise."""
        queue = self.queue
        queue.rows += entry[2]
        queue.bytes += entry[0]
        if queue.admit(entry[2], entry[0]):
            self.mirrored.append(entry)
            if not self.is_waiting:
                self._wait()
        else:
            self.model.dropped += entry[2]

    def _wait(self) -> None:
        # After the entry is there: the writer first takes back `is_waiting`, then the entries.
        self.is_waiting = True
        self.queue.waiting.append(self)


class PendingEntry(NamedTuple):
    """An entry that waits until B has answered its copy."""

    log: VariantLog
    entry: Entry

    def write(self) -> None:
        """Log the request without B."""
        self.log.put(self.entry)

    def write_answered(
        self, version: int, seconds: float, answer: bytes, start: int, places: Places
    ) -> None:
        """Log it next to B's answer."""
        entry = self.entry
        size = entry[0] + len(answer)
        self.log.put_mirrored((size, *entry[1:], version, seconds, answer, start, places, None))

    def write_failed(self, version: int, reason: str) -> None:
        """Log it with the reason why B did not answer."""
        reason = reason[:_FAILURE_CHARACTERS]
        self.log.put_mirrored((*self.entry, version, None, None, 0, None, reason))
