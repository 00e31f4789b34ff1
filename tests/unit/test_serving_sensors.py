"""What the watching sensors start and write down, and when they do not."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import dagster as dg
import msgspec
import pytest
from msgspec.structs import replace
from pydantic import Field

from platform_assets.ledger.resource import LedgerFolder
from platform_assets.model_spec import ModelSpec
from platform_assets.monitoring.assets import production_version
from platform_assets.resources.gateway import GatewayResource, GatewayUnavailable
from platform_assets.resources.mlflow import MlflowResource, MlflowUnavailable
from platform_assets.resources.model_repository import ModelRepository
from platform_assets.resources.triton import TritonResource
from platform_assets.run_tags import MODEL_TAG
from platform_assets.serving.ledger import MANUAL, PROMOTION, ROLLBACK, read_ledger, switch_reason
from platform_assets.serving.reconcile import reconcile_job
from platform_assets.serving.sensors import production_watch_sensor, serving_drift_sensor
from platform_assets.serving.turns import CHANGE, LEASE
from serving_gateway.contract import (
    Mode,
    ModelStatus,
    Release,
    ReleasePlan,
    ReleaseState,
    Strategy,
    Switch,
    Traffic,
)
from tests.support.model_status import effective_version, model_status
from tests.support.models import IRIS
from tests.support.servers import free_port

OPERATOR = "token:operator"
BY_RUN = switch_reason(PROMOTION, dg.DagsterRun(job_name="any").run_id)
ALIAS = dg.AssetCheckKey(dg.AssetKey(IRIS.key("gateway_reload")), "registry_alias")


class Gateway(GatewayResource):
    """A gateway whose answers the test writes."""

    urls: str = "http://127.0.0.1:9"
    control_token: str = "none"
    bodies: list[Any] = Field(default_factory=list)
    down: bool = False

    def model_statuses(self, model_name: str) -> list[ModelStatus]:
        if self.down:
            raise GatewayUnavailable("no gateway answers")
        return msgspec.convert(self.bodies, list[ModelStatus])


def answering(*statuses: ModelStatus) -> Gateway:
    """A gateway with one replica for each status."""
    return Gateway(bodies=msgspec.to_builtins(statuses))


class Registry(MlflowResource):
    """An MLflow that knows one alias."""

    tracking_uri: str = "http://127.0.0.1:9"
    alias: int = 0

    def alias_version(self, model_name: str, alias: str) -> int | None:
        return self.alias or None


def status(
    version: int, generation: int, reason: str = "because", *, by: str = OPERATOR
) -> ModelStatus:
    """Status after the first switch, at this generation."""
    first = Switch(
        generation=generation,
        version=version,
        run_id=f"run-{version}",
        mode=Mode.PINNED,
        previous_version=None,
        after=0,
        at=at(generation),
        by=by,
        reason=reason,
    )
    found = model_status({"A": effective_version(version, mode="pinned")}, generation=generation)
    return routed(found, switches={"A": (first,)})


def at(generation: int) -> str:
    return f"2026-01-02T03:04:{generation:02}.000Z"


def switched(
    *versions: int, first: int = 1, after: int = 0, last: str | None = None
) -> ModelStatus:
    """Status after switches to these versions, oldest first; `last` is the reason of the last."""
    switches: list[Switch] = []
    before = None
    for generation, version in enumerate(versions, first):
        switches.insert(
            0,
            Switch(
                generation=generation,
                version=version,
                run_id=f"run-{version}",
                mode=Mode.PINNED,
                previous_version=before,
                after=after,
                at=at(generation),
                by=OPERATOR,
                reason=f"reason {generation}",
            ),
        )
        before, after = version, generation
    switches[0] = replace(switches[0], reason=last or switches[0].reason)
    newest = status(versions[-1], first + len(versions) - 1)
    return routed(newest, switches={"A": tuple(switches)})


def routed(status: ModelStatus, **changes: Any) -> ModelStatus:
    """The status with another routing."""
    return replace(status, routing=replace(status.routing, **changes))


def watch(
    instance: dg.DagsterInstance,
    cursor: str | None = None,
    specs: Sequence[ModelSpec] = (IRIS,),
    **resources: Any,
) -> Any:
    context = dg.build_sensor_context(
        instance=instance,
        cursor=cursor,
        resources={
            "gateway": answering(status(3, 7)),
            "mlflow": Registry(alias=3),
            "model_repository": ModelRepository(root="/nowhere"),
            "ledger": LedgerFolder(),
            **resources,
        },
    )
    return production_watch_sensor(specs)(context)


def test_a_manual_switch_is_entered_once(instance: dg.DagsterInstance) -> None:
    watch(instance)
    watch(instance)
    [entry] = read_ledger(instance, IRIS)
    assert (entry.version, entry.generation, entry.action) == (3, 7, MANUAL)
    assert (entry.by, entry.reason) == (OPERATOR, "because")


def test_a_switch_whose_run_died_before_reporting_is_entered_as_that_run_s(
    instance: dg.DagsterInstance,
) -> None:
    run = dg.DagsterRun(job_name="any", status=dg.DagsterRunStatus.FAILURE)
    reason = switch_reason(PROMOTION, run.run_id)
    # Anybody can write such words: the run must be known.
    watch(instance, gateway=answering(status(3, 7, reason)))
    instance.add_run(run)
    watch(instance, gateway=answering(status(4, 8, reason)))
    newest, before = read_ledger(instance, IRIS)
    assert (newest.action, newest.by, newest.previous_version) == (PROMOTION, run.run_id, 3)
    assert (before.action, before.by) == (MANUAL, OPERATOR)


def test_the_rollback_that_a_release_ended_with_is_entered_as_its_rollback(
    instance: dg.DagsterInstance,
) -> None:
    reason, at = "beyond its margin: failures 0.08", "2026-01-02T03:04:05Z"
    plan = ReleasePlan(steps=(Traffic(Strategy.MIRROR, 100),))
    state = ReleaseState.ROLLED_BACK
    ended = Release("r7", 4, "run-4", 3, plan, state, 0, at, at, OPERATOR, reason=reason)
    watch(instance, gateway=answering(routed(status(3, 7, reason), release=ended)))
    watch(instance, gateway=answering(routed(status(5, 8, "another"), release=ended)))
    manual, rollback = read_ledger(instance, IRIS)
    assert (rollback.action, rollback.by, rollback.reason) == (ROLLBACK, "release r7", reason)
    assert manual.action == MANUAL


def test_switch_without_a_credential_is_recorded_as_by_unknown(
    instance: dg.DagsterInstance,
) -> None:
    watch(instance, gateway=answering(status(3, 7, by="")))
    [entry] = read_ledger(instance, IRIS)
    assert (entry.action, entry.by) == (MANUAL, "unknown")


def test_a_change_of_traffic_is_not_a_switch(instance: dg.DagsterInstance) -> None:
    watch(instance)
    watch(instance, gateway=answering(routed(status(3, 7), generation=8)))
    assert len(read_ledger(instance, IRIS)) == 1


def ledger_entries(instance: dg.DagsterInstance) -> list[tuple[int, int, int | None, str]]:
    """What the ledger says, oldest first; each as often as it was entered."""
    key = dg.AssetKey(IRIS.key("gateway_reload"))
    entries = read_ledger(instance, IRIS)
    assert len(entries) == len(instance.fetch_materializations(key, limit=1000).records)
    return [(e.generation, e.version, e.previous_version, e.missing) for e in reversed(entries)]


def test_switches_between_two_looks_are_all_entered_in_order_and_once(
    instance: dg.DagsterInstance,
) -> None:
    watch(instance, gateway=answering(switched(1)))
    after = answering(switched(1, 2, 1))
    said = watch(instance, gateway=after)
    assert ledger_entries(instance) == [(1, 1, None, ""), (2, 2, 1, ""), (3, 1, 2, "")]
    assert "version 2, generation 2, entered" in str(said.skip_reason.skip_message)
    stay = read_ledger(instance, IRIS)[1]
    assert (stay.at, stay.by, stay.reason) == ("2026-01-02T03:04:02+00:00", OPERATOR, "reason 2")
    watch(instance, gateway=after)
    assert len(ledger_entries(instance)) == 3


def test_a_look_that_died_halfway_is_finished_by_the_next_one(
    instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    gateway = answering(switched(1, 2, 3, 1))
    enter = instance.report_runless_asset_event

    def once(event: Any) -> None:
        enter(event)
        monkeypatch.setattr(instance, "report_runless_asset_event", dies)

    def dies(event: Any) -> None:
        raise OSError("the database is gone")

    monkeypatch.setattr(instance, "report_runless_asset_event", once)
    with pytest.raises(OSError, match="the database is gone"):
        watch(instance, gateway=gateway)
    assert ledger_entries(instance) == [(1, 1, None, "")]
    monkeypatch.undo()
    watch(instance, gateway=gateway)
    assert [entry[:2] for entry in ledger_entries(instance)] == [(1, 1), (2, 2), (3, 3), (4, 1)]


def test_manual_switches_before_one_that_a_run_reported_are_entered_too(
    instance: dg.DagsterInstance,
) -> None:
    metadata: dict[str, Any] = {
        "version": 3,
        "previous_version": 1,
        "generation": 4,
        "reason": BY_RUN,
    }
    key = dg.AssetKey(IRIS.key("gateway_reload"))
    instance.report_runless_asset_event(dg.AssetMaterialization(key, metadata=metadata))
    watch(instance, gateway=answering(switched(1, 2, 1, 3, last=BY_RUN)))
    assert [entry[:2] for entry in ledger_entries(instance)] == [(1, 1), (2, 2), (3, 1), (4, 3)]
    assert production_version(instance, IRIS) == 3, "which is not what was entered last"


def test_a_late_entry_by_a_clock_that_is_ahead_stands_where_it_belongs(
    instance: dg.DagsterInstance,
) -> None:
    key = dg.AssetKey(IRIS.key("gateway_reload"))
    metadata: dict[str, Any] = {
        "version": 1,
        "previous_version": 2,
        "generation": 3,
        "reason": BY_RUN,
    }
    instance.report_runless_asset_event(dg.AssetMaterialization(key, metadata=metadata))
    ahead = switched(1, 2, 1, last=BY_RUN)
    switches = tuple(
        replace(one, at=(datetime.now(UTC) + timedelta(seconds=3 - number)).isoformat())
        for number, one in enumerate(ahead.routing.switches["A"])
    )
    watch(instance, gateway=answering(routed(ahead, switches={"A": switches})))
    assert [entry[:2] for entry in ledger_entries(instance)] == [(1, 1), (2, 2), (3, 1)]


def test_a_confirmation_after_a_change_of_traffic_is_not_a_switch(
    instance: dg.DagsterInstance,
) -> None:
    watch(instance, gateway=answering(switched(1)))
    key = dg.AssetKey(IRIS.key("gateway_reload"))
    confirmed = {"version": 2, "previous_version": 2, "generation": 3, "changed": False}
    instance.report_runless_asset_event(dg.AssetMaterialization(key, metadata=confirmed))
    after_traffic = routed(switched(1, 2), generation=3)
    watch(instance, gateway=answering(after_traffic))
    entries = [(entry.generation, entry.version) for entry in read_ledger(instance, IRIS)]
    assert entries == [(2, 2), (1, 1)]


def test_an_entry_says_when_switches_before_it_may_be_missing(instance: dg.DagsterInstance) -> None:
    watch(instance, gateway=answering(switched(1)))
    watch(instance, gateway=answering(switched(2, 1, first=40, after=38)))
    first, short, last = ledger_entries(instance)
    assert (first[3], last) == ("", (41, 1, 2, ""))
    assert "after generation 1 and before generation 40 may be missing" in short[3]
    record = instance.fetch_materializations(
        dg.AssetKey(IRIS.key("gateway_reload")), limit=2
    ).records[1]
    made = record.asset_materialization
    assert made is not None
    assert "may be missing" in str(made.description)


def test_a_switch_is_looked_for_far_back_before_it_is_entered_again(
    instance: dg.DagsterInstance,
) -> None:
    watch(instance, gateway=answering(switched(1)))
    key = dg.AssetKey(IRIS.key("gateway_reload"))
    for _ in range(60):
        again = dg.AssetMaterialization(
            key, metadata={"version": 2, "generation": 2, "reason": BY_RUN}
        )
        instance.report_runless_asset_event(again)
    watch(instance, gateway=answering(switched(1, 2, last=BY_RUN)))
    assert len(instance.fetch_materializations(key, limit=1000).records) == 61


def test_switch_as_it_was_before_the_gateways_lost_their_state_is_entered_again(
    instance: dg.DagsterInstance,
) -> None:
    watch(instance, gateway=answering(switched(1, 2)))
    lost = switched(1)
    [anew] = lost.routing.switches["A"]
    again = replace(anew, at="2026-02-03T04:05:06.789Z")
    for _ in range(2):
        watch(instance, gateway=answering(routed(lost, switches={"A": (again,)})))
        assert [entry[:2] for entry in ledger_entries(instance)] == [(1, 1), (2, 2), (1, 1)]


@pytest.mark.parametrize("turn", [CHANGE, LEASE])
def test_the_ledger_waits_while_a_run_may_be_switching(
    instance: dg.DagsterInstance, turn: str
) -> None:
    under_way(instance, turn)
    watch(instance)
    assert read_ledger(instance, IRIS) == []


def verdict(instance: dg.DagsterInstance) -> bool | None:
    record = instance.get_latest_asset_check_evaluation_record(ALIAS)
    if record is None or record.event is None:
        return None
    evaluation = record.event.asset_check_evaluation
    return None if evaluation is None else evaluation.passed


def test_an_alias_that_was_moved_manually_fails_its_check_and_is_reported_once(
    instance: dg.DagsterInstance,
) -> None:
    first = watch(instance)
    assert verdict(instance) is True
    moved = watch(instance, first.cursor, mlflow=Registry(alias=2))
    assert verdict(instance) is False
    again = watch(instance, moved.cursor, mlflow=Registry(alias=2))
    assert again.skip_reason.skip_message == "nothing new"
    records = instance.event_log_storage.get_asset_check_execution_history(ALIAS, limit=10)
    assert len(records) == 2


def test_a_server_that_is_away_is_asked_once_for_all_models(instance: dg.DagsterInstance) -> None:
    asked: list[str] = []

    class Away(Registry):
        def alias_version(self, model_name: str, alias: str) -> int | None:
            asked.append(model_name)
            raise MlflowUnavailable("MLflow does not answer")

    class Nowhere(Gateway):
        def model_statuses(self, model_name: str) -> list[ModelStatus]:
            asked.append(model_name)
            raise GatewayUnavailable("no gateway answers")

    models = [dataclasses.replace(IRIS, model_name=f"model_{number}") for number in range(3)]
    result = watch(instance, specs=models, mlflow=Away())
    assert asked == ["model_0"]
    assert "MLflow does not answer" in str(result.skip_reason.skip_message)
    assert all(read_ledger(instance, model) for model in models)
    asked.clear()
    watch(instance, specs=models, gateway=Nowhere())
    assert asked == ["model_0"]


def test_a_gateway_that_is_down_is_named_and_nothing_is_written(
    instance: dg.DagsterInstance,
) -> None:
    result = watch(instance, gateway=Gateway(down=True))
    assert "no gateway answers" in str(result.skip_reason.skip_message)
    assert read_ledger(instance, IRIS) == []


def test_a_model_that_was_never_switched_to_is_left_alone(instance: dg.DagsterInstance) -> None:
    watch(instance, gateway=answering())
    assert read_ledger(instance, IRIS) == []
    assert verdict(instance) is None


def under_way(instance: dg.DagsterInstance, turn: str = "", **fields: Any) -> None:
    """Add a run under way, which has a turn of the model."""
    run = dg.DagsterRun(job_name="any", status=dg.DagsterRunStatus.STARTED, **fields)
    instance.add_run(run)
    if turn:
        instance.add_run_tags(run.run_id, {turn: f"{run.run_id} {IRIS.model_name}"})


def own_training(instance: dg.DagsterInstance) -> None:
    under_way(instance, tags={MODEL_TAG: IRIS.model_name})


@pytest.mark.parametrize("other", [under_way, own_training])
def test_a_run_that_changes_nothing_served_is_in_no_sensors_way(
    instance: dg.DagsterInstance, tmp_path: Path, other: Callable[[dg.DagsterInstance], None]
) -> None:
    """Such as the job of another team, and a training of hours."""
    other(instance)
    assert "under way" not in str(looked(instance, tmp_path)[0])
    watch(instance)
    assert len(read_ledger(instance, IRIS)) == 1


def looked(
    instance: dg.DagsterInstance,
    repository: Path,
    nobody: TritonResource | None = None,
    specs: Sequence[ModelSpec] = (IRIS,),
    gateway: Gateway | None = None,
) -> list[Any]:
    nobody = nobody or TritonResource(url=f"http://127.0.0.1:{free_port()}", control_key="k")
    context = dg.build_sensor_context(
        instance=instance,
        resources={
            "triton": nobody,
            "model_repository": ModelRepository(root=str(repository)),
            "gateway": gateway or answering(status(3, 7)),
        },
    )
    sensor = serving_drift_sensor(specs, [reconcile_job(spec) for spec in specs])
    assert sensor.default_status is dg.DefaultSensorStatus.RUNNING
    data = sensor.evaluate_tick(context)
    return [data.skip_message, data.run_requests]


def test_drift_is_not_judged_while_a_run_changes_what_is_served(
    instance: dg.DagsterInstance, tmp_path: Path
) -> None:
    under_way(instance, CHANGE)
    assert "is changing" in looked(instance, tmp_path)[0]


def test_a_triton_that_is_down_is_the_supervisor_s_matter(
    instance: dg.DagsterInstance, tmp_path: Path
) -> None:
    model = tmp_path / "best_model"
    model.mkdir()
    (model / "config.pbtxt").write_text("version_policy { specific { versions: 1 } }")
    assert "cannot be asked" in looked(instance, tmp_path)[0]


def test_before_the_first_version_there_is_no_drift(
    instance: dg.DagsterInstance, tmp_path: Path
) -> None:
    assert looked(instance, tmp_path)[1] == []


@pytest.mark.parametrize("unreadable", [b"{ not a configuration", b"\xff"])
def test_a_model_whose_state_cannot_be_read_keeps_no_other_from_its_reconciliation(
    instance: dg.DagsterInstance, tmp_path: Path, unreadable: bytes
) -> None:
    class Forgetful(TritonResource):
        """A server that answers for every model that it has none of its versions READY."""

        def everywhere(self, ask: Any) -> list[Any]:
            return [ask(SimpleNamespace(ready_versions=lambda _name: ()))]

    cars = dataclasses.replace(IRIS, model_name="cars")
    for name, config in (
        ("cars", unreadable),
        ("best_model", b"version_policy { specific { versions: 1 } }"),
    ):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.pbtxt").write_bytes(config)
    triton = Forgetful(url="http://127.0.0.1:9", control_key="k")
    [request] = looked(instance, tmp_path, triton, [cars, IRIS])[1]
    assert request.job_name == "best_model_reconcile"


def test_version_that_a_gateway_routes_to_is_no_drift(
    instance: dg.DagsterInstance, tmp_path: Path
) -> None:
    class Full(TritonResource):
        """A server that has more versions READY than were verified."""

        def everywhere(self, ask: Any) -> list[Any]:
            return [ask(SimpleNamespace(ready_versions=lambda _name: (1, 3)))]

    (tmp_path / "best_model").mkdir()
    config = "version_policy { specific { versions: 1 } }"
    (tmp_path / "best_model" / "config.pbtxt").write_text(config)
    triton = Full(url="http://127.0.0.1:9", control_key="k")
    for version, drifts in ((3, False), (1, True)):
        gateway = answering(status(version, 7))
        requests = looked(instance, tmp_path, triton, gateway=gateway)[1]
        assert bool(requests) is drifts
    gateway = Gateway(down=True)
    assert looked(instance, tmp_path, triton, gateway=gateway)[1] == []
