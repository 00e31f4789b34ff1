"""What the pilot of releases begins, decides, launches and writes down."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import dagster as dg
import pytest
from msgspec.structs import replace

from platform_assets.ledger.resource import LedgerFolder
from platform_assets.model_spec import ModelSpec, Outcomes, ReleaseSpec, StepMinimum
from platform_assets.release import record
from platform_assets.release.memory import PilotMemory, TickResult
from platform_assets.release.pictures import EvidencePoint
from platform_assets.release.pilot import Pilot
from platform_assets.release.promotion_runs import MAX_RUNS, RELEASE_TAG
from platform_assets.resources.gateway import GatewayRefused, GatewayUnavailable
from platform_assets.resources.mlflow import MlflowResource
from platform_assets.run_tags import MODEL_TAG
from platform_assets.serving.promotion import GATES, LOAD_ID
from serving_gateway.contract import (
    WATCH,
    Approval,
    Guard,
    Mode,
    PairedOutcomes,
    Release,
    ReleaseAct,
    ReleaseDecision,
    ReleaseState,
    RoutingRecord,
    Verdict,
)
from tests.support.models import IRIS
from tests.support.releasing_gateway import ROUTINGS, ReleasingGateway, Routing, slot

STEPS = ReleaseSpec(
    steps=("mirror", 10.0),
    each=StepMinimum(requests=200, minutes=1.0),
    guardrails={Guard.FAILURES: 0.005},
)
MODEL = IRIS.model_name


class World:
    """A model with releases: its gateway, its loads, and a pilot whose clock the test moves."""

    def __init__(
        self, instance: dg.DagsterInstance, folder: Path, production: int | None = 1
    ) -> None:
        self.instance = instance
        self.spec: ModelSpec = dataclasses.replace(IRIS, release=STEPS)
        variants = {} if production is None else {"A": slot(production)}
        self.name = uuid4().hex
        self.routing = Routing(RoutingRecord(MODEL, generation=1, variants=variants))
        ROUTINGS[self.name] = self.routing
        self.gateway = ReleasingGateway(name=self.name)
        self.memory = PilotMemory()
        self.ledger = LedgerFolder(root=str(folder))
        self.losses: PairedOutcomes | None = None
        self.joins = 0

    def configure(self, **changes: Any) -> None:
        assert self.spec.release is not None
        changed = dataclasses.replace(self.spec.release, **changes)
        outcomes = Outcomes(outcome_delay=timedelta(hours=1))
        self.spec = dataclasses.replace(self.spec, outcomes=outcomes, release=changed)

    def load(
        self, version: int, *, failed: str = "", judged: bool = True, ready: bool = True
    ) -> str:
        """Record a load and the verdicts of its gates."""
        load_id = uuid4().hex
        key = dg.AssetKey([MODEL, "triton_serving_state"])
        state = "READY" if ready else "not READY: broken"
        metadata: dict[str, str | int] = {
            "version": version,
            "state": state,
            "run_id": f"run-{version}",
            LOAD_ID: load_id,
        }
        self.instance.report_runless_asset_event(dg.AssetMaterialization(key, metadata=metadata))
        if judged:
            self.judge(version, load_id, failed)
        return load_id

    def judge(self, version: int, load_id: str, failed: str = "") -> None:
        key = dg.AssetKey([MODEL, "triton_serving_state"])
        for gate in GATES:
            self.instance.report_runless_asset_event(
                dg.AssetCheckEvaluation(
                    key, gate, gate != failed, {"version": version, LOAD_ID: load_id}
                )
            )

    def tick(self, after: float = 0.0, *, is_busy: bool = False) -> TickResult:
        """Let the pilot look, `after` more seconds."""
        self.routing.late += timedelta(seconds=after)
        assert self.spec.release is not None

        def losses(*_: object) -> PairedOutcomes | None:
            self.joins += 1
            return self.losses

        pilot = Pilot(
            spec=self.spec,
            steps=self.spec.release,
            gateway=self.gateway,
            mlflow=MlflowResource(tracking_uri="http://127.0.0.1:9"),
            ledger=self.ledger,
            losses=losses,
            instance=self.instance,
            now=datetime.now(UTC) + self.routing.late,
            memory=self.memory,
        )
        return pilot.tick(is_busy=is_busy)

    @property
    def release(self) -> Release:
        assert self.routing.record.release is not None
        return self.routing.record.release

    @property
    def state(self) -> tuple[ReleaseState, int]:
        return self.release.state, self.release.step


@pytest.fixture
def world(instance: dg.DagsterInstance, tmp_path: Path) -> World:
    return World(instance, tmp_path)


@pytest.fixture
def released(world: World) -> World:
    """Version 2 is in its first step."""
    world.load(2)
    world.tick()
    return world


def cleared(world: World) -> None:
    """Let both steps end with go."""
    for requests in (20_000, 200):
        world.routing.count(requests)
        world.tick(61)
    assert world.state == (ReleaseState.CLEARED, 1)


def run(world: World, request: dg.RunRequest, status: dg.DagsterRunStatus) -> None:
    """A run as the daemon makes it of a request."""
    run = dg.DagsterRun(job_name=str(request.job_name), status=status, tags=dict(request.tags))
    world.instance.add_run(run)


# What begins


def test_a_loaded_version_that_passed_its_gates_is_released_in_the_steps_of_its_file(
    world: World,
) -> None:
    world.load(2)
    result = world.tick()
    assert world.state == (ReleaseState.RUNNING, 0)
    assert (world.release.version, world.release.previous_version) == (2, 1)
    assert world.release.plan.seconds == 60
    assert "version 2, step 1 of 2, all requests mirrored" in result.summary
    [made] = result.events
    assert isinstance(made, dg.AssetMaterialization)
    assert made.asset_key == dg.AssetKey([MODEL, "release"])
    world.tick()
    assert world.routing.calls == ["begin"]


@pytest.mark.parametrize(
    ("load", "said"),
    [
        ({"version": 1}, "is in production"),
        ({"version": 2, "failed": GATES[0]}, "has not passed its gates (triton_ready: failed)"),
        ({"version": 2, "judged": False}, "did not run on this load"),
        ({"version": 2, "ready": False}, "no loaded version waits"),
    ],
)
def test_what_may_not_be_released_begins_nothing(
    world: World, load: dict[str, Any], said: str
) -> None:
    world.load(**load)
    assert said in world.tick().summary
    assert world.routing.calls == []


def test_nothing_begins_before_anything_was_loaded_or_while_a_run_loads(world: World) -> None:
    assert "no loaded version" in world.tick().summary
    world.load(2)
    assert "a run is loading" in world.tick(is_busy=True).summary
    assert world.routing.calls == []


def test_gates_that_were_open_are_asked_again_after_a_minute(world: World) -> None:
    load_id = world.load(2, judged=False)
    world.tick()
    world.judge(2, load_id)
    assert "has not passed its gates" in world.tick(30).summary
    world.tick(31)
    assert world.routing.calls == ["begin"]


def test_a_pin_is_not_overridden(world: World) -> None:
    world.routing.switch(1, Mode.PINNED)
    world.load(2)
    said = world.tick().summary
    assert "version 2 waits: production is pinned to version 1" in said
    assert '"unpin": true' in said
    assert world.routing.calls == []


def test_a_released_version_is_released_again_only_after_another_load(released: World) -> None:
    released.gateway.stop_release(MODEL, ReleaseDecision("no"))
    released.tick()
    assert "was released already (stopped)" in released.tick().summary
    released.load(2)
    released.tick()
    assert released.state == (ReleaseState.RUNNING, 0)
    assert released.routing.calls == ["begin", "stop", "begin"]


def test_a_gateway_whose_clock_is_behind_releases_no_load_twice(world: World) -> None:
    world.load(2)
    world.routing.late = timedelta(hours=-1)
    world.tick()
    world.gateway.stop_release(MODEL, ReleaseDecision("no"))
    for _ in range(2):
        assert "was released already (stopped)" in world.tick().summary
    assert world.routing.calls == ["begin", "stop"]


def test_a_newer_version_waits_until_the_release_has_ended(released: World) -> None:
    assert "waits" not in released.tick().summary
    released.load(3)
    said = released.tick().summary
    assert "version 3, loaded meanwhile, waits until this release has ended" in said
    assert f"stop this one (job {MODEL}_stop_release)" in said
    assert released.release.version == 2
    released.gateway.stop_release(MODEL, ReleaseDecision("no"))
    released.tick()
    assert released.release.version == 3


def test_a_newer_version_waits_while_a_switch_is_watched(released: World) -> None:
    """A stop would roll back and pin, so that it could not begin either."""
    cleared(released)
    released.routing.switch(2)
    released.tick()
    released.load(3)
    said = released.tick().summary
    assert said.endswith("version 3, loaded meanwhile, waits until this release has ended")
    released.tick(after=31 * 60)
    assert released.state[0] is ReleaseState.COMPLETED
    released.tick()
    assert released.release.version == 3


# The first version


def test_the_first_version_is_switched_to_at_once(
    instance: dg.DagsterInstance, tmp_path: Path
) -> None:
    world = World(instance, tmp_path, production=None)
    load_id = world.load(1)
    [request] = world.tick().requests
    assert request.job_name == f"{MODEL}_promotion"
    assert request.tags == {MODEL_TAG: MODEL, RELEASE_TAG: f"first version, load {load_id}"}
    run(world, request, dg.DagsterRunStatus.STARTED)
    result = world.tick()
    assert not result.requests
    assert "is switching" in result.summary
    assert world.routing.calls == []


def test_a_production_that_was_lost_is_not_taken_for_a_first_version(
    instance: dg.DagsterInstance, tmp_path: Path
) -> None:
    """The newest loaded version may be one that a guardrail stopped."""
    world = World(instance, tmp_path, production=None)
    metadata: dict[str, str | int] = {"version": 1, "generation": 3}
    key = dg.AssetKey([MODEL, "gateway_reload"])
    instance.report_runless_asset_event(dg.AssetMaterialization(key, metadata=metadata))
    world.load(2)
    result = world.tick()
    assert not result.requests
    assert "nothing is in production, where version 1 was" in result.summary


def test_a_release_that_begins_by_an_approval_asks_people_for_it(world: World) -> None:
    world.configure(approval=Approval.BEFORE_TRAFFIC)
    world.load(2)
    assert "waits for an approval" in "".join(world.tick().alerts)
    assert world.state == (ReleaseState.WAITING, 0)


def test_a_begin_that_the_gateway_refuses_is_tried_again_after_a_minute(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def refuses(_: object, model: str, __: object) -> Any:
        asked.append(model)
        raise GatewayRefused("its feature contract differs", status=409, code="x")

    with monkeypatch.context() as patch:
        patch.setattr(ReleasingGateway, "begin_release", refuses)
        world.load(2)
        results = [world.tick(20) for _ in range(4)]
    assert asked == [MODEL] * 2
    for result in results:
        assert "version 2 waits: its feature contract differs" in result.summary
    alerts = [text for result in results for text in result.alerts]
    assert len(alerts) == 1
    assert "its feature contract differs" in alerts[0]
    world.tick(61)
    assert world.state == (ReleaseState.RUNNING, 0)


# Steps


def test_steps_end_with_go_and_the_last_go_launches_the_switch(released: World) -> None:
    released.routing.count(199)
    assert "got 199 of 200 requests" in released.tick(61).summary
    released.routing.count(20_000)
    result = released.tick()
    assert released.state == (ReleaseState.RUNNING, 1)
    assert "no guardrail is broken" in result.summary
    kinds = [type(event).__name__ for event in result.events]
    assert kinds == ["AssetMaterialization", "AssetCheckEvaluation"]
    released.routing.count(200)
    [request] = released.tick(61).requests
    assert released.state == (ReleaseState.CLEARED, 1)
    assert released.tick().requests == [request], "until it runs"
    assert request.job_name == f"{MODEL}_promotion"
    assert request.tags[RELEASE_TAG] == f"release {released.release.id}"


def test_a_broken_guard_stops_the_release_and_people_are_told(released: World) -> None:
    released.routing.count(500, failed=40)
    result = released.tick()
    assert released.state == (ReleaseState.STOPPED, 0)
    assert "the release of version 2 of *best_model* was stopped" in "".join(result.alerts)
    made, check = result.events
    assert isinstance(made, dg.AssetMaterialization)
    assert isinstance(check, dg.AssetCheckEvaluation)
    assert (check.check_name, check.passed) == ("failures", False)
    assert "failures 0.08, between" in (check.description or "")
    assert made.metadata["verdict"].value == "stop"
    assert "data:image/png" in str(made.metadata["evidence"].value)
    assert released.routing.record.variants.keys() == {"A"}
    assert released.tick().alerts == []


def test_decisions_are_entries_of_the_ledger_once(released: World) -> None:
    released.routing.count(10)
    released.tick(601)
    released.memory = PilotMemory()
    released.tick()
    released.gateway.stop_release(MODEL, ReleaseDecision("stopped by Ada: too slow"))
    released.tick()
    journal = released.ledger.journal(MODEL)
    assert journal is not None
    begun, stopped = journal.entries()
    assert (begun.kind, begun.content["state"]) == ("release", "step 1 of 2, all requests mirrored")
    assert stopped.content["reason"] == "stopped by Ada: too slow"
    assert "stop: stopped by Ada: too slow" in stopped.content["acts"]


def test_what_is_not_decided_is_recorded_every_ten_minutes(released: World) -> None:
    released.routing.count(10)
    assert not released.tick(300).events
    assert len(released.tick(301).events) == 2
    assert not released.tick(300).events


def test_missing_counts_of_a_replica_are_no_go(released: World) -> None:
    released.routing.count(20_000)
    released.routing.evidence_problem = "the store cannot be read"
    assert "the store cannot be read" in released.tick(61).summary
    assert released.state == (ReleaseState.RUNNING, 0)
    released.routing.count(500, failed=40)
    released.tick()
    assert released.state == (ReleaseState.STOPPED, 0), "what is there is enough to stop"


def test_a_lost_replica_keeps_the_pilot_from_going_on_and_not_from_a_stop(released: World) -> None:
    released.routing.count(20_000)
    released.routing.lost_replica = "the gateway at two does not answer"
    assert "the gateway at two does not answer" in released.tick(61).summary
    assert released.state == (ReleaseState.RUNNING, 0)
    released.routing.count(500, failed=40)
    released.tick()
    assert released.state == (ReleaseState.STOPPED, 0)
    released.load(3)
    result = released.tick()
    assert result.summary == "no release begins: the gateway at two does not answer"
    assert result.requests == []
    assert released.release.version == 2


def test_nothing_follows_from_what_a_replica_that_is_behind_says(released: World) -> None:
    known = released.routing.record
    released.routing.count(500, failed=40)
    released.tick()
    assert released.state == (ReleaseState.STOPPED, 0)
    said = released.tick()
    assert not said.alerts
    now = released.routing.record.generation
    released.routing.behind = known
    result = released.tick(601)
    assert f"generation {known.generation} instead of {now}" in result.summary
    assert (result.alerts, result.events, result.requests) == ([], [], [])


def test_release_that_another_change_ended_after_the_switch_says_so(released: World) -> None:
    release = released.release
    watched = ReleaseAct(WATCH, Verdict.STOP, release.since, "token:operator", "another change")
    for acts, place in (((), "stopped"), ((watched,), "stopped while it was watched")):
        ended = replace(release, state=ReleaseState.STOPPED, acts=acts)
        assert record.describe_place(ended).startswith(place)
        assert ("after the switch" in record.describe_place(ended)) is bool(acts)


def test_a_stop_that_is_not_written_yet_is_waited_for(released: World) -> None:
    released.routing.count(20_000)
    released.routing.stop_pending = True
    assert "a stop is in effect" in released.tick(61).summary
    assert released.routing.calls == ["begin"]


def test_a_release_that_changed_meanwhile_is_looked_at_again(
    released: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    released.routing.count(20_000)
    real = ReleasingGateway.advance_release

    def late(gateway: ReleasingGateway, model: str, request: Any) -> Any:
        gateway.stop_release(model, ReleaseDecision("a person was faster"))
        return real(gateway, model, request)

    monkeypatch.setattr(ReleasingGateway, "advance_release", late)
    result = released.tick(61)
    assert "looks again" in result.summary
    assert not result.events
    result = released.tick()
    assert "a person was faster" in "".join(result.alerts)
    assert released.state == (ReleaseState.STOPPED, 0)


def test_people_hear_of_a_stop_although_the_next_version_waits(released: World) -> None:
    released.gateway.stop_release(MODEL, ReleaseDecision("it fails"))
    released.load(3)
    result = released.tick()
    assert "the release of version 2 of *best_model* was stopped: it fails" in result.alerts[0]
    assert (released.release.version, released.state[0]) == (3, ReleaseState.RUNNING)


def test_another_refusal_changes_nothing_and_is_raised(
    released: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuses(*_: object) -> Any:
        raise GatewayRefused("the store is down", status=503, code="store_unavailable")

    released.routing.count(20_000)
    monkeypatch.setattr(ReleasingGateway, "advance_release", refuses)
    with pytest.raises(GatewayRefused, match="the store is down"):
        released.tick(61)
    assert released.state == (ReleaseState.RUNNING, 0)


def test_a_gateway_that_is_down_changes_nothing(released: World) -> None:
    released.routing.is_down = True
    with pytest.raises(GatewayUnavailable):
        released.tick()


# Outcomes


def test_outcomes_are_joined_once_a_minute_and_anew_after_the_switch(world: World) -> None:
    world.configure(guardrails={Guard.OUTCOME: 0.02})
    world.losses = PairedOutcomes(20, 20, 4_000)
    world.load(2)
    world.tick()
    for _ in range(6):
        world.tick(11)
    assert world.joins == 1
    world.tick(11)
    assert world.joins == 2
    world.routing.count(200)
    world.tick()
    world.routing.count(200)
    world.tick(61)
    assert world.state == (ReleaseState.CLEARED, 1)
    joined = world.joins
    world.routing.switch(2)
    world.losses = PairedOutcomes(300, 20, 1_700)
    world.tick()
    assert world.joins == joined + 1
    assert world.state == (ReleaseState.ROLLED_BACK, 1)


# The switch and after it


def test_a_switch_that_failed_is_launched_again_a_few_times(released: World) -> None:
    cleared(released)
    for number in range(MAX_RUNS):
        [request] = released.tick().requests
        assert request.run_key == f"{MODEL} release {released.release.id} {number}"
        run(released, request, dg.DagsterRunStatus.STARTED)
        assert not released.tick().requests
        [record] = released.instance.get_run_records(limit=1)
        released.instance.delete_run(record.dagster_run.run_id)
        run(released, request, dg.DagsterRunStatus.FAILURE)
    result = released.tick()
    assert not result.requests
    assert f"{MAX_RUNS} runs did not switch" in result.summary


def test_the_watch_completes_the_release_or_rolls_it_back(released: World) -> None:
    cleared(released)
    released.routing.switch(2)
    result = released.tick()
    assert released.state == (ReleaseState.WATCHING, 1)
    assert result.events, "the switch is recorded though others made it"
    released.routing.count(20)
    released.tick(1_700)
    assert released.state == (ReleaseState.WATCHING, 1)
    released.tick(101)
    assert released.state == (ReleaseState.COMPLETED, 1)
    assert "is in production" in released.tick().summary


def test_a_guard_that_breaks_after_the_switch_rolls_back_and_pins(released: World) -> None:
    cleared(released)
    released.routing.switch(2)
    released.routing.count(500, failed=40)
    result = released.tick()
    assert released.state == (ReleaseState.ROLLED_BACK, 1)
    assert released.routing.record.variants["A"] == slot(1, Mode.PINNED)
    assert "*best_model* was rolled back from version 2 to 1, and pinned there" in "".join(
        result.alerts
    )
    assert "failures 0.08" in "".join(result.alerts)
    assert "is pinned to version 1" in released.tick().summary


# People


def test_an_approval_is_waited_for_and_recorded_with_who_gave_it(world: World) -> None:
    world.configure(approval=Approval.BEFORE_SWITCH)
    world.load(2)
    world.tick()
    for requests in (20_000, 200):
        world.routing.count(requests)
        result = world.tick(61)
    assert world.state == (ReleaseState.WAITING, 1)
    assert "version 2 of *best_model* waits for an approval" in "".join(result.alerts)
    assert not world.tick(86_400 * 3).requests
    world.gateway.approve_release(MODEL, ReleaseDecision("approved by Ada: looks good"))
    result = world.tick()
    assert len(result.requests) == 1
    assert any("approved by Ada: looks good" in str(event) for event in result.events)


def test_without_its_memory_the_pilot_goes_on_from_the_record(released: World) -> None:
    released.routing.count(20_000)
    released.memory = PilotMemory()
    released.tick(61)
    assert released.state == (ReleaseState.RUNNING, 1)
    assert replace(released.memory, recorded_at=0.0).place == (
        released.release.id,
        "running",
        1,
    )


def test_the_picture_of_the_watch_begins_with_the_switch(
    released: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[int] = []

    def draw(points: Sequence[EvidencePoint], _margins: object) -> bytes:
        drawn.append(sum(bool(one.bounds) for one in points))
        return b"a picture"

    def tick(after: float) -> None:
        for event in released.tick(after).events:
            released.instance.report_runless_asset_event(event)

    monkeypatch.setattr(record, "evidence_picture", draw)
    for requests in (20_000, 200):
        released.routing.count(requests)
        tick(61)
    released.routing.switch(2)
    tick(1)
    released.routing.count(20)
    tick(1_801)
    assert released.state == (ReleaseState.COMPLETED, 1)
    assert drawn == [1, 2, 1]
