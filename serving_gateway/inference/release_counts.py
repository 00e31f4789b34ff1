"""This replica's counters of a release, by phase; counting makes no call to another process.

A generation's targets hold the counters of its phase, so a request that ends after a step counts
for the step in which it was sent. Without a release there is no counter, and nothing is counted.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Sequence, Set
from math import isfinite
from typing import Any, Final

from serving_gateway.contract import (
    ACTIVE,
    LATENCY_EDGES,
    Guard,
    PhaseEvidence,
    ReleaseEvidence,
    ReleasePlan,
    ReleaseState,
    RoutingRecord,
    Strategy,
    VersionCounts,
)
from serving_gateway.inference.codec import ModelOutput
from serving_gateway.inference.shadow import AnswerComparison
from serving_gateway.inference.traffic import B

_DEFAULT_TOLERANCE: Final = 0.1
_GOLDEN: Final = 0.6180339887498949
"""Steps of this size spread choices evenly, and coincide with no rhythm of clients."""
_KEPT_RELEASES: Final = 2
"""The present one, and the one before until its last counts are stored."""


class VersionCounter:
    """The requests of one version in one phase, as in `VersionCounts`; `phase` has both versions.

    `failed_in_row` counts failures since the last answer, and since the other version failed: a
    Triton that answers neither is the fault of neither.
    """

    __slots__ = ("_latencies", "failed", "failed_in_row", "phase", "requests")

    def __init__(self, phase: PhaseCounter) -> None:
        self.phase = phase
        self.requests = self.failed = self.failed_in_row = 0
        self._latencies = [0] * (len(LATENCY_EDGES) + 1)

    def answer(self, seconds: float) -> None:
        """Count an answered request."""
        self.requests += 1
        self.failed_in_row = 0
        self._latencies[bisect_left(LATENCY_EDGES, seconds)] += 1

    def fail(self) -> None:
        """Count a request that the version did not answer, or that was abandoned before."""
        self.requests += 1
        self.mark_failed()

    def retract(self) -> None:
        """Undo a failure: the request was invalid for the other version too."""
        self.requests -= 1
        self.failed -= 1
        self.failed_in_row = max(0, self.failed_in_row - 1)

    def mark_failed(self) -> None:
        """Count an answer as failed: it has arrived, but cannot be used."""
        self.failed += 1
        self.failed_in_row += 1
        phase = self.phase
        other = phase.reference if self is phase.candidate else phase.candidate
        other.failed_in_row = 0
        phase.on_failure()

    def counts(self) -> VersionCounts:
        """The counts so far."""
        latencies = {at: count for at, count in enumerate(self._latencies) if count}
        return VersionCounts(self.requests, self.failed, latencies)


class PhaseCounter:
    """What is counted in one phase of a release; `on_failure` is called at each failure.

    While the release `is_watched`, A is the candidate, and B the previous version.
    """

    __slots__ = (
        "_compared",
        "_disagreed",
        "_phase",
        "_scale",
        "_shift",
        "_sign",
        "_squares",
        "_tolerance",
        "candidate",
        "on_failure",
        "reference",
    )

    def __init__(
        self, plan: ReleasePlan, *, is_watched: bool, on_failure: Callable[[], None]
    ) -> None:
        self.candidate, self.reference = VersionCounter(self), VersionCounter(self)
        self.on_failure = on_failure
        self._scale = plan.score_scale
        self._tolerance = plan.guardrails.get(Guard.SCORE_SHIFT, _DEFAULT_TOLERANCE)
        self._sign = -1.0 if is_watched else 1.0
        self._compared = self._disagreed = 0
        self._phase = self._shift = self._squares = 0.0

    def counter_for(self, alias: str) -> VersionCounter:
        """The counter of a variant."""
        return self.candidate if (alias == B) == (self._sign > 0) else self.reference

    def compare(self, ours: ModelOutput, theirs: ModelOutput, labels: AnswerComparison) -> None:
        """Count how B's answer to a copy differs from A's, by the rules of `Guard`."""
        if not theirs.is_finite:  # a client would have had an error
            self.counter_for(B).mark_failed()
            return
        rows = len(ours.predictions)
        apart, shifts = set(labels.apart), [0.0] * rows
        for number in range(rows):
            a, b = _score(ours, number), _score(theirs, number)
            if a is None or b is None:
                continue
            shift = (b - a) / self._scale
            if ours.probabilities is None and abs(shift) > self._tolerance:
                apart.add(number)
            elif ours.probabilities is None:
                apart.discard(number)
            shifts[number] = max(-1.0, min(1.0, shift)) * self._sign
        self._count(apart, shifts)

    def _count(self, apart: Set[int], shifts: Sequence[float]) -> None:
        """Count a request once: its rows may resemble each other.

        Of the rows that disagree (`apart`) a share is no outcome of a trial, so that one row is
        chosen for all; the shift is the mean of all rows.
        """
        self._phase = (self._phase + _GOLDEN) % 1.0
        self._disagreed += int(self._phase * len(shifts)) in apart
        shift = sum(shifts) / len(shifts)
        self._shift += shift
        self._squares += shift * shift
        self._compared += 1

    def evidence(self) -> PhaseEvidence:
        """What was counted so far."""
        return PhaseEvidence(
            self.candidate.counts(),
            self.reference.counts(),
            self._compared,
            self._disagreed,
            self._shift,
            self._squares,
        )


def _score(output: ModelOutput, number: int) -> float | None:
    """The largest probability of a row, else its number; None for a label without either."""
    value: Any = output.predictions[number]
    if output.probabilities is not None:
        value = max(output.probabilities[number], default=None)
    return value if isinstance(value, float) and isfinite(value) else None


class ReleaseCounters:
    """The counters of one model's present release, and of the one before."""

    def __init__(self, on_failure: Callable[[], None]) -> None:
        self._on_failure = on_failure
        self._releases: dict[str, dict[str, PhaseCounter]] = {}

    def open(self, record: RoutingRecord) -> PhaseCounter | None:
        """The counter of the record's phase; None where B gets neither requests nor copies."""
        release, traffic = record.release, record.traffic
        is_idle = traffic.strategy is Strategy.OFF or traffic.percent == 0
        if release is None or release.state not in ACTIVE or is_idle:
            return None
        phases = self._releases.setdefault(release.id, {})
        for release_id in [*self._releases][:-_KEPT_RELEASES]:
            del self._releases[release_id]
        if release.phase not in phases:
            phases[release.phase] = PhaseCounter(
                release.plan,
                is_watched=release.state is ReleaseState.WATCHING,
                on_failure=self._on_failure,
            )
        return phases[release.phase]

    def evidence(self, release_id: str) -> ReleaseEvidence:
        """What this process counted for a release."""
        phases = self._releases.get(release_id, {})
        counted = {name: phase.evidence() for name, phase in phases.items()}
        return ReleaseEvidence(release_id, counted)

    @property
    def release_ids(self) -> tuple[str, ...]:
        """The releases counted last, the present one at the end."""
        return tuple(self._releases)
