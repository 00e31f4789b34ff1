"""The report on a release: its state, and the counts of all replicas. No HTTP here."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime

from serving_gateway.contract import (
    GuardReport,
    Release,
    ReleaseEvidence,
    ReleaseReport,
    add_phases,
    decide,
    judge_guards,
)
from serving_gateway.control.release_watch import ReleaseWatch
from serving_gateway.errors import StoreUnavailable
from serving_gateway.inference.router import Router


@dataclass(slots=True, eq=False)
class ReleaseReporter:
    """Describes the release of one model."""

    router: Router
    watch: ReleaseWatch

    async def report(self) -> ReleaseReport:
        """The current release, or the last one, as this replica routes by it."""
        record = self.router.record
        release = record.release
        if release is None:
            return ReleaseReport(record.model_name, record.generation, None, None)
        counted, problem = await self._read_counts(release)
        # In a thread: the sums of many processes, and the bounds of many requests, take longer than
        # a request may wait.
        evidence, guards = await asyncio.to_thread(_judge, release, [*counted.values()])
        verdict, reason = decide(release, guards, evidence, datetime.now(UTC))
        return ReleaseReport(
            model_name=record.model_name,
            generation=record.generation,
            release=release,
            evidence=evidence,
            replicas=tuple(sorted(counted)),
            guards=guards,
            verdict=verdict,
            reason=reason,
            evidence_problem=problem,
            stop_pending=self.router.is_withdrawn,
        )

    async def _read_counts(self, release: Release) -> tuple[dict[str, ReleaseEvidence], str | None]:
        """Return each process's counts, this one's live, and why others may be missing."""
        watch, counted, problem = self.watch, {}, self.watch.problem
        try:
            counted = {**await watch.store.read(self.router.model_name, release.id)}
        except StoreUnavailable as error:
            problem = error.message
        own = self.router.counters.evidence(release.id)
        if own.phases:
            counted[watch.process_id] = own
        return counted, problem


def _judge(
    release: Release, parts: Iterable[ReleaseEvidence]
) -> tuple[ReleaseEvidence, tuple[GuardReport, ...]]:
    evidence = total_evidence(release.id, parts)
    return evidence, judge_guards(release.plan, release, evidence)


def total_evidence(release_id: str, parts: Iterable[ReleaseEvidence]) -> ReleaseEvidence:
    """Return the sum of several processes' counts of a release."""
    counts = [part.phases for part in parts if part.release_id == release_id]
    names = sorted({name for phases in counts for name in phases})
    return ReleaseEvidence(
        release_id,
        {name: add_phases(phases[name] for phases in counts if name in phases) for name in names},
    )
