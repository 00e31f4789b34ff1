"""When a candidate is so faulty that a replica ends its release on its own; pure functions.

A replica judges by its own requests alone, so it needs strong evidence; the pipeline judges the
evidence of all replicas together.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from serving_gateway.contract import (
    Guard,
    PhaseEvidence,
    Release,
    ReleaseEvidence,
    Trials,
)

ALPHA: Final = 0.001
"""Error rate of one replica's judgement of a step, however often it judges."""
DEFAULT_MARGIN: Final = 0.05
"""Margin of a release without a guardrail for failures."""
IN_A_ROW: Final = 20
"""Failures in a row after which a version counts as gone."""
UNREADY_SECONDS: Final = 2.0
"""How long the candidate alone, not the other version, must be unready to count as gone."""


@dataclass(frozen=True, slots=True)
class CandidateState:
    """How the candidate fares on one replica, next to the version that it is compared with."""

    unready_seconds: float
    """How long the candidate alone has not been READY; 0 while it is."""
    failed_in_row: int
    reason: str | None
    """Why it is not READY."""


def find_fault(release: Release, own: ReleaseEvidence, state: CandidateState) -> str | None:
    """Why the release has to end at once, with the numbers; None when it does not."""
    version = release.version
    if state.unready_seconds >= UNREADY_SECONDS:
        return (
            f"version {version} has not been READY for {state.unready_seconds:.0f} s: "
            f"{state.reason or 'Triton does not say why.'}"
        )
    if state.failed_in_row >= IN_A_ROW:
        return f"version {version} failed the last {state.failed_in_row} requests in a row"
    # Per step: sums over steps would show spurious differences when both versions fail more often
    # in one of them.
    counted = own.phases.get(release.phase, PhaseEvidence())
    margin = release.plan.guardrails.get(Guard.FAILURES, DEFAULT_MARGIN)
    candidate, reference = counted.candidate, counted.reference
    # Each bound takes half of the error rate. Looser than bounds on the difference, at a hundredth
    # of their cost, which the event loop pays after each failure.
    low = Trials(candidate.failed, candidate.requests).bounds(ALPHA / 2).low
    high = Trials(reference.failed, reference.requests).bounds(ALPHA / 2).high
    if low - high <= margin:
        return None
    return (
        f"version {version} failed {candidate.failed} of {candidate.requests} requests (at least "
        f"{low:.2%}), the version beside it {reference.failed} of {reference.requests} (at most "
        f"{high:.2%}): a difference beyond the margin of {margin:.2%}"
    )
