"""Every sensor and every schedule, seen to fire in a running daemon, and after it was down.

Two small models share one stack: what happens to one runs beside what happens to the other.
`quick` trains on new data, drifts, is switched by hand and by Dagster itself; `timed` trains by
the clock and takes in what another team registered. `serving_drift` is in `test_laptop`.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import dagster as dg
import httpx
import numpy as np
import pytest

from platform_assets.intervals import SENSOR_SECONDS
from platform_assets.local_stack.settings import ROOT, stack_settings
from platform_assets.local_stack.stack import Stack
from platform_assets.maintenance.job import SCHEDULE_VARIABLE
from platform_assets.monitoring.automation import REPORT_TAG
from platform_assets.resources.mlflow import PRODUCTION_ALIAS
from platform_assets.resources.webhook import URL_VARIABLE
from platform_assets.serving.ledger import MANUAL, read_ledger
from platform_assets.serving.promotion import GATES
from tests.faults.daemon_drill import DOWN, Drill, Place
from tests.faults.scale import report, scale
from tests.support.load import SteadyClient
from tests.support.machine import Machine, Receiver, selector, wait_for
from tests.support.servers import free_port
from tests.support.third_party import malicious_pickle, register_files, third_party_graph

pytestmark = pytest.mark.timeout(1800)

FILE = """
type: platform_assets.components.TabularModel
attributes:
  source: {file: rows.csv}
  join_key: {row_number: row}
  features: {x: number, y: number}
  target: {column: outcome, type: integer}
  task: binary
  candidates: [logistic_regression]
  evaluation: {folds: 2}
  # Dagster does not switch by itself after a warning: 70 rows must prove that nothing is lost.
  gates: {metric_floor: 0.6, latency_ms: 2000, regression_tolerance: 0.2}
  automation: AUTOMATION
"""
AUTOMATION = {
    "quick": '{on_new_data: true, on_drift: true, drift_schedule: "* * * * *"}',
    "timed": '{schedule: "* * * * *"}',
}
DRIFT_SENSOR = "quick__drift_sensor"
AUTOMATION_SENSOR = "default_automation_condition_sensor"
SEEN_TO_FIRE = {
    "quick_new_data",
    "quick__drift_schedule",
    DRIFT_SENSOR,
    "timed_retraining",
    "timed_registry",
    "run_failure",
    "check_warnings",
    "production_watch",
    AUTOMATION_SENSOR,
    "serving_drift",
    "maintenance_schedule",
    "quick_quality_schedule",
    "release_pilot",
}
SAME_AS_ANOTHER = {"timed_new_data", "quick_registry", "timed_quality_schedule"}
SHIPPED = ("best_model_", "cars_", "fraud_", "seattle_weather_")


def write_model(folder: Path, automation: str, seed: int) -> None:
    folder.mkdir(parents=True)
    rng = np.random.default_rng(seed)
    rows = rng.normal(0, 1, (300, 2)).astype("float32")
    outcome = (rows.sum(1) + rng.normal(0, 0.3, 300) > 0).astype(int)
    lines = [f"{x},{y},{label}" for (x, y), label in zip(rows, outcome, strict=True)]
    (folder / "rows.csv").write_text("\n".join(["x,y,outcome", *lines, ""]))
    (folder / "defs.yaml").write_text(FILE.replace("AUTOMATION", automation))


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    home = tmp_path_factory.mktemp("fires")
    for seed, (name, automation) in enumerate(AUTOMATION.items()):
        write_model(home / "models" / name, automation, seed)
    receiver = Receiver()
    ports = ("DAGSTER", "MLFLOW", "GATEWAY", "TRITON_HTTP", "TRITON_GRPC", "TRITON_METRICS")
    environ = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "STATE_DIR": str(home / "state"),
        "MODELS_DIR": str(home / "models"),
        SENSOR_SECONDS: "10",
        SCHEDULE_VARIABLE: "* * * * *",
        URL_VARIABLE: receiver.url,
        "GATEWAY_SAMPLE_FRACTION": "1",
        "GATEWAY_SAMPLE_SECONDS": "1",
        **{f"{name}_PORT": str(free_port()) for name in ports},
    }
    settings = stack_settings(environ)
    stack = Stack(settings, environ)
    stack.start(lambda _name, _doing: None)
    try:
        with (
            # A kept connection that its server closes just now would fail a call.
            httpx.Client(
                trust_env=False, timeout=180, limits=httpx.Limits(max_keepalive_connections=0)
            ) as client,
            dg.DagsterInstance.from_config(str(settings.dagster_home)) as instance,
        ):
            token = (settings.state_dir / "secrets" / "gateway-control-token").read_text()
            made = Machine(settings, home / "models", receiver, instance, token, client, stack)
            # All that waits for a minute waits for the same one.
            made.start_schedule("timed_retraining")
            made.once |= {"timed_retraining", "maintenance_schedule"}
            beside = threading.Thread(target=made.beside)
            beside.start()
            try:
                yield made
            finally:
                made.over.set()
                beside.join(90)
    finally:
        stack.stop()
        receiver.server.shutdown()
        receiver.server.server_close()


def test_the_maintenance_runs_from_the_start(machine: Machine) -> None:
    assert machine.ended(dagster__schedule_name="maintenance_schedule").is_success


def test_new_data_takes_a_model_to_production(machine: Machine) -> None:
    assert machine.ended(dagster__sensor_name="quick_new_data").is_success
    assert machine.production("quick") is not None
    # Left to the training on drift, which without it would give the same again.
    machine.stop_sensor("quick_new_data")
    with (machine.models / "quick" / "rows.csv").open("a") as file:
        file.write("0.5,0.25,1\n")


def test_drift_is_noticed_reported_and_trained_on(machine: Machine) -> None:
    """A report of before the strangers came does not warn: it is the newest that counts."""
    [first] = machine.runs(dagster__sensor_name="quick_new_data")
    wait_for(lambda: machine.runs(dagster__sensor_name=DRIFT_SENSOR), "the drift sensor")
    machine.drifted.set()
    machine.once.add("quick__drift_schedule")
    assert machine.ended(dagster__schedule_name="quick__drift_schedule").is_success
    notified = machine.notified("*quick_drift* went through, but checks warn", "Check `drift`")
    wait_for(notified, "check_warnings to tell of it")
    assert machine.ended(dagster__sensor_name=DRIFT_SENSOR).is_success
    machine.settled("quick")
    # One report starts one run, and unchanged data none: of these, only the first report that
    # warned after the rows had changed.
    reports = [run.tags[REPORT_TAG] for run in machine.runs(dagster__sensor_name=DRIFT_SENSOR)]
    assert len(set(reports)) == len(reports)
    # Nor is anything new in rows that the training on drift has learned from.
    machine.start_sensor("quick_new_data")
    machine.next_look("quick_new_data")
    assert machine.runs(dagster__sensor_name="quick_new_data") == [first]


def test_the_clock_takes_a_model_to_production(machine: Machine) -> None:
    assert machine.ended(dagster__schedule_name="timed_retraining").is_success
    assert machine.settled("timed")


def test_a_hostile_third_party_version_is_refused_and_reported(
    machine: Machine, tmp_path: Path
) -> None:
    before = machine.production("timed")
    files = {"model.pkl": malicious_pickle(tmp_path / "trace"), "MLmodel": b"flavors: {}"}
    version = register_files(machine.settings.mlflow_url, "timed", files)
    machine.start_sensor("timed_registry")
    assert machine.ended(dagster__run_key=f"version {version}").is_failure
    assert not (tmp_path / "trace").exists()
    assert machine.production("timed") == before
    notified = machine.notified(
        "*timed_adoption* failed", f"ersion {version} was not taken", "/runs/"
    )
    wait_for(notified, "run_failure to tell of it")


def test_a_third_party_version_reaches_production(machine: Machine) -> None:
    # From here on it looks also beside a run that switches, where it has nothing to do.
    machine.start_sensor(AUTOMATION_SENSOR)
    graph = third_party_graph(machine.spec("timed"), machine.models / "timed" / "rows.csv")
    version = register_files(machine.settings.mlflow_url, "timed", {"model.onnx": graph})
    run = machine.ended(dagster__run_key=f"version {version}")
    assert run.is_success
    assert run.tags["dagster/sensor_name"] == "timed_registry"
    assert machine.production("timed") == version


def test_a_manual_move_is_recorded(machine: Machine) -> None:
    page = machine.call("GET", "quick", "")
    [other] = set(page["ssot"]["served_versions"]) - {page["effective"]["A"]["version"]}
    body = {"version": other, "mode": "ssot", "reason": "because"}
    machine.call("POST", "quick", "/variant/A/reload", json=body)
    served = machine.production("timed")
    machine.mlflow.set_alias("timed", PRODUCTION_ALIAS, 1)

    def entered() -> bool:
        newest = read_ledger(machine.dagster, machine.spec("quick"))[0]
        return (newest.version, newest.action, newest.reason) == (other, MANUAL, "because")

    wait_for(entered, "the ledger's entry")
    wait_for(lambda: alias_agrees(machine, "timed") is False, "registry_alias to fail")
    assert machine.production("timed") == served


def test_dagster_switches_by_itself_once_every_gate_has_passed(machine: Machine) -> None:
    before = machine.production("quick")
    state = ["quick", "triton_serving_state"]
    machine.start_sensor(AUTOMATION_SENSOR)
    # One look must not find both the entry of a manual switch and a load: the entry would count
    # as the answer to the load.
    machine.next_look(AUTOMATION_SENSOR)
    machine.launch([state], [])
    machine.next_look(AUTOMATION_SENSOR)
    assert machine.runs(dagster__from_automation_condition="true") == []
    assert machine.production("quick") == before
    machine.launch([], [(state, gate) for gate in GATES])
    assert machine.ended(dagster__from_automation_condition="true").is_success
    [run] = machine.runs(dagster__from_automation_condition="true")
    assert run.tags["dagster/sensor_name"] == AUTOMATION_SENSOR
    assert run.asset_selection == {dg.AssetKey(["quick", "gateway_reload"])}
    assert machine.production("quick") not in (None, before)
    # It looks at the assets of all models, at the price of all other sensors together.
    machine.stop_sensor(AUTOMATION_SENSOR)


def test_each_morning_measures_the_quality_of_the_day_before(machine: Machine) -> None:
    # Evaluated by Dagster for the time at which it fires: no test waits for the morning.
    morning = datetime.now(UTC).replace(hour=4, minute=30, second=0, microsecond=0)
    (request,) = machine.would_request("quick_quality_schedule", morning)
    tags = {one["key"]: one["value"] for one in request["tags"]}
    yesterday = (morning - timedelta(days=1)).date().isoformat()
    assert tags["dagster/partition"] == yesterday


@pytest.mark.timeout(scale(1800, 3600))
@pytest.mark.parametrize(("place", "seconds"), DOWN)
def test_what_came_due_while_the_daemon_was_down_is_done_once(
    machine: Machine, place: Place, seconds: float
) -> None:
    drill, url = Drill(machine), machine.settings.gateway_url
    drill.prepare()
    row = {"data": [[0.0, 0.0]]}
    client = SteadyClient(url, "/models/quick/predict", row, per_second=10, clients=100)
    with client.asking(), ThreadPoolExecutor() as pool:
        release, version = drill.begin_release()
        drill.reach(place)
        with machine.without_daemon():
            assert drill.place() == place, "it was in that step when the daemon died"
            before = drill.books()
            drill.change_rows()
            rollback = pool.submit(drill.run, "timed_rollback")
            began = time.monotonic()
            wait_for(lambda: time.monotonic() > began + seconds, "the daemon is down for long")
            assert (drill.place(), drill.books()) == (place, before)
            if place.is_waiting:
                drill.approve()
        assert rollback.result().succeeded
        drill.complete(release)
        after = drill.books()
    assert client.failures == []
    assert after.new_data_runs == before.new_data_runs + 1
    assert after.registered == before.registered + 1
    assert after.rollbacks == before.rollbacks + 1
    is_switched = place is Place.WATCHING
    assert after.promotions[version] == before.promotions[version] + (not is_switched)
    assert max(drill.served("quick")) > version, "what was trained meanwhile waits for its release"
    acts = drill.acts(release)
    assert acts[-2:] == ["watching", "completed"]
    assert len(set(acts)) == len(acts), "each act is entered once"
    report("daemon", **{str(place): {"down_seconds": seconds, "requests": len(client.answers)}})


def test_none_was_left_out(machine: Machine) -> None:
    """Whoever adds a sensor or a schedule adds here what shows that it fires."""
    query = """query($s: RepositorySelector!) {repositoryOrError(repositorySelector: $s) {
        ... on Repository {sensors {name} schedules {name}}}}"""
    found = machine.graphql(query, s=selector())["repositoryOrError"]
    names = {one["name"] for kind in ("sensors", "schedules") for one in found[kind]}
    shipped = {name for name in names if name.startswith(SHIPPED)}
    assert names - shipped - SAME_AS_ANOTHER == SEEN_TO_FIRE


def alias_agrees(machine: Machine, model: str) -> bool | None:
    key = dg.AssetCheckKey(dg.AssetKey([model, "gateway_reload"]), "registry_alias")
    record = machine.dagster.get_latest_asset_check_evaluation_record(key)
    event = record.event if record else None
    evaluation = event.asset_check_evaluation if event else None
    return evaluation.passed if evaluation else None
