"""How often equal versions are stopped, and how soon a worse one is.

Of 10,000 releases each in the long form (`FAULTS=long`), and of 2,000 in the quick one.
"""

from __future__ import annotations

import numpy as np
import pytest

from serving_gateway.contract import (
    ERROR_RATE,
    Guard,
    Release,
    ReleasePlan,
    ReleaseState,
    Strategy,
    Traffic,
    Verdict,
    judge_guards,
)
from tests.faults.scale import scale
from tests.support.release_simulation import (
    Releases,
    Versions,
    broken,
    evidence_of,
    outcome_is_beyond,
    simulate,
)

RUNS = scale(2_000, 10_000)
GUARDRAILS = {
    Guard.FAILURES: 0.005,
    Guard.LATENCY_P99: 1.25,
    Guard.DISAGREEMENT: 0.05,
    Guard.SCORE_SHIFT: 0.1,
    Guard.OUTCOME: 0.02,
}
LOOKS = [int(look) for look in np.geomspace(30, 30_000, 80)]
"""Requests at which a release is looked at: the bounds hold at all, and these are enough to catch
what does not."""
EQUAL = Versions()
AT_MARGINS = Versions(
    failing_b=0.006,
    slowdown=1.25,
    disagreement=0.05,
    shift_up=0.25,
    shift_down=0.05,
    only_b_wrong=0.03,
    only_a_wrong=0.01,
)
"""The worst that is not to be stopped, of every guard at once."""
STEPS = (Traffic(Strategy.MIRROR, 100), *(Traffic(Strategy.SPLIT, one) for one in (1, 10, 50)))
PLAN = ReleasePlan(steps=STEPS, guardrails=GUARDRAILS)
SHARE = 0.75
"""Of the error rate of failures and latency, for the first step."""
RELEASE = Release(
    id="one",
    version=2,
    run_id="run-2",
    previous_version=1,
    plan=PLAN,
    state=ReleaseState.RUNNING,
    step=0,
    since="2026-01-01T00:00:00Z",
    started_at="2026-01-01T00:00:00Z",
    by="pipeline",
)

pytestmark = pytest.mark.slow


def verdicts(found: Releases, release: int) -> dict[Guard, Verdict]:
    """What the product says of one release."""
    evidence, outcome = evidence_of(found, release)
    return {one.guard: one.verdict for one in judge_guards(PLAN, RELEASE, evidence, outcome)}


@pytest.mark.parametrize("versions", [EQUAL, AT_MARGINS], ids=["equal", "at every margin"])
def test_of_versions_within_their_margins_at_most_five_percent_are_ever_stopped(
    versions: Versions,
) -> None:
    # With the whole error rate in one step, all of which a release could spend.
    stopped = np.zeros((len(GUARDRAILS), RUNS), dtype=bool)
    for found in simulate(versions, LOOKS, RUNS, seed=1):
        stopped |= np.stack([*broken(found, GUARDRAILS, ERROR_RATE, 1.0).values()])
    assert (stopped.mean(axis=1) <= ERROR_RATE / len(GUARDRAILS)).all()
    assert stopped.any(axis=0).mean() <= ERROR_RATE
    assert versions is EQUAL or stopped.any(), "a test that can fail stops one now and then"


@pytest.mark.parametrize(
    ("guard", "requests", "worse"),
    [
        (Guard.FAILURES, 400, Versions(failing_b=0.05)),
        (Guard.FAILURES, 2_000, Versions(failing_b=0.02)),
        (Guard.LATENCY_P99, 3_000, Versions(slowdown=2.0)),
        (Guard.OUTCOME, 1_300, Versions(only_b_wrong=0.06, only_a_wrong=0.01)),
        (Guard.OUTCOME, 9_600, Versions(only_b_wrong=0.04, only_a_wrong=0.01)),
    ],
    ids=["5 % fail", "2 % fail", "p99 doubled", "5 points worse", "3 points worse"],
)
def test_a_worse_version_is_stopped_by_then_in_most_releases(
    guard: Guard, requests: int, worse: Versions
) -> None:
    [found] = simulate(worse, [requests], RUNS, seed=2)
    stopped = broken(found, GUARDRAILS, ERROR_RATE, SHARE)[guard]
    assert stopped.mean() > 0.5
    for release in range(30):
        assert (verdicts(found, release)[guard] is Verdict.STOP) is bool(stopped[release])


def test_equal_outcomes_are_shown_to_be_no_worse_in_most_releases() -> None:
    [found] = simulate(EQUAL, [1_500], RUNS, seed=3)
    alpha = ERROR_RATE / len(GUARDRAILS)
    mirrored = found.outcomes[:, [1, 0, 2]]
    # A lower bound of A's loss minus B's is an upper one of B's minus A's.
    shown = outcome_is_beyond(mirrored, -GUARDRAILS[Guard.OUTCOME], alpha)
    assert shown.mean() > 0.5
    for release in range(30):
        go = verdicts(found, release)[Guard.OUTCOME] is Verdict.GO
        assert go is bool(shown[release])


def test_the_product_judges_as_the_simulations_do() -> None:
    """In releases that are near a verdict, of which some are stopped and some are not."""
    near = Versions(
        failing_b=0.02,
        slowdown=1.6,
        disagreement=0.08,
        shift_up=0.27,
        shift_down=0.0,
        only_b_wrong=0.05,
        only_a_wrong=0.01,
    )
    seen: dict[Guard, set[bool]] = {guard: set() for guard in Guard}
    for found in simulate(near, [700, 1_700, 2_500], 40, seed=4):
        expected = broken(found, GUARDRAILS, ERROR_RATE, SHARE)
        for release in range(40):
            for guard, verdict in verdicts(found, release).items():
                is_stopped = verdict is Verdict.STOP
                assert is_stopped is bool(expected[guard][release]), (guard, release)
                seen[guard].add(is_stopped)
    assert all(both == {True, False} for both in seen.values()), seen
