"""How a change gets into the routing record: read, merge, compare and set, adopt."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from serving_gateway.contract import ACTIVE, RoutingRecord
from serving_gateway.control.release_transitions import active_release, settle
from serving_gateway.control.transitions import next_generation
from serving_gateway.errors import GenerationConflict
from serving_gateway.inference.router import Router
from serving_gateway.replication.losses import LossReporter
from serving_gateway.replication.records import format_time, merge
from serving_gateway.replication.store import RoutingStore

log = logging.getLogger(__name__)

_ATTEMPTS: Final = 20
"""Attempts to write a change while other changes are written first."""


@dataclass(slots=True, eq=False)
class RecordWriter:
    """Changes the routing record of one model, which the router follows at once."""

    router: Router
    store: RoutingStore
    losses: LossReporter

    async def current(self) -> RoutingRecord:
        """The record that all replicas must route by; `StoreUnavailable` if it cannot be read."""
        return merge(await self.store.read(self.router.model_name), self.router.record).record

    async def commit(
        self, change: Callable[[RoutingRecord], RoutingRecord], by: str, reason: str | None
    ) -> tuple[RoutingRecord, bool]:
        """Apply `change` to the newest record and write it, again while others write first.

        Returns the record in effect, and whether it is a new generation: not if `change` returned
        the same record. `GenerationConflict` when others write first in every attempt.
        """
        router = self.router
        for _ in range(_ATTEMPTS):
            stored = await self.store.read(router.model_name)
            # A store that lost its content (a cache without persistence, restarted) is restored to
            # what is in effect, together with the change.
            merged = merge(stored, router.record)
            base = merged.record
            changed = change(base)
            if changed is base and not merged.write:
                await router.follow(base)
                return base, False
            moment = datetime.now(UTC)
            settled = settle(base, changed, format_time(moment), by, reason)
            written = next_generation(base, settled, now=moment, by=by, reason=reason)
            try:
                await self.store.replace(stored, written)
            except GenerationConflict:
                continue
            if merged.dropped is not None:
                self.losses.report_drop(merged.dropped, written)
            await router.follow(written)
            self._note_end(base, written)
            log.info(
                "routing record changed",
                extra={
                    "model": router.model_name,
                    "generation": written.generation,
                    "routed": router.still_served(),
                    "by": by,
                    "reason": reason,
                },
            )
            return written, changed is not base
        raise GenerationConflict(
            f"Other calls changed the routing record {_ATTEMPTS} times in a row. Try again.",
            retry_after=1,
        )

    def _note_end(self, base: RoutingRecord, written: RoutingRecord) -> None:
        """Log and count the end of a release, which the next one may displace in the record."""
        before, after = active_release(base), written.release
        if before is None or (
            after is not None and after.id == before.id and after.state in ACTIVE
        ):
            return
        if after is None or after.id != before.id:
            state = "superseded"
            reason = None if after is None else f"superseded by version {after.version}"
        else:
            state, reason = after.state.value, after.reason
        self.router.metrics.releases.labels(state).inc()
        log.info(
            "a release ended",
            extra={
                "model": written.model_name,
                "release": before.id,
                "version": before.version,
                "state": state,
                "reason": reason,
            },
        )
