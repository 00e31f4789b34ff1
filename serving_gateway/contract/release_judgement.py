"""The judgement of a release: what its evidence shows of each guardrail, and the verdict.

Pure, and shared: the gateway shows it, and the pipeline's pilot decides by it. All guards that are
judged share one error rate, so that of releases whose candidate is within every margin at most
that share is ever stopped, however often one looks; a second one is spent after the switch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import datetime
from typing import Final

from serving_gateway.contract.confidence import Interval
from serving_gateway.contract.release import (
    ACTIVE,
    WATCH,
    Guard,
    GuardReport,
    PhaseEvidence,
    Release,
    ReleaseEvidence,
    ReleasePlan,
    ReleaseState,
    Verdict,
)
from serving_gateway.contract.release_estimates import (
    PairedLosses,
    Stratum,
    error_shares,
    estimate_guard,
)
from serving_gateway.contract.traffic import Strategy

ERROR_RATE: Final = 0.05
"""Of all guards together, for the steps, and once more for the time after the switch."""
WATCHED: Final = frozenset({Guard.FAILURES, Guard.LATENCY_P99, Guard.OUTCOME})
"""Guards after the switch. That the versions differ was accepted with it."""

COMPARED: Final = frozenset({Guard.DISAGREEMENT, Guard.SCORE_SHIFT})
"""Guards of mirrored rows, known at once: steps without copies add nothing to them. (Outcomes of
earlier copies may mature in any step.)"""


def judge_guards(
    plan: ReleasePlan,
    release: Release,
    evidence: ReleaseEvidence,
    outcome: PairedLosses | None = None,
) -> tuple[GuardReport, ...]:
    """Judge each guard of the plan by all that was counted on this side of the switch.

    `outcome` holds the candidate (B) against production (A), whichever variants they are now. What
    the bounds assume is said by the classes of `serving_gateway.contract.confidence`.

    Raises:
        ValueError: The evidence contradicts itself, such as more failures than requests.
    """
    # A release that ended after the switch is judged by its watch, too.
    watching = release.state is ReleaseState.WATCHING or (
        release.state not in ACTIVE and WATCH in evidence.phases
    )
    margins = {
        guard: margin
        for guard, margin in plan.guardrails.items()
        if not watching or guard in WATCHED
    }
    alpha = ERROR_RATE / max(1, len(margins))
    none, shares = PhaseEvidence(), error_shares(len(plan.steps))
    strata = [
        Stratum(evidence.phases.get(str(step), none), share) for step, share in enumerate(shares)
    ]
    if watching:
        strata = [Stratum(evidence.phases.get(WATCH, none), 1.0)]
    return tuple(_judge(guard, margin, alpha, strata, outcome) for guard, margin in margins.items())


def decide(
    release: Release, guards: Sequence[GuardReport], evidence: ReleaseEvidence, now: datetime
) -> tuple[Verdict, str]:
    """Decide how the present state or step ends, or that it does not yet, and say why.

    `now` has a time zone. A broken guard stops a release in every state in which the candidate
    gets requests or copies of them.
    """
    if release.state not in ACTIVE:
        return Verdict.NOT_YET, f"the release has ended ({release.state.value})"
    if broken := [report for report in guards if report.verdict is Verdict.STOP]:
        return Verdict.STOP, "beyond its margin: " + "; ".join(map(describe_guard, broken))
    seconds = (now - datetime.fromisoformat(release.since)).total_seconds()
    match release.state:
        case ReleaseState.RUNNING:
            return _decide_step(release, guards, evidence, seconds)
        case ReleaseState.WATCHING:
            return _decide_watch(release.plan.watch_seconds, guards, seconds)
        case ReleaseState.WAITING:
            return Verdict.NOT_YET, f"waits for an approval ({release.plan.approval.value})"
    return Verdict.NOT_YET, "all steps ended with go: the switch follows"


def _decide_watch(
    wanted: float, guards: Sequence[GuardReport], seconds: float
) -> tuple[Verdict, str]:
    # No longer, even if evidence is lacking: what has been quiet for so long may stay.
    if seconds < wanted:
        return Verdict.NOT_YET, f"watched for {seconds:.0f} of {wanted:.0f} s"
    return Verdict.GO, f"watched for {seconds:.0f} s: {_summary(guards)}"


def _decide_step(
    release: Release, guards: Sequence[GuardReport], evidence: ReleaseEvidence, seconds: float
) -> tuple[Verdict, str]:
    plan = release.plan
    requests = evidence.phases.get(release.phase, PhaseEvidence()).candidate.requests
    missing = []
    if requests < plan.requests:
        missing.append(f"the candidate got {requests} of {plan.requests} requests")
    if seconds < plan.seconds:
        missing.append(f"it has lasted for {seconds:.0f} of {plan.seconds:.0f} s")
    missing += [
        f"not shown within its margin: {describe_guard(report)}"
        for report in guards
        if report.verdict is not Verdict.GO
        and report.guard not in plan.unproven
        and _is_last_chance(release, report.guard)
    ]
    step = f"step {release.step + 1} of {len(plan.steps)}"
    if not missing:
        counted = f"{requests} requests in {seconds:.0f} s"
        return Verdict.GO, f"{step}: {counted}, {_summary(guards)}"
    if seconds >= plan.give_up_seconds:
        return Verdict.STOP, f"{step}: inconclusive after {seconds:.0f} s: " + "; ".join(missing)
    return Verdict.NOT_YET, f"{step}: " + "; ".join(missing)


def _is_last_chance(release: Release, guard: Guard) -> bool:
    """Whether no later step adds to what is known of a guard."""
    later = release.plan.steps[release.step + 1 :]
    if guard not in COMPARED or release.plan.steps[release.step].strategy is not Strategy.MIRROR:
        return not later
    return all(step.strategy is not Strategy.MIRROR for step in later)


def describe_guard(report: GuardReport) -> str:
    """Say what is known of a guard, with its numbers."""
    if report.value is None:
        return f"{report.guard.value} without observations (margin {report.margin:g})"
    low, high = ("-" if bound is None else f"{bound:.4g}" for bound in (report.low, report.high))
    return (
        f"{report.guard.value} {report.value:.4g}, between {low} and {high} after "
        f"{report.observations} observations (margin {report.margin:g})"
    )


def _summary(guards: Sequence[GuardReport]) -> str:
    if not guards:
        return "there is no guardrail"
    within = sum(report.verdict is Verdict.GO for report in guards)
    return f"no guardrail is broken, and {within} of {len(guards)} are shown within their margin"


def _judge(
    guard: Guard,
    margin: float,
    alpha: float,
    strata: Sequence[Stratum],
    outcome: PairedLosses | None,
) -> GuardReport:
    observations, value, bounds = estimate_guard(guard, alpha, strata, outcome)
    if value is None:
        return GuardReport(guard, margin, Verdict.NOT_YET, observations)
    return GuardReport(
        guard,
        margin,
        _verdict(guard, margin, bounds),
        observations,
        value,
        *(bound if math.isfinite(bound) else None for bound in (bounds.low, bounds.high)),
    )


def _verdict(guard: Guard, margin: float, bounds: Interval) -> Verdict:
    # A shift of scores counts in either direction; of anything else, less than production is
    # harmless.
    least = -margin if guard is Guard.SCORE_SHIFT else -math.inf
    if bounds.low > margin or bounds.high < least:
        return Verdict.STOP
    return Verdict.GO if least <= bounds.low and bounds.high <= margin else Verdict.NOT_YET
