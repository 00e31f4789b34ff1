"""What a replica does for a release in the background: store its counts, and react to faults.

A candidate that clearly fails, or is gone, loses its share here at once, and its release is ended
for all by compare-and-set, without the pipeline (I19). After the switch that is a rollback.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Coroutine, Iterable
from dataclasses import dataclass, field
from typing import Any, Final

from serving_gateway.contract import (
    ACTIVE,
    Release,
    ReleaseDecision,
    ReleaseEvidence,
    ReleaseState,
)
from serving_gateway.control.release_control import ReleaseControl
from serving_gateway.control.release_faults import CandidateState, find_fault
from serving_gateway.control.release_transitions import active_release
from serving_gateway.errors import GatewayError, StoreUnavailable
from serving_gateway.inference.router import Router, RoutingTarget
from serving_gateway.inference.traffic import A, B
from serving_gateway.replication.release_counts import ReleaseCountStore
from serving_gateway.tasks import is_being_cancelled, wait_at_most
from serving_gateway.telemetry.logs import RepeatedWarning

log = logging.getLogger(__name__)

_EVERY_SECONDS: Final = 1.0
_LEAST_PAUSE_SECONDS: Final = 0.05
"""Between two looks prompted by failures: judging a thousand one by one costs too much."""


@dataclass(eq=False)
class ReleaseWatch:
    """Looks after the release of one model in this process, `process_id`."""

    router: Router
    control: ReleaseControl
    store: ReleaseCountStore
    process_id: str
    problem: str | None = field(default=None, init=False)
    """Why this process's counts are not stored; None when they are."""

    def __post_init__(self) -> None:
        self._stored: dict[str, ReleaseEvidence] = {}
        self._ended: str | None = None
        self._unready_since: float | None = None

    async def look(self) -> None:
        """Write a pending stop, and store the counts."""
        await self.control.write_pending_stop()
        await self.store_counts()

    async def store_counts(self) -> None:
        """Store the counts that changed since the last time."""
        release, counters = self.router.record.release, self.router.counters
        if release is None:
            return
        self._stored = {
            key: self._stored[key] for key in counters.release_ids if key in self._stored
        }
        name, problem = self.router.model_name, None
        for release_id in counters.release_ids:
            evidence = counters.evidence(release_id)
            if evidence == self._stored.get(release_id):
                continue
            has_ended = release_id != release.id or release.state not in ACTIVE
            try:
                await self.store.put(name, self.process_id, evidence, has_ended=has_ended)
                self._stored[release_id] = evidence
            except StoreUnavailable as error:
                problem = error.message
        self.problem = problem
        if release.state not in ACTIVE and self._ended != release.id:
            with contextlib.suppress(StoreUnavailable):
                await self.store.end(name, release.id)
                self._ended = release.id

    async def protect(self) -> None:
        """End the release if its candidate is clearly at fault."""
        router = self.router
        release, targets = active_release(router.record), router.table.targets
        a, b = targets.get(A), targets.get(B)
        if release is None or a is None or b is None or b.counter is None:
            self._unready_since = None
            return
        is_watched = release.state is ReleaseState.WATCHING
        candidate, reference = (a, b) if is_watched else (b, a)
        fault = self._find_fault(release, candidate, reference)
        if fault is None or router.is_withdrawn:
            return
        # The reference has to take over. If it cannot answer either, Triton is at fault.
        asked_at = time.monotonic()
        await reference.client.probe()
        is_confirmed = reference.client.ready and reference.client.age < time.monotonic() - asked_at
        fault = self._find_fault(release, candidate, reference)
        if is_confirmed and fault is not None and active_release(router.record) is release:
            await self._end(release, f"{fault} (seen by {self.process_id})")

    def _find_fault(
        self, release: Release, candidate: RoutingTarget, reference: RoutingTarget
    ) -> str | None:
        now, is_alone = time.monotonic(), not candidate.client.ready and reference.client.ready
        self._unready_since = (self._unready_since or now) if is_alone else None
        seconds = 0.0 if self._unready_since is None else now - self._unready_since
        in_row = 0 if candidate.counter is None else candidate.counter.failed_in_row
        state = CandidateState(seconds, in_row, candidate.client.reason)
        return find_fault(release, self.router.counters.evidence(release.id), state)

    async def _end(self, release: Release, reason: str) -> None:
        log.error(
            "the release's candidate is at fault: A answers all",
            extra={"model": self.router.model_name, "release": release.id, "reason": reason},
        )
        try:
            decision = ReleaseDecision(reason, release.id)
            await self.control.stop(decision, f"replica:{self.process_id}")
        except GatewayError as error:  # retried at the next look
            log.warning("the release was not ended", extra={"reason": error.message})


async def watch_releases(
    releases: Callable[[], Iterable[ReleaseWatch]],
    failed: asyncio.Event,
    on_bug: Callable[[], None],
) -> None:
    """Watch the releases of all models each second, and when one `failed`, until cancelled.

    An exception for one model is logged, counted by `on_bug`, and tried again.
    """
    due = 0.0
    bugs = RepeatedWarning(log, "a release was not looked after", logging.ERROR)

    async def guarded(work: Coroutine[Any, Any, None], model_name: str) -> None:
        try:
            await work
        except Exception as error:
            on_bug()
            bugs.log(model_name, exception=error, model=model_name)

    while not is_being_cancelled():
        failed.clear()
        for release in [*releases()]:
            await guarded(release.protect(), release.router.model_name)
        if (now := time.monotonic()) >= due:
            due = now + _EVERY_SECONDS
            for release in [*releases()]:
                await guarded(release.look(), release.router.model_name)
        await asyncio.sleep(_LEAST_PAUSE_SECONDS)
        await wait_at_most(failed, max(0.0, due - time.monotonic()))
