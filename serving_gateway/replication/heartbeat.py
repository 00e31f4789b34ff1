"""How replicas know of each other: each reports that it is alive and what it routes by."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from math import inf
from typing import Final

from serving_gateway.contract import ReplicaIdentity, ReplicaStatus
from serving_gateway.errors import StoreUnavailable
from serving_gateway.replication.replicas import (
    ModelReport,
    ReplicaList,
    replica_list,
    status_of,
    with_age,
)
from serving_gateway.replication.store import RoutingStore
from serving_gateway.tasks import is_being_cancelled, wait_at_most

log = logging.getLogger(__name__)

_BEATS: Final = 4
"""Reports within the time after which a silent replica counts as dead."""
_LEAST_PAUSE_SECONDS: Final = 0.01


@dataclass(slots=True, eq=False)
class Heartbeat:
    """This process among the replicas: one report for all models that it hosts.

    A replica counts as live for `keep_seconds` after its last report; every `interval` seconds it
    is checked whether there is something new to report.
    """

    store: RoutingStore
    identity: ReplicaIdentity
    keep_seconds: float
    interval: float
    _woken: asyncio.Event = field(default_factory=asyncio.Event)
    _reported: Mapping[str, ModelReport] = field(default_factory=dict)
    _reported_at: float = -inf

    def wake(self) -> None:
        """Report now: something changed."""
        self._woken.set()

    async def run(self, reports: Callable[[], Mapping[str, ModelReport]]) -> None:
        """Report changes at once, and from time to time that the process is alive."""
        while not is_being_cancelled():
            self._woken.clear()
            await self.beat(reports())
            await asyncio.sleep(_LEAST_PAUSE_SECONDS)
            await wait_at_most(self._woken, self.interval)

    async def beat(self, reports: Mapping[str, ModelReport]) -> None:
        """Report, unless nothing changed and the last report is recent."""
        now = time.monotonic()
        due = now - self._reported_at >= self.keep_seconds / _BEATS
        if not due and reports == self._reported:
            return
        for name, report in reports.items():
            before = self._reported.get(name)
            if before is None or before.ready != report.ready:
                log.info(
                    "readiness changed",
                    extra={"model": name, "ready": report.ready, "reasons": report.reasons},
                )
        self._reported, self._reported_at = reports, now
        try:
            await self.store.beat(self.identity, reports, self.keep_seconds)
        except StoreUnavailable:  # the watcher logs it; due again at the next look
            self._reported_at = -inf

    async def leave(self) -> None:
        """Report that the process ends; where that fails, the replica expires."""
        try:
            await self.store.leave(self.identity.id)
        except StoreUnavailable as error:
            log.warning("the end of the replica was not reported", extra={"reason": error.message})

    async def replica_list(self, model_name: str, own: ReplicaStatus) -> ReplicaList:
        """All live replicas and what they do with a model, asked now."""
        try:
            record = await self.store.read(model_name)
            replicas = await self.store.replicas(model_name, self.keep_seconds)
        except StoreUnavailable as error:
            return ReplicaList((with_age(own, 0.0),), in_sync=False, problem=error.message)
        return replica_list(own, replicas, record)

    def status(self, report: ModelReport) -> ReplicaStatus:
        """This process with a report of one model."""
        return status_of(self.identity, report)
