"""Copies answered requests to variant B and compares: never on the client's time."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import deque
from time import perf_counter
from typing import Final

import msgspec

from serving_gateway.contract import FeatureSource
from serving_gateway.errors import GatewayError, InvalidInput, VariantUnavailable
from serving_gateway.inference.batcher import joined
from serving_gateway.inference.codec import Codec, Tensors
from serving_gateway.inference.prediction import Mirrored
from serving_gateway.inference.router import Target
from serving_gateway.inference.shadow import Ledger, Page, note
from serving_gateway.replication.replicas import now
from serving_gateway.telemetry.counters import ModelMetrics

log = logging.getLogger(__name__)

AGREED: Final = "agreed"
DISAGREED: Final = "disagreed"
FAILED: Final = "failed"
DROPPED: Final = "dropped"

_MANY: Final = 64
"""Copies that go without waiting for more."""


class _Copy(msgspec.Struct, frozen=True):
    """One answered request on its way to B."""

    page: Page
    target: Target
    mirrored: Mirrored


class Mirror:
    """A bounded queue of answered requests, and the workers that repeat them on B.

    Copies gather for a moment and go to B together: one inference of many rows costs Triton
    about as much as one of a single row, and that time is taken from the clients.

    Args:
        metrics: counts what becomes of each copy.
        ledger: notes how B's answers compare with A's.
        queue: most copies waiting; more are dropped and counted.
        in_flight: most inferences of copies under way.
        gather_seconds: longest wait of a copy for others to go with.
    """

    def __init__(
        self,
        metrics: ModelMetrics,
        ledger: Ledger,
        *,
        queue: int,
        in_flight: int,
        gather_seconds: float,
    ) -> None:
        self._ledger = ledger
        self._limit = queue
        self._in_flight = in_flight
        self._gather_seconds = gather_seconds
        self._waiting: deque[_Copy] = deque()
        self._available = asyncio.Event()
        self._many = asyncio.Event()
        self._counts = {
            outcome: metrics.mirrored(outcome) for outcome in (AGREED, DISAGREED, FAILED, DROPPED)
        }

    def offer(self, source: Target, target: Target | None, mirrored: Mirrored) -> None:
        """Queue a copy for B; dropped when B is not there or too many wait."""
        if target is None:
            self._counts[DROPPED].inc()
            return
        page = self._ledger.open((source.side, target.side), now)
        waiting = len(self._waiting)
        if not target.client.ready or waiting >= self._limit:
            page.dropped += 1
            self._counts[DROPPED].inc()
            return
        self._waiting.append(_Copy(page, target, mirrored))
        if waiting == 0:
            self._available.set()
        if waiting + 1 == _MANY:
            self._many.set()

    async def run(self) -> None:
        """Repeat and compare until cancelled."""
        async with asyncio.TaskGroup() as workers:
            for _ in range(self._in_flight):
                workers.create_task(self._work())

    async def _work(self) -> None:
        while True:
            copies = await self._gathered()
            try:
                await self._repeat(copies)
            except InvalidInput:
                # One of them is at fault, and only that one shall be told to have failed.
                for one in copies:
                    await self._guarded([one])
            except Exception as error:
                self._failed(copies, error)

    async def _gathered(self) -> list[_Copy]:
        """The copies of the next inference, of one pairing and no more rows than it may have."""
        while not self._waiting:
            self._available.clear()
            await self._available.wait()
        if len(self._waiting) < _MANY:
            self._many.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._gather_seconds):
                    await self._many.wait()
        copies: list[_Copy] = []
        rows = 0
        while self._waiting:
            one = self._waiting[0]
            rows += one.mirrored.rows.count
            coalescer = one.target.client.coalescer
            full = coalescer is not None and rows > coalescer.max_rows
            if copies and (full or one.page is not copies[0].page):
                break
            copies.append(self._waiting.popleft())
        return copies

    async def _guarded(self, copies: list[_Copy]) -> None:
        try:
            await self._repeat(copies)
        except Exception as error:
            self._failed(copies, error)

    def _failed(self, copies: list[_Copy], error: Exception) -> None:
        for one in copies:
            one.page.failed += 1
            one.target.stats.fail()
        self._counts[FAILED].inc(len(copies))
        if isinstance(error, GatewayError):
            log.debug("mirrored requests failed", extra={"reason": error.message})
        else:
            # A bug in here must not end the worker: copies would be dropped from then on.
            log.error("mirrored requests failed on a bug", exc_info=error)

    async def _repeat(self, copies: list[_Copy]) -> None:
        """Have B answer these copies in one inference, and compare.

        Raises:
            GatewayError: B cannot answer; none of them was compared.
        """
        if not copies:
            return
        target = copies[0].target
        coalescer = target.client.coalescer
        if coalescer is None:
            raise VariantUnavailable("Variant B is not prepared.")
        codec = coalescer.codec
        tensors = joined([encoded(codec, one.mirrored) for one in copies])
        started = perf_counter()
        answers = await coalescer.submit(tensors, sum(one.mirrored.rows.count for one in copies))
        seconds = perf_counter() - started
        agreed = start = 0
        for one in copies:
            mirrored, rows = one.mirrored, one.mirrored.rows
            theirs = answers.part(start, start + rows.count)
            start += rows.count
            target.stats.answer(seconds, rows.count)
            sent = rows.data if rows.instances is None else rows.instances
            delay = seconds - mirrored.seconds
            agreed += note(one.page, mirrored.answers, theirs, delay, sent or [])
        self._counts[AGREED].inc(agreed)
        self._counts[DISAGREED].inc(len(copies) - agreed)


def encoded(codec: Codec, mirrored: Mirrored) -> Tensors:
    """The rows of an answered request for a version with the given codec.

    Raises:
        InvalidInput: they do not fit that version.
    """
    rows = mirrored.rows
    if codec.signature == mirrored.signature:
        return rows.tensors
    if rows.instances is not None:
        return codec.encode_instances(rows.instances)
    if rows.source is FeatureSource.PAYLOAD:
        return codec.encode(rows.data or [])
    # Values of the feature store have names, also where the payload filled a gap.
    names = [feature.name for feature in mirrored.signature.features]
    return codec.encode_instances([dict(zip(names, row, strict=True)) for row in rows.data or []])
