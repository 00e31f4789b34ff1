"""From one state of a release to the next, and what other changes do to it."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime

import hypothesis.strategies as st
import pytest
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from msgspec.structs import replace

from serving_gateway.contract import (
    ACTIVE,
    Approval,
    Guard,
    Mode,
    Release,
    ReleaseAdvance,
    ReleaseDecision,
    ReleasePlan,
    ReleaseRequest,
    ReleaseState,
    RoutingRecord,
    Slot,
    Strategy,
    Traffic,
    TrafficRequest,
    Verdict,
)
from serving_gateway.control import release_transitions as releases
from serving_gateway.control.release_plans import check_plan
from serving_gateway.control.transitions import (
    next_generation,
    previous_slot,
    remove,
    roll_back,
    with_slot,
    with_traffic,
    without_variant,
)
from serving_gateway.errors import Conflict, GatewayError, InvalidInput, NotFound
from serving_gateway.replication.records import Merge, merge

MIRROR = Traffic(Strategy.MIRROR, 100.0)
STEPS = (MIRROR, Traffic(Strategy.SPLIT, 10.0))
PLAN = ReleasePlan(STEPS)
AT = "2026-01-01T00:00:00.000Z"
State = ReleaseState


def slot(version: int, mode: Mode = Mode.SSOT) -> Slot:
    return Slot(version, f"run-{version}", "registry", mode)


EMPTY = RoutingRecord(model_name="m")
ON_1 = replace(with_slot(EMPTY, "A", slot(1)), generation=1)


def begin(
    record: RoutingRecord = ON_1, version: int = 2, plan: ReleasePlan = PLAN
) -> RoutingRecord:
    wish = ReleaseRequest(version, f"run-{version}", plan)
    return releases.begin(record, wish, slot(version), f"id-{version}", AT, "token:pipeline")


def release_of(record: RoutingRecord) -> Release:
    assert record.release is not None
    return record.release


def advance(record: RoutingRecord, verdict: Verdict = Verdict.GO) -> RoutingRecord:
    now = release_of(record)
    wish = ReleaseAdvance(now.id, now.state, now.step, verdict, "the numbers")
    return releases.advance(record, wish, AT, "token:pilot")


def approve(record: RoutingRecord) -> RoutingRecord:
    return releases.approve(record, ReleaseDecision("looks good"), AT, "token:ann")


def stop(record: RoutingRecord) -> RoutingRecord:
    return releases.stop(record, ReleaseDecision("no"), AT, "token:ann")


def changed(
    base: RoutingRecord, change: Callable[[RoutingRecord], RoutingRecord], reason: str | None = None
) -> RoutingRecord:
    """What the writer makes of a change of routing."""
    return releases.settle(base, change(base), AT, "token:ops", reason)


def moved(base: RoutingRecord, change: Callable[[RoutingRecord], RoutingRecord]) -> RoutingRecord:
    """The next generation, after a change of routing."""
    now = datetime(2026, 1, 2, tzinfo=UTC)
    return next_generation(base, changed(base, change), now=now, by="token:ops", reason=None)


def to_a(version: int, mode: Mode = Mode.SSOT) -> Callable[[RoutingRecord], RoutingRecord]:
    return lambda record: with_slot(record, "A", slot(version, mode))


def rolled(record: RoutingRecord) -> RoutingRecord:
    return roll_back(record, "A", previous_slot(record, "A"))


def cleared(plan: ReleasePlan = PLAN) -> RoutingRecord:
    return advance(advance(begin(plan=plan)))


def watching() -> RoutingRecord:
    return changed(cleared(), to_a(2))


def shape(record: RoutingRecord) -> tuple[object, ...]:
    versions = {alias: one.version for alias, one in record.variants.items()}
    release = release_of(record)
    return release.state, release.step, versions, record.traffic


OFF = Traffic()
WAITS_FIRST = replace(PLAN, approval=Approval.BEFORE_TRAFFIC)
WAITS_LAST = replace(PLAN, approval=Approval.BEFORE_SWITCH)
WITHOUT_WATCH = replace(PLAN, watch_seconds=0.0)
AB, A1, A2 = {"A": 1, "B": 2}, {"A": 1}, {"A": 2}


def test_a_release_that_takes_the_place_of_another_says_so() -> None:
    [act] = release_of(begin(advance(begin()), 3)).acts
    assert act.reason == "stopped the release of version 2 (id-2), which was running in step 2 of 2"
    assert (act.by, act.phase) == ("token:pipeline", "0")
    assert release_of(begin()).acts == ()


@pytest.mark.parametrize(
    ("record", "expected"),
    [
        (begin(), (State.RUNNING, 0, AB, MIRROR)),
        (advance(begin()), (State.RUNNING, 1, AB, STEPS[1])),
        (cleared(), (State.CLEARED, 1, AB, STEPS[1])),
        (watching(), (State.WATCHING, 1, {"A": 2, "B": 1}, MIRROR)),
        (advance(watching()), (State.COMPLETED, 1, A2, OFF)),
        (begin(plan=WAITS_FIRST), (State.WAITING, 0, AB, OFF)),
        (approve(begin(plan=WAITS_FIRST)), (State.RUNNING, 0, AB, MIRROR)),
        (cleared(WAITS_LAST), (State.WAITING, 1, AB, STEPS[1])),
        (approve(cleared(WAITS_LAST)), (State.CLEARED, 1, AB, STEPS[1])),
        (changed(cleared(WITHOUT_WATCH), to_a(2)), (State.COMPLETED, 1, A2, OFF)),
        (stop(begin()), (State.STOPPED, 0, A1, OFF)),
        (stop(begin(plan=WAITS_FIRST)), (State.STOPPED, 0, A1, OFF)),
        (stop(cleared()), (State.STOPPED, 1, A1, OFF)),
        (advance(begin(), Verdict.STOP), (State.STOPPED, 0, A1, OFF)),
        (advance(cleared(WAITS_LAST), Verdict.STOP), (State.STOPPED, 1, A1, OFF)),
        (stop(watching()), (State.ROLLED_BACK, 1, A1, OFF)),
        (advance(watching(), Verdict.STOP), (State.ROLLED_BACK, 1, A1, OFF)),
        # What others change meanwhile.
        (changed(begin(), to_a(1, Mode.PINNED)), (State.STOPPED, 0, A1, OFF)),
        (changed(begin(), to_a(3)), (State.STOPPED, 0, {"A": 3}, OFF)),
        (changed(begin(), to_a(2, Mode.PINNED)), (State.STOPPED, 0, A2, OFF)),
        (
            changed(begin(), lambda record: with_slot(record, "B", slot(3))),
            (State.STOPPED, 0, {"A": 1, "B": 3}, OFF),
        ),
        (
            changed(begin(), lambda one: with_traffic(one, TrafficRequest(Strategy.SPLIT, 5.0))),
            (State.STOPPED, 0, AB, Traffic(Strategy.SPLIT, 5.0)),
        ),
        (
            changed(begin(), lambda one: with_traffic(one, TrafficRequest(Strategy.OFF))),
            (State.STOPPED, 0, A1, OFF),
        ),
        (changed(begin(), lambda one: without_variant(one, "B")), (State.STOPPED, 0, A1, OFF)),
        (changed(begin(), remove), (State.STOPPED, 0, {}, OFF)),
        (changed(watching(), rolled), (State.ROLLED_BACK, 1, A1, OFF)),
        (changed(watching(), to_a(3)), (State.STOPPED, 1, {"A": 3}, OFF)),
        # A retraining.
        (begin(advance(begin()), 3), (State.RUNNING, 0, {"A": 1, "B": 3}, MIRROR)),
        (begin(watching(), 3), (State.RUNNING, 0, {"A": 2, "B": 3}, MIRROR)),
        (begin(stop(begin())), (State.RUNNING, 0, AB, MIRROR)),
    ],
)
def test_each_change_leads_to_a_defined_state(
    record: RoutingRecord, expected: tuple[object, ...]
) -> None:
    assert shape(record) == expected


def test_a_rollback_pins_and_a_stopped_candidate_is_not_what_b_goes_back_to() -> None:
    back = stop(watching())
    assert (back.variants["A"].version, back.variants["A"].mode) == (1, Mode.PINNED)
    assert "B" not in stop(begin()).previous, "so that the candidate can be retired"
    assert [one.version for one in back.previous.get("A", ())] == []


@pytest.mark.parametrize("known", [ON_1, begin(), watching(), stop(begin()), stop(watching())])
def test_removal_is_no_lost_change_to_another_replica(known: RoutingRecord) -> None:
    gone = moved(known, remove)
    assert merge(gone, known) == Merge(gone, write=False)


def test_model_that_is_added_again_has_nothing_of_its_last_release_but_its_end() -> None:
    """That the release has ended is remembered; otherwise a replica would take it for lost."""
    for last in (stop(begin()), stop(watching())):
        back = moved(moved(last, remove), to_a(2))
        assert shape(back) == (release_of(last).state, release_of(last).step, A2, OFF)
        assert (back.previous, releases.active_release(back)) == ({}, None)
        assert shape(begin(back, 3)) == (State.RUNNING, 0, {"A": 2, "B": 3}, MIRROR)


def test_an_end_says_why_and_by_whom() -> None:
    ended = release_of(changed(begin(), to_a(3, Mode.PINNED), "an incident"))
    expected = "ended by another change: variant A was set to version 3 (pinned), by token:ops"
    assert ended.reason == f"{expected}: an incident"
    assert (ended.acts[-1].verdict, ended.acts[-1].by) == (Verdict.STOP, "token:ops")
    long = release_of(changed(begin(), to_a(3, Mode.PINNED), "x" * 60_000))
    assert len(long.reason or "") == len(long.acts[-1].reason) == 1_000, "the record stays small"
    acts = release_of(approve(cleared(WAITS_LAST))).acts
    assert [(act.phase, act.by, act.is_approval) for act in acts] == [
        ("0", "token:pilot", False),
        ("1", "token:pilot", False),
        ("1", "token:ann", True),
    ]
    assert release_of(advance(watching())).acts[-1].phase == "watch"


def test_what_changes_no_routing_leaves_a_release_alone() -> None:
    record = begin()
    relabelled = replace(record.variants["A"], run_id_source="record")
    same = replace(record, variants={**record.variants, "A": relabelled})
    assert releases.settle(record, same, AT, "x", None) is same
    assert begin(record) is record, "the same begin again changes nothing"


@pytest.mark.parametrize(
    ("act", "code"),
    [
        (lambda: begin(EMPTY), "no_production"),
        (lambda: begin(with_slot(EMPTY, "A", slot(1, Mode.PINNED))), "variant_pinned"),
        (lambda: begin(ON_1, 1), "already_in_production"),
        (lambda: begin(begin(), plan=WAITS_LAST), "release_active"),
        (lambda: stop(ON_1), "no_release"),
        (
            lambda: releases.stop(stop(begin()), ReleaseDecision("no"), AT, "token:bob"),
            "release_ended",
        ),
        (
            lambda: releases.stop(stop(begin()), ReleaseDecision("no", "other"), AT, "token:ann"),
            "release_changed",
        ),
        (
            lambda: releases.approve(
                approve(cleared(WAITS_LAST)), ReleaseDecision("looks good"), AT, "token:bob"
            ),
            "release_not_waiting",
        ),
        (lambda: approve(begin()), "release_not_waiting"),
        (lambda: advance(cleared()), "release_not_running"),
        (lambda: advance(begin(plan=WAITS_FIRST)), "release_not_running"),
        (lambda: advance(begin(), Verdict.NOT_YET), "invalid_input"),
        (
            lambda: releases.stop(begin(), ReleaseDecision("no", "other"), AT, "x"),
            "release_changed",
        ),
        (lambda: releases.stop(begin(), ReleaseDecision(" "), AT, "x"), "reason_required"),
        (
            lambda: releases.advance(
                begin(), ReleaseAdvance("id-2", State.RUNNING, 1, Verdict.GO, "late"), AT, "x"
            ),
            "release_changed",
        ),
        (lambda: releases.check_reload(begin(), "A", 2, Mode.SSOT), "release_not_cleared"),
        (
            lambda: releases.check_reload(cleared(WAITS_LAST), "A", 2, Mode.SSOT),
            "release_not_cleared",
        ),
    ],
)
def test_a_change_that_the_state_forbids_is_refused(act: Callable[[], object], code: str) -> None:
    with pytest.raises((Conflict, NotFound, InvalidInput)) as caught:
        act()
    assert caught.value.code == code


@pytest.mark.parametrize("plan", [WAITS_FIRST, WAITS_LAST])
def test_a_decision_whose_answer_was_lost_is_repeated_without_a_change(plan: ReleasePlan) -> None:
    approved = approve(begin(plan=plan) if plan is WAITS_FIRST else cleared(plan))
    assert approve(approved) is approved
    stopped = stop(approved)
    assert stop(stopped) is stopped
    back = stop(watching())
    assert release_of(back).state is State.ROLLED_BACK
    assert stop(back) is back


def test_a_reload_is_let_through_when_it_is_none_of_the_release() -> None:
    for alias, version, mode in (("A", 3, Mode.SSOT), ("A", 2, Mode.PINNED), ("B", 2, Mode.SSOT)):
        releases.check_reload(begin(), alias, version, mode)
    for record in (cleared(), watching(), stop(begin()), ON_1):
        releases.check_reload(record, "A", 2, Mode.SSOT)


def test_acts_are_bounded() -> None:
    steps = tuple(Traffic(Strategy.MIRROR, 1.0 + step) for step in range(50))
    record = begin(plan=ReleasePlan(steps, approval=Approval.BEFORE_SWITCH))
    for _ in steps:
        record = advance(record)
    acts = release_of(approve(record)).acts
    assert len(acts) == releases.KEPT_ACTS
    assert (acts[0].phase, acts[-1].is_approval) == ("1", True)


@pytest.mark.parametrize(
    ("plan", "field"),
    [
        (ReleasePlan(()), "plan.steps"),
        (ReleasePlan((OFF,)), "plan.steps[0].strategy"),
        (ReleasePlan((MIRROR, Traffic(Strategy.SPLIT, 0.001))), "plan.steps[1].percent"),
        (ReleasePlan(STEPS, requests=-1), "plan.requests"),
        (ReleasePlan(STEPS, watch_seconds=-1.0), "plan.watch_seconds"),
        (ReleasePlan(STEPS, score_scale=0.0), "plan.score_scale"),
        (ReleasePlan(STEPS, requests=10**30), "plan.requests"),
        (ReleasePlan(STEPS, guardrails={Guard.FAILURES: 2.0}), "plan.guardrails.failures"),
        (ReleasePlan(STEPS, guardrails={Guard.LATENCY_P99: 0.5}), "plan.guardrails.latency_p99"),
        (ReleasePlan(STEPS, unproven=(Guard.OUTCOME,)), "plan.unproven[0]"),
    ],
)
def test_a_plan_that_cannot_be_followed_is_refused_with_its_field(
    plan: ReleasePlan, field: str
) -> None:
    with pytest.raises(InvalidInput) as caught:
        check_plan(plan)
    assert caught.value.field == field
    check_plan(PLAN)


class ReleaseMachine(RuleBasedStateMachine):
    """Any order of what the pipeline, principals and operators do, each allowed or refused."""

    @initialize()
    def start(self) -> None:
        self.record = replace(ON_1, changed_at=AT)

    def act(self, change: Callable[[RoutingRecord], RoutingRecord]) -> None:
        base = self.record
        try:
            wanted = change(base)
        except GatewayError:
            return
        if wanted is base:
            return
        settled = releases.settle(base, wanted, AT, "token:ops", None)
        self.record = next_generation(base, settled, now=datetime.now(UTC), by="x", reason=None)
        by_release = base.release is not wanted.release
        if by_release and base.variants["A"].version != self.record.variants["A"].version:
            assert release_of(self.record).state is State.ROLLED_BACK, "it moves A back only"

    @rule(
        version=st.integers(1, 4),
        approval=st.sampled_from(Approval),
        watch=st.sampled_from([0.0, 60.0]),
        steps=st.integers(1, 2),
    )
    def begins(self, version: int, approval: Approval, watch: float, steps: int) -> None:
        plan = ReleasePlan(STEPS[:steps], approval=approval, watch_seconds=watch)
        self.act(lambda record: begin(record, version, plan))

    @precondition(lambda self: self.record.release is not None)
    @rule(verdict=st.sampled_from(Verdict))
    def advances(self, verdict: Verdict) -> None:
        self.act(lambda record: advance(record, verdict))

    @rule()
    def approves(self) -> None:
        self.act(approve)

    @rule()
    def stops(self) -> None:
        self.act(stop)

    @rule(version=st.integers(1, 4), mode=st.sampled_from(Mode))
    def reloads_a(self, version: int, mode: Mode) -> None:
        def change(record: RoutingRecord) -> RoutingRecord:
            releases.check_reload(record, "A", version, mode)
            return to_a(version, mode)(record)

        self.act(change)

    @precondition(lambda self: releases.active_release(self.record) is not None)
    @rule()
    def switches(self) -> None:
        version = release_of(self.record).version
        self.reloads_a(version, Mode.SSOT)

    @rule()
    def rolls_back(self) -> None:
        self.act(rolled)

    @rule(strategy=st.sampled_from(Strategy), percent=st.sampled_from([0.0, 5.0]))
    def sets_traffic(self, strategy: Strategy, percent: float) -> None:
        active = releases.active_release(self.record)
        if active is not None:  # else it is an operator's own, which is no release's
            self.act(lambda record: with_traffic(record, TrafficRequest(strategy, percent)))
            self.act(lambda record: without_variant(record, "B"))

    @invariant()
    def b_has_traffic_in_an_active_phase_alone(self) -> None:
        record, release = self.record, self.record.release
        if release is None or release.state not in ACTIVE:
            assert record.traffic == OFF
        elif release.state is State.WATCHING:
            assert record.traffic == MIRROR
            assert record.variants["A"].version == release.version
            assert record.variants["B"].version == release.previous_version
        else:
            waits = release.state is State.WAITING and (
                release.plan.approval is Approval.BEFORE_TRAFFIC
            )
            assert record.traffic == (OFF if waits else release.plan.steps[release.step])
            assert record.variants["A"].version == release.previous_version
            assert record.variants["B"].version == release.version

    @invariant()
    def a_stopped_release_left_nothing_in_b(self) -> None:
        release = self.record.release
        if release is not None and release.state not in ACTIVE:
            assert "B" not in self.record.variants


ReleaseMachine.TestCase.settings = settings(max_examples=150, stateful_step_count=25, deadline=None)
TestReleaseMachine = ReleaseMachine.TestCase
