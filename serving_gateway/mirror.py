"""Copies answered requests to variant B and compares: never on the client's time."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from time import perf_counter
from typing import Final

from serving_gateway.data_plane import Mirrored
from serving_gateway.errors import GatewayError
from serving_gateway.metrics import ModelMetrics
from serving_gateway.replicas import now
from serving_gateway.rows import FeatureSource
from serving_gateway.serving import Target
from serving_gateway.shadow import Ledger, Page, note

log = logging.getLogger(__name__)

AGREED: Final = "agreed"
DISAGREED: Final = "disagreed"
FAILED: Final = "failed"
DROPPED: Final = "dropped"


class Mirror:
    """A bounded queue of answered requests, and the workers that repeat them on B.

    Args:
        metrics: counts what becomes of each copy.
        ledger: notes how B's answers compare with A's.
        queue: most copies waiting; more are dropped and counted.
        in_flight: most copies under way.
    """

    def __init__(
        self, metrics: ModelMetrics, ledger: Ledger, *, queue: int, in_flight: int
    ) -> None:
        self._ledger = ledger
        self._limit = queue
        self._in_flight = in_flight
        self._waiting: deque[tuple[Page, Target, Mirrored]] = deque()
        self._available = asyncio.Event()
        self._counts = {
            outcome: metrics.mirrored(outcome) for outcome in (AGREED, DISAGREED, FAILED, DROPPED)
        }

    def offer(self, source: Target, target: Target | None, mirrored: Mirrored) -> None:
        """Queue a copy for B; dropped when B is not there or too many wait."""
        if target is None:
            self._counts[DROPPED].inc()
            return
        page = self._ledger.open((source.side, target.side), now)
        if not target.lane.ready or len(self._waiting) >= self._limit:
            page.dropped += 1
            self._counts[DROPPED].inc()
            return
        self._waiting.append((page, target, mirrored))
        self._available.set()

    async def run(self) -> None:
        """Repeat and compare until cancelled."""
        async with asyncio.TaskGroup() as workers:
            for _ in range(self._in_flight):
                workers.create_task(self._work())

    async def _work(self) -> None:
        while True:
            while not self._waiting:
                self._available.clear()
                await self._available.wait()
            page, target, mirrored = self._waiting.popleft()
            try:
                outcome = await self._repeat(page, target, mirrored)
            except GatewayError as error:
                outcome = FAILED
                target.stats.failed += 1
                log.debug("a mirrored request failed", extra={"reason": error.message})
            except Exception:
                # A bug in here must not end the worker: copies would be dropped from then on.
                outcome = FAILED
                log.exception("a mirrored request failed on a bug")
            if outcome == FAILED:
                page.failed += 1
            self._counts[outcome].inc()

    async def _repeat(self, page: Page, target: Target, mirrored: Mirrored) -> str:
        coalescer = target.lane.coalescer
        if coalescer is None:
            return FAILED
        codec = coalescer.codec
        rows = mirrored.rows
        if codec.signature == mirrored.signature:
            tensors = rows.tensors
        elif rows.source is not FeatureSource.PAYLOAD and rows.data is not None:
            # Values of the feature store have names, also where the payload filled a gap.
            names = [feature.name for feature in mirrored.signature.features]
            tensors = codec.encode_instances(
                [dict(zip(names, row, strict=True)) for row in rows.data]
            )
        elif rows.instances is not None:
            tensors = codec.encode_instances(rows.instances)
        else:
            tensors = codec.encode(rows.data or [])
        started = perf_counter()
        answers = await coalescer.submit(tensors, rows.count)
        seconds = perf_counter() - started
        target.stats.answer(seconds, rows.count)
        sent = rows.data if rows.instances is None else rows.instances
        delay = seconds - mirrored.seconds
        return AGREED if note(page, mirrored.answers, answers, delay, sent or []) else DISAGREED
