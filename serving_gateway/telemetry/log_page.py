"""A page of the prediction log: answered requests as the event loop leaves them to the writer.

One processor writes it and another one reads it, so that logging costs as much as memory is
touched: each request leaves a record of fixed size, and no object of its own.
"""

from __future__ import annotations

import struct
import time
from collections.abc import Sequence
from math import nan
from typing import Final, NamedTuple

Place = tuple[str, int, int, int]
"""Type, first byte, end and elements per row of an output; no type where there is none."""
Places = tuple[int, bool, Place, Place]
"""Where Triton's answer has the prediction: rows of the answer; whether labels are booleans; the
labels, and the probabilities."""
Answer = tuple[Sequence[bytes], bytes, Places]
"""An inference: the tensors of all requests that share it, what Triton answered, and where the
prediction is in that."""

Entity = int | str | tuple[int | str | None, ...] | None
"""The entity of a row: an id, or one for each join key; None for a row without."""

Copy = tuple[int, float | None, Answer | None, int, str | None]
"""B's version, latency in seconds, inference and first row for a mirrored request, or the reason
why there is none."""

RECORD: Final = struct.Struct("<5q3d")
"""A request: the number of its id; its rows; the number of its inference on the page, and its first
row there; the number of its client on the page; by `perf_counter`, when it was sent to Triton and
the seconds until its answer; when its oldest stored value was observed (seconds since the epoch),
or NaN."""
COPY_RECORD: Final = struct.Struct("<3qd")
"""B's answer: version; the number of the inference on the page, -1 without one, and the first row
there; seconds, or NaN."""
NO_ANSWER: Final = -1

_RECORD_BYTES: Final = 160
"""What a record and its copy take, a generous estimate while their buffers grow."""
_OBJECT_BYTES: Final = 400
"""What an inference, a client, an entity's text or a failure takes besides its bytes, at most."""
_CHARACTER_BYTES: Final = 4


class Page:
    """Answered requests of one variant, all of them mirrored or none.

    `rows` and `bytes` are what the page takes up in the queue.
    """

    __slots__ = (
        *("answers", "bytes", "clients", "copies", "copy_answers", "entities", "failures", "last"),
        *("last_at", "opened_at", "records", "rows"),
    )

    def __init__(self) -> None:
        self.records = bytearray()
        self.answers: list[Answer] = []
        self.last: Answer | None = None
        """The newest inference: requests that share one follow each other."""
        self.last_at = -1
        self.clients: dict[str | None, int] = {}
        """Numbers of clients by their ids."""
        self.entities: dict[int, Sequence[Entity]] = {}
        """The entities of requests that name any, by the request's place on the page."""
        self.copies = bytearray()
        """B's records, one for each request; empty where they were not mirrored."""
        self.copy_answers: list[Answer] = []
        self.failures: dict[int, str] = {}
        """Why B did not answer, by the request's place on the page."""
        self.rows = self.bytes = 0
        self.opened_at = time.monotonic()

    @property
    def requests(self) -> int:
        """The number of requests."""
        return len(self.records) // RECORD.size

    def whole(self) -> PagePart:
        """All requests of the page."""
        return PagePart(self, 0, self.requests)

    def begin(self, answer: Answer) -> None:
        """Add an inference, to which the next requests belong."""
        self.answers.append(answer)
        self.last = answer
        self.last_at += 1

    def add_copy(self, copy: Copy) -> None:
        """Add B's answer to the request that was added last."""
        version, seconds, answer, start, failure = copy
        at = NO_ANSWER
        if answer is not None:
            if not self.copy_answers or self.copy_answers[-1] is not answer:
                self.copy_answers.append(answer)
            at = len(self.copy_answers) - 1
        if failure is not None:
            self.failures[self.requests - 1] = failure
        self.copies += COPY_RECORD.pack(version, at, start, nan if seconds is None else seconds)


class PagePart(NamedTuple):
    """The requests of a page from `start` to before `stop`."""

    page: Page
    start: int
    stop: int

    @property
    def records(self) -> memoryview:
        """Their records."""
        return memoryview(self.page.records)[self.start * RECORD.size : self.stop * RECORD.size]

    @property
    def copies(self) -> memoryview:
        """B's records of them; empty where they were not mirrored."""
        size = COPY_RECORD.size
        return memoryview(self.page.copies)[self.start * size : self.stop * size]

    @property
    def rows(self) -> int:
        """How many rows they have."""
        return sum(record[1] for record in RECORD.iter_unpack(self.records))

    def halves(self) -> tuple[PagePart, PagePart]:
        """The first and the second half."""
        middle = (self.start + self.stop) // 2
        return self._replace(stop=middle), self._replace(start=middle)


def answer_bytes(answer: Answer) -> int:
    """What an inference takes with the records of its requests, at most."""
    tensors, body, places = answer
    return _OBJECT_BYTES + len(body) + sum(map(len, tensors)) + _RECORD_BYTES * places[0]


def text_bytes(text: str | None) -> int:
    """What a text takes, at most."""
    return _OBJECT_BYTES + _CHARACTER_BYTES * len(text or "")


def copy_bytes(copy: Copy) -> int:
    """What B's answer takes, at most."""
    _, _, answer, _, failure = copy
    return text_bytes(failure) if answer is None else answer_bytes(answer)
