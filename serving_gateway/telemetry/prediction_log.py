"""The request path's part of the prediction log: a bounded queue of answered requests.

The request path chooses a request and puts what it has anyway on a page (`log_page`): the tensors
that were sent, and the bytes that Triton answered. Columns are made of them by the writer
(`log_writer`), in its own thread.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from math import nan
from typing import Final, NamedTuple

from serving_gateway.contract import Signature
from serving_gateway.telemetry.log_page import (
    RECORD,
    Answer,
    Copy,
    Entity,
    Page,
    answer_bytes,
    copy_bytes,
    text_bytes,
)

_pack: Final = RECORD.pack
_GOLDEN: Final = 0.6180339887498949
"""A step of this size spreads any share evenly, and coincides with no rhythm of clients."""
_FAILURE_CHARACTERS: Final = 200
_WAKE_ROWS: Final = 16_384
"""Rows that are enough for the writer to begin at once."""

Entry = tuple[
    int, int, float, float, str | None, Sequence[Entity] | None, int, float | None, Answer, int
]
"""An answered request: the number of its id; its rows; by `perf_counter`, when it was sent to
Triton and the seconds until its answer; the client's id; its entities, and their bytes, at most;
when its oldest stored value was observed (seconds since the epoch); the inference, and the
request's first row there."""


class LogQueue:
    """Pages on their way from the event loop to the writer's thread; putting never waits.

    Open pages belong to the event loop, sealed ones to the writer. What the writer has not released
    counts, so that the bounds hold for all of them together. `call_in_loop` has the event loop call
    a function soon, from any thread; without a loop the caller does.
    """

    __slots__ = (
        *("_bytes", "_max_bytes", "_max_rows", "_open", "_released_bytes", "_released_rows"),
        *("_rows", "_sealed_bytes", "_sealed_rows", "_wake_rows", "call_in_loop", "sealed"),
        "wake",
    )

    def __init__(self, max_rows: int, max_bytes: int) -> None:
        self.call_in_loop: Callable[[Callable[[], None]], object] = lambda function: function()
        self.sealed: deque[tuple[VariantLog, Page]] = deque()
        self.wake = threading.Event()
        """Set when there are sealed pages."""
        self._open: list[tuple[VariantLog, Page]] = []
        self._max_rows = max_rows
        self._max_bytes = max_bytes
        self._wake_rows = min(_WAKE_ROWS, max_rows // 2)
        # All that was put, sealed and released since the start. Each is changed by one thread only,
        # so that no lock is needed.
        self._rows = self._bytes = 0
        self._sealed_rows = self._sealed_bytes = 0
        self._released_rows = self._released_bytes = 0

    def has_older(self, opened_at: float) -> bool:
        """Whether a page was opened before that time, by `monotonic`; from any thread."""
        return any(page.opened_at <= opened_at for _, page in self._open[:1])

    @property
    def held_rows(self) -> int:
        """Rows that were put and are not released."""
        return self._rows - self._released_rows

    def open(self, variant: VariantLog) -> Page:
        """Open a page for a variant without one."""
        variant.page = page = Page()
        self._open.append((variant, page))
        return page

    def take(self, rows: int, size: int) -> bool:
        """Reserve room, if there is any; else seal the open pages so that the writer makes some."""
        is_free = (
            self.held_rows + rows <= self._max_rows
            and self._bytes + size - self._released_bytes <= self._max_bytes
        )
        if is_free:
            self._rows += rows
            self._bytes += size
        else:
            self.seal()
        return is_free

    def return_unused(self, size: int) -> None:
        """Return room that was reserved and is not used."""
        self._bytes -= size

    def release(self, rows: int, size: int) -> None:
        """Return room: the writer has converted that much."""
        self._released_rows += rows
        self._released_bytes += size

    def seal_early(self) -> None:
        """Hand the open pages to the writer if they are enough for it to begin."""
        if (
            self._rows - self._sealed_rows >= self._wake_rows
            or 2 * (self._bytes - self._sealed_bytes) >= self._max_bytes
        ):
            self.seal()

    def seal(self) -> None:
        """Hand the open pages to the writer; called where they are filled."""
        self._sealed_rows, self._sealed_bytes = self._rows, self._bytes
        if self._open:
            for variant, _ in self._open:
                variant.page = None
            self.sealed.extend(self._open)
            self._open.clear()
            self.wake.set()


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
    """Entries of one variant and version in one generation, on the page that is open."""

    __slots__ = (
        *("generation", "mirrored", "model", "model_name", "page", "queue", "signature"),
        *("variant", "version"),
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
        self.page: Page | None = None
        self.mirrored: VariantLog | None = None
        """The log of mirrored requests, from the first one on."""

    def put(
        self,
        number: int,
        rows: int,
        sent_at: float,
        seconds: float,
        client: str | None,
        entities: Sequence[Entity] | None,
        size: int,
        as_of: float | None,
        answer: Answer,
        start: int,
    ) -> bool:
        """Add an answered request, or count that there is no room; see `Entry`."""
        page = self.page
        if page is None or page.last is not answer:
            page = self._begin(answer)
        if page is not None:
            at = page.clients.get(client)
            if at is None or entities is not None:
                at = self._hold(page, client, entities, size)
            if at is not None:
                page.records += _pack(
                    number,
                    rows,
                    page.last_at,
                    start,
                    at,
                    sent_at,
                    seconds,
                    nan if as_of is None else as_of,
                )
                return True
        self.model.dropped += rows
        return False

    def put_mirrored(self, entry: Entry, copy: Copy) -> None:
        """Add a mirrored request with B's answer, as `put` does."""
        if self.mirrored is None:
            about = self.model_name, self.variant, self.version, self.generation, self.signature
            self.mirrored = VariantLog(self.model, *about)
        log, size = self.mirrored, copy_bytes(copy)
        if not self.queue.take(0, size):
            self.model.dropped += entry[1]
        elif log.put(*entry) and (page := log.page) is not None:
            page.bytes += size
            page.add_copy(copy)
        else:
            self.queue.return_unused(size)

    def _begin(self, answer: Answer) -> Page | None:
        """The page for requests of an inference; None when there is no room for them."""
        queue, rows, size = self.queue, answer[2][0], answer_bytes(answer)
        queue.seal_early()
        if not queue.take(rows, size):
            return None
        page = self.page or queue.open(self)
        page.rows += rows
        page.bytes += size
        page.begin(answer)
        return page

    def _hold(
        self, page: Page, client: str | None, entities: Sequence[Entity] | None, kept: int
    ) -> int | None:
        """Store on the page what only some requests have; the client's number, if there is room."""
        clients = page.clients
        size = 0 if entities is None else text_bytes(None) + kept
        if client not in clients:
            size += text_bytes(client)
        if not self.queue.take(0, size):
            return None
        page.bytes += size
        if entities is not None:
            page.entities[page.requests] = entities
        return clients.setdefault(client, len(clients))


class PendingEntry(NamedTuple):
    """An entry that waits until B has answered its copy."""

    log: VariantLog
    entry: Entry

    def write(self) -> None:
        """Log the request without B."""
        self.log.put(*self.entry)

    def write_with_answer(self, version: int, seconds: float, answer: Answer, start: int) -> None:
        """Log it next to B's answer."""
        self.log.put_mirrored(self.entry, (version, seconds, answer, start, None))

    def write_with_failure(self, version: int, reason: str) -> None:
        """Log it with the reason why B did not answer."""
        reason = reason[:_FAILURE_CHARACTERS]
        self.log.put_mirrored(self.entry, (version, None, None, 0, reason))
