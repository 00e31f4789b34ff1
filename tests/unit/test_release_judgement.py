"""What is said of a release's guards, and how a step ends."""

from __future__ import annotations

from datetime import datetime, timedelta

import pytest
from msgspec.structs import replace

from serving_gateway.contract import (
    Approval,
    BoundedMean,
    Guard,
    GuardReport,
    PairedOutcomes,
    PhaseEvidence,
    Release,
    ReleaseEvidence,
    ReleasePlan,
    ReleaseState,
    Strategy,
    Traffic,
    Verdict,
    VersionCounts,
    decide,
    error_shares,
    judge_guards,
)

START = datetime.fromisoformat("2026-01-01T00:00:00Z")
ALL = {
    Guard.FAILURES: 0.005,
    Guard.LATENCY_P99: 1.25,
    Guard.DISAGREEMENT: 0.05,
    Guard.SCORE_SHIFT: 0.1,
    Guard.OUTCOME: 0.02,
}
STEPS = (Traffic(Strategy.MIRROR, 100), Traffic(Strategy.SPLIT, 10))
FAST, MS_20, MS_40 = 10, 123, 139
"""Buckets of 0.15 ms, 20 ms and 41 ms."""


def release(state: ReleaseState = ReleaseState.RUNNING, step: int = 0, **plan: object) -> Release:
    return Release(
        id="one",
        version=2,
        run_id="run-2",
        previous_version=1,
        plan=replace(ReleasePlan(STEPS, guardrails=ALL), **plan),
        state=state,
        step=step,
        since=START.isoformat(),
        started_at=START.isoformat(),
        by="pipeline",
    )


def counts(requests: int, failed: int = 0, bucket: int = MS_20) -> VersionCounts:
    return VersionCounts(requests, failed, {bucket: requests - failed})


def evidence(**phases: PhaseEvidence) -> ReleaseEvidence:
    names = {"first": "0", "second": "1"}
    return ReleaseEvidence("one", {names.get(name, name): one for name, one in phases.items()})


def phase(
    requests: int, failed: int = 0, bucket: int = MS_20, reference_bucket: int = MS_20
) -> PhaseEvidence:
    """As many requests of both, answered alike."""
    return PhaseEvidence(
        counts(requests, failed, bucket), counts(requests, 0, reference_bucket), compared=requests
    )


def judged(
    found: ReleaseEvidence,
    outcome: PairedOutcomes | BoundedMean | None = None,
    state: ReleaseState = ReleaseState.RUNNING,
) -> dict[Guard, GuardReport]:
    one = release(state)
    return {report.guard: report for report in judge_guards(one.plan, one, found, outcome)}


GOOD = evidence(first=phase(20_000))
GOOD_OUTCOME = PairedOutcomes(20, 20, 4_000)


@pytest.mark.parametrize("state", [ReleaseState.ROLLED_BACK, ReleaseState.COMPLETED])
def test_release_that_ended_after_the_switch_is_judged_by_its_watch(state: ReleaseState) -> None:
    counted = evidence(first=phase(2_000, failed=500), watch=phase(3_000))
    ended = release(state, step=1)
    guards = {one.guard: one for one in judge_guards(ended.plan, ended, counted)}
    assert set(guards) == {Guard.FAILURES, Guard.LATENCY_P99, Guard.OUTCOME}
    assert guards[Guard.FAILURES].observations == 3_000


def test_a_candidate_like_production_is_within_every_margin() -> None:
    found = judged(GOOD, GOOD_OUTCOME)
    assert {one.verdict for one in found.values()} == {Verdict.GO}
    assert [*found] == [*ALL]
    assert found[Guard.LATENCY_P99].value == 1


@pytest.mark.parametrize(
    ("guard", "bad", "outcome"),
    [
        (Guard.FAILURES, phase(500, failed=40), None),
        (Guard.LATENCY_P99, phase(3_000, bucket=MS_40), None),
        (Guard.DISAGREEMENT, PhaseEvidence(compared=300, disagreed=60), None),
        (Guard.SCORE_SHIFT, PhaseEvidence(compared=600, shift=180.0, shift_squares=54.0), None),
        (Guard.SCORE_SHIFT, PhaseEvidence(compared=600, shift=-180.0, shift_squares=54.0), None),
        (Guard.OUTCOME, PhaseEvidence(), PairedOutcomes(200, 20, 1_800)),
        (Guard.OUTCOME, PhaseEvidence(), BoundedMean(2_000, 200.0, 60.0, -1.0, 1.0)),
    ],
)
def test_a_worse_candidate_breaks_its_guard_and_stops_the_release(
    guard: Guard, bad: PhaseEvidence, outcome: PairedOutcomes | BoundedMean | None
) -> None:
    found = judged(evidence(first=bad), outcome)
    assert [one for one in found if found[one].verdict is Verdict.STOP] == [guard]
    for state in (ReleaseState.RUNNING, ReleaseState.WAITING, ReleaseState.CLEARED):
        verdict, why = decide(release(state), [*found.values()], evidence(first=bad), START)
        assert verdict is Verdict.STOP
        assert f"{guard.value} {found[guard].value:.4g}, between" in why
        assert f"(margin {ALL[guard]:g})" in why


@pytest.mark.parametrize(
    ("guard", "better", "outcome"),
    [
        (Guard.FAILURES, PhaseEvidence(counts(5_000), counts(5_000, failed=500)), None),
        (Guard.LATENCY_P99, phase(5_000, reference_bucket=MS_40), None),
        (Guard.OUTCOME, PhaseEvidence(), PairedOutcomes(20, 200, 1_800)),
    ],
)
def test_a_better_candidate_is_no_reason_to_stop(
    guard: Guard, better: PhaseEvidence, outcome: PairedOutcomes | None
) -> None:
    assert judged(evidence(first=better), outcome)[guard].verdict is Verdict.GO


def test_latencies_below_five_milliseconds_are_alike() -> None:
    found = judged(evidence(first=phase(5_000, bucket=FAST + 64, reference_bucket=FAST)))
    report = found[Guard.LATENCY_P99]  # sixteen times as long
    assert (report.value, report.verdict) == (1, Verdict.GO)


def test_without_observations_nothing_is_shown_and_bounds_are_left_out() -> None:
    found = judged(evidence())
    assert {one.verdict for one in found.values()} == {Verdict.NOT_YET}
    assert all((one.value, one.low, one.high) == (None, None, None) for one in found.values())
    few = judged(evidence(first=phase(50)))[Guard.LATENCY_P99]
    assert few.high is None, "no edge bounds the p99 of 50 requests"


def test_what_changes_for_both_versions_between_steps_is_no_difference() -> None:
    """Half of the first step failed, and was slow, for both; then B gets one request in 100."""
    trouble = VersionCounts(500, 250, {MS_40: 250})
    mirrored = PhaseEvidence(trouble, trouble, compared=250)
    split = PhaseEvidence(counts(500), counts(50_000))
    found = judged(evidence(first=mirrored, second=split))
    assert found[Guard.FAILURES].value == 0
    assert found[Guard.LATENCY_P99].value == 1
    assert Verdict.STOP not in {one.verdict for one in found.values()}
    # The sums are 25 % of B's requests against 0.5 % of A's.
    worse = judged(evidence(first=PhaseEvidence(counts(1_000, 250), counts(50_500, 250))))
    assert worse[Guard.FAILURES].verdict is Verdict.STOP


def test_a_difference_in_one_step_is_enough_to_stop() -> None:
    bad = PhaseEvidence(counts(600, 60), counts(6_000))
    found = judged(evidence(first=phase(20_000), second=bad))[Guard.FAILURES]
    assert (found.verdict, found.observations) == (Verdict.STOP, 20_600)


def test_steps_share_an_error_rate() -> None:
    assert error_shares(1) == (1.0,)
    assert error_shares(4) == (0.75, 0.125, 0.0625, 0.0625)
    assert error_shares(0) == ()


def test_mirrored_rows_of_all_steps_are_summed_and_the_watch_is_judged_apart() -> None:
    bad = phase(250, failed=20)
    both = evidence(first=bad, second=bad, watch=phase(10))
    assert judged(both)[Guard.DISAGREEMENT].observations == 500
    watching = judged(both, state=ReleaseState.WATCHING)
    assert watching[Guard.FAILURES].observations == 10
    assert set(watching) == {Guard.FAILURES, Guard.LATENCY_P99, Guard.OUTCOME}


def test_fewer_guards_share_the_error_rate_with_narrower_bounds() -> None:
    alone = release(guardrails={Guard.FAILURES: 0.005})
    [narrow] = judge_guards(alone.plan, alone, GOOD)
    wide = judged(GOOD)[Guard.FAILURES]
    assert narrow.high is not None
    assert wide.high is not None
    assert narrow.high < wide.high
    assert judge_guards(replace(alone.plan, guardrails={}), alone, GOOD) == ()


def verdict(
    one: Release,
    found: ReleaseEvidence = GOOD,
    outcome: PairedOutcomes | None = GOOD_OUTCOME,
    seconds: float = 600,
) -> tuple[Verdict, str]:
    guards = judge_guards(one.plan, one, found, outcome)
    return decide(one, guards, found, START + timedelta(seconds=seconds))


@pytest.mark.parametrize(
    ("found", "seconds", "expected", "said"),
    [
        (GOOD, 600, Verdict.GO, "step 1 of 2: 20000 requests in 600 s, no guardrail is broken"),
        (GOOD, 599, Verdict.NOT_YET, "it has lasted for 599 of 600 s"),
        (evidence(first=phase(499)), 900, Verdict.NOT_YET, "got 499 of 500 requests"),
        (evidence(second=phase(900)), 900, Verdict.NOT_YET, "got 0 of 500 requests"),
        (evidence(first=phase(499)), 86_400, Verdict.STOP, "inconclusive after 86400 s"),
    ],
)
def test_a_step_ends_with_go_at_its_least_requests_and_duration(
    found: ReleaseEvidence, seconds: float, expected: Verdict, said: str
) -> None:
    result, why = verdict(release(), found, seconds=seconds)
    assert result is expected
    assert said in why


def test_the_last_step_requires_every_guard_that_may_not_be_left_unproven() -> None:
    found = evidence(first=phase(20_000), second=phase(500))
    assert verdict(release(step=1), found)[0] is Verdict.GO
    result, why = verdict(release(step=1), found, outcome=None)
    assert result is Verdict.NOT_YET
    assert "not shown within its margin: outcome without observations (margin 0.02)" in why
    result, why = verdict(release(step=1), found, outcome=None, seconds=90_000)
    assert result is Verdict.STOP
    assert "inconclusive" in why
    assert "outcome" in why
    assert verdict(release(step=1, unproven=(Guard.OUTCOME,)), found, None)[0] is Verdict.GO
    assert verdict(release(), found, outcome=None)[0] is Verdict.GO, "an earlier step does not"


def test_the_last_step_with_copies_requires_what_only_copies_show() -> None:
    found = evidence(first=replace(phase(600), disagreed=18))
    one = release(unproven=(Guard.SCORE_SHIFT,))
    result, why = verdict(one, found)
    assert result is Verdict.NOT_YET, "no later step would add to it"
    assert "step 1 of 2: not shown within its margin: disagreement 0.03" in why
    assert "failures" not in why, "later steps add to that"
    assert verdict(one, found, seconds=90_000)[0] is Verdict.STOP
    both = (Guard.SCORE_SHIFT, Guard.DISAGREEMENT)
    assert verdict(release(unproven=both), found)[0] is Verdict.GO
    again = (*STEPS[:1], *STEPS)
    assert verdict(release(steps=again), found)[0] is Verdict.GO, "a later step adds to it"


@pytest.mark.parametrize(
    ("state", "seconds", "expected", "said"),
    [
        (ReleaseState.WAITING, 1e6, Verdict.NOT_YET, "waits for an approval (before_switch)"),
        (ReleaseState.CLEARED, 1e6, Verdict.NOT_YET, "the switch follows"),
        (ReleaseState.WATCHING, 1_799, Verdict.NOT_YET, "watched for 1799 of 1800 s"),
        (ReleaseState.WATCHING, 1_800, Verdict.GO, "0 of 3 are shown within their margin"),
        (ReleaseState.STOPPED, 1e6, Verdict.NOT_YET, "has ended (stopped)"),
    ],
)
def test_other_states_end_by_time_or_by_people(
    state: ReleaseState, seconds: float, expected: Verdict, said: str
) -> None:
    one = release(state, approval=Approval.BEFORE_SWITCH)
    result, why = verdict(one, evidence(), outcome=None, seconds=seconds)
    assert result is expected
    assert said in why


def test_a_broken_guard_stops_the_watch() -> None:
    result, why = verdict(release(ReleaseState.WATCHING), evidence(watch=phase(500, failed=40)))
    assert result is Verdict.STOP
    assert "failures 0.08" in why


def test_evidence_that_contradicts_itself_is_refused() -> None:
    impossible = evidence(first=PhaseEvidence(VersionCounts(1, 2), VersionCounts(1)))
    with pytest.raises(ValueError, match="1 trials cannot have 2 successes"):
        judged(impossible)
