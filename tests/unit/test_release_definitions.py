"""What a model with releases has in Dagster: jobs, sensor, checks, the switch that refuses."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from uuid import uuid4

import dagster as dg
import pytest

from platform_assets import model_definitions
from platform_assets.ledger.resource import LedgerFolder
from platform_assets.model_spec import CHAIN, ModelSpec, ReleaseSpec, to_plan
from platform_assets.release.sensor import release_pilot_sensor
from platform_assets.resources.mlflow import MlflowResource
from platform_assets.resources.samples import SamplesFolder
from platform_assets.resources.webhook import WebhookError, WebhookResource
from platform_assets.serving.loads import newest_load
from platform_assets.serving.promotion import LOAD_ID
from platform_assets.serving.records import ServingState
from platform_assets.serving.release_gate import require_cleared_release
from platform_assets.shared_definitions import monitoring_definitions, resources
from serving_gateway.contract import (
    Approval,
    Guard,
    ReleaseAdvance,
    ReleaseDecision,
    ReleaseRequest,
    ReleaseState,
    RoutingRecord,
    Verdict,
)
from tests.support.models import IRIS
from tests.support.releasing_gateway import ROUTINGS, ReleasingGateway, Routing, slot

STEPS = ReleaseSpec(
    steps=("mirror",), guardrails={Guard.FAILURES: 0.005}, approval=Approval.BEFORE_SWITCH
)
MODEL = dataclasses.replace(IRIS, release=STEPS)
NAME = MODEL.model_name


@pytest.fixture
def gateway() -> ReleasingGateway:
    """Version 1 is in production."""
    return gateway_with(1)


def gateway_with(production: int | None) -> ReleasingGateway:
    name = uuid4().hex
    variants = {} if production is None else {"A": slot(production)}
    ROUTINGS[name] = Routing(RoutingRecord(NAME, generation=1, variants=variants))
    return ReleasingGateway(name=name)


def state(version: int) -> ServingState:
    return ServingState(
        model_name=NAME,
        version=version,
        run_id=f"run-{version}",
        ready=True,
        reason="",
        ready_versions=(1, version),
        load_id=f"load-{version}",
    )


def begin(gateway: ReleasingGateway, version: int = 2) -> None:
    gateway.begin_release(NAME, ReleaseRequest(version, f"run-{version}", to_plan(STEPS)))


def finish_steps(gateway: ReleasingGateway) -> None:
    """Bring the release before its approval."""
    release = gateway.routing.record.release
    assert release is not None
    advance = ReleaseAdvance(release.id, release.state, release.step, Verdict.GO, "enough")
    gateway.advance_release(NAME, advance)


def definitions_of(*specs: ModelSpec, watched: Sequence[ModelSpec] = ()) -> dg.Definitions:
    built = [model_definitions.build(spec) for spec in specs]
    return dg.Definitions.merge(*built, monitoring_definitions(watched or specs), resources())


def assets_of(spec: ModelSpec, job: str) -> set[str]:
    definitions = definitions_of(spec)
    found = definitions.resolve_job_def(f"{spec.model_name}_{job}").asset_layer
    return {key.path[-1] for key in found.selected_asset_keys}


# Definitions


def test_one_run_makes_what_comes_before_the_release_and_another_one_the_switch() -> None:
    switch = {"gateway_reload", "serving_proof"}
    for job in ("chain", "serving", "adoption"):
        assert assets_of(IRIS, job) >= switch
        assert assets_of(MODEL, job) == assets_of(IRIS, job) - switch
    assert assets_of(MODEL, "chain") == set(CHAIN) - switch
    assert assets_of(MODEL, "promotion") == switch


def test_only_models_with_releases_have_a_pilot_checks_and_decisions_of_people() -> None:
    plain = definitions_of(IRIS)
    names = {sensor.name for sensor in plain.sensors or ()}
    assert "release_pilot" not in names
    assert not {f"{NAME}_approve", f"{NAME}_promotion"} & {job.name for job in plain.jobs or ()}
    released = definitions_of(MODEL)
    dg.Definitions.validate_loadable(released)
    [pilot] = [one for one in released.sensors or () if one.name == "release_pilot"]
    assert isinstance(pilot, dg.SensorDefinition)
    assert pilot.default_status is dg.DefaultSensorStatus.RUNNING
    graph = released.resolve_asset_graph()
    assert dg.AssetCheckKey(dg.AssetKey([NAME, "release"]), "failures") in graph.asset_check_keys
    reload = graph.get(dg.AssetKey([NAME, "gateway_reload"]))
    assert reload.automation_condition is None


def test_a_model_whose_definitions_cannot_be_built_takes_no_pilot_down() -> None:
    """The promotion job of such a model has no assets."""
    broken = dataclasses.replace(MODEL, model_name="broken")
    dg.Definitions.validate_loadable(definitions_of(MODEL, watched=[MODEL, broken]))


# The sensor


def tick(
    instance: dg.DagsterInstance,
    gateway: ReleasingGateway,
    folder: Path,
    cursor: str | None = None,
    webhook: WebhookResource | None = None,
) -> Any:
    definitions = monitoring_definitions([MODEL])
    context = dg.build_sensor_context(
        instance=instance,
        cursor=cursor,
        resources={
            "gateway": gateway,
            "mlflow": MlflowResource(tracking_uri="http://127.0.0.1:9"),
            "samples": SamplesFolder(root=str(folder / "samples")),
            "ledger": LedgerFolder(root=str(folder / "ledger")),
            "webhook": webhook or WebhookResource(url=""),
        },
    )
    jobs = [job for job in definitions.jobs or () if job.name == f"{NAME}_promotion"]
    return release_pilot_sensor([MODEL], jobs)(context)


def test_the_sensor_says_what_each_release_does_and_reports_it(
    instance: dg.DagsterInstance, gateway: ReleasingGateway, tmp_path: Path
) -> None:
    begin(gateway)
    result = tick(instance, gateway, tmp_path)
    assert "version 2, step 1 of 1, all requests mirrored" in result.skip_reason.skip_message
    assert [type(event).__name__ for event in result.asset_events] == ["AssetMaterialization"]
    again = tick(instance, gateway, tmp_path, result.cursor)
    assert not again.asset_events


def test_a_gateway_that_is_down_is_named_and_the_memory_kept(
    instance: dg.DagsterInstance, gateway: ReleasingGateway, tmp_path: Path
) -> None:
    begin(gateway)
    first = tick(instance, gateway, tmp_path)
    gateway.routing.is_down = True
    result = tick(instance, gateway, tmp_path, first.cursor)
    assert "nothing was changed: no gateway answers" in result.skip_reason.skip_message
    assert result.cursor == first.cursor


class Webhook(WebhookResource):
    """Keeps what is posted, unless it is away."""

    url: str = "http://127.0.0.1:9"

    def post(self, text: str) -> None:
        if AWAY:
            raise WebhookError("the webhook did not answer")
        POSTED.append(text)


POSTED: list[str] = []
AWAY: list[bool] = []


def test_people_hear_of_an_approval_once_the_webhook_answers(
    instance: dg.DagsterInstance, gateway: ReleasingGateway, tmp_path: Path
) -> None:
    POSTED.clear()
    AWAY.append(True)
    begin(gateway)
    finish_steps(gateway)
    result = tick(instance, gateway, tmp_path, webhook=Webhook())
    assert POSTED == []
    AWAY.clear()
    for _ in range(2):
        result = tick(instance, gateway, tmp_path, result.cursor, webhook=Webhook())
    [text] = POSTED
    assert "version 2 of *best_model* waits for an approval" in text


def test_messages_wait_for_the_webhook_in_their_order(
    instance: dg.DagsterInstance, gateway: ReleasingGateway, tmp_path: Path
) -> None:
    POSTED.clear()
    AWAY.append(True)
    begin(gateway)
    finish_steps(gateway)
    result = tick(instance, gateway, tmp_path, webhook=Webhook())
    gateway.stop_release(NAME, ReleaseDecision("not this one"))
    result = tick(instance, gateway, tmp_path, result.cursor, webhook=Webhook())
    AWAY.clear()
    tick(instance, gateway, tmp_path, result.cursor, webhook=Webhook())
    assert ["waits" in text for text in POSTED] == [True, False]
    assert "not this one" in POSTED[1]


# People


def decide(
    instance: dg.DagsterInstance, gateway: ReleasingGateway, job: str, **config: str
) -> dg.ExecuteInProcessResult:
    definitions = dg.Definitions.merge(
        model_definitions.build(MODEL), dg.Definitions(resources={"gateway": gateway})
    )
    [found] = [one for one in definitions.jobs or () if one.name == f"{NAME}_{job}"]
    assert isinstance(found, dg.JobDefinition)
    [node] = found.graph.node_defs
    return found.execute_in_process(
        instance=instance,
        resources={"gateway": gateway},
        run_config={"ops": {node.name: {"config": config}}},
        raise_on_error=False,
    )


@pytest.mark.parametrize(
    ("job", "state", "said"),
    [
        ("approve", ReleaseState.CLEARED, "approved by Ada: looks good"),
        ("stop_release", ReleaseState.STOPPED, "stopped by Ada: looks good"),
    ],
)
def test_a_person_decides_with_name_and_reason(
    instance: dg.DagsterInstance,
    gateway: ReleasingGateway,
    job: str,
    state: ReleaseState,
    said: str,
) -> None:
    begin(gateway)
    finish_steps(gateway)
    assert not decide(instance, gateway, job, name=" ", reason="looks good").success
    assert gateway.routing.calls == ["begin", "advance go"]
    assert decide(instance, gateway, job, name="Ada", reason="looks good").success
    release = gateway.routing.record.release
    assert release is not None
    assert release.state is state
    assert release.acts[-1].reason == said


def test_a_decision_on_another_release_is_refused(
    instance: dg.DagsterInstance, gateway: ReleasingGateway
) -> None:
    begin(gateway)
    finish_steps(gateway)
    old = decide(instance, gateway, "approve", name="Ada", reason="fine", release_id="older")
    assert not old.success
    assert gateway.routing.record.release is not None
    assert gateway.routing.record.release.state is ReleaseState.WAITING


# The switch


def test_the_switch_refuses_until_the_release_has_reached_go(
    instance: dg.DagsterInstance, gateway: ReleasingGateway
) -> None:
    with pytest.raises(dg.Failure, match="has releases, and there was none yet"):
        require_cleared_release(MODEL, state(2), gateway, instance)
    begin(gateway)
    with pytest.raises(dg.Failure, match="that of version 2 is running, in step 1 of 1"):
        require_cleared_release(MODEL, state(2), gateway, instance)
    finish_steps(gateway)
    with pytest.raises(dg.Failure, match="that of version 2 is waiting"):
        require_cleared_release(MODEL, state(2), gateway, instance)
    assert decide(instance, gateway, "approve", name="Ada", reason="fine").success
    assert require_cleared_release(MODEL, state(2), gateway, instance) == state(2)


def test_the_switch_refuses_when_the_gateway_cannot_be_asked(
    instance: dg.DagsterInstance, gateway: ReleasingGateway
) -> None:
    gateway.routing.is_down = True
    with pytest.raises(dg.Failure, match="cannot be asked whether the release of version 2"):
        require_cleared_release(MODEL, state(2), gateway, instance)


def test_the_switch_goes_to_the_released_version_not_to_a_newer_load(
    instance: dg.DagsterInstance, gateway: ReleasingGateway
) -> None:
    begin(gateway)
    finish_steps(gateway)
    assert decide(instance, gateway, "approve", name="Ada", reason="fine").success
    with pytest.raises(dg.Failure, match="no record of its load"):
        require_cleared_release(MODEL, state(3), gateway, instance)
    for version in (2, 3):
        record_load(instance, version)
    found = require_cleared_release(MODEL, state(3), gateway, instance)
    assert (found.version, found.run_id, found.load_id) == (2, "run-2", "load-2")
    newest = newest_load(instance, MODEL)
    assert newest is not None
    assert newest.state.version == 3


def record_load(instance: dg.DagsterInstance, version: int) -> None:
    instance.report_runless_asset_event(
        dg.AssetMaterialization(
            dg.AssetKey(MODEL.key("triton_serving_state")),
            metadata={
                "version": version,
                "state": "READY",
                "run_id": f"run-{version}",
                LOAD_ID: f"load-{version}",
            },
        )
    )


@pytest.mark.parametrize("production", [None, 2])
def test_a_first_version_and_a_confirmation_need_no_release(
    instance: dg.DagsterInstance, production: int | None
) -> None:
    assert require_cleared_release(MODEL, state(2), gateway_with(production), instance) == state(2)


def test_without_releases_nothing_is_asked(
    instance: dg.DagsterInstance, gateway: ReleasingGateway
) -> None:
    gateway.routing.is_down = True
    assert require_cleared_release(IRIS, state(2), gateway, instance) == state(2)
