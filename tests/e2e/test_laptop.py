"""The platform as a person on one machine has it: up, a browser, a crash, down, demo."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shlex
import shutil
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from playwright.sync_api import Page

from platform_assets.local_stack.chain import run_chain
from platform_assets.local_stack.http import answers_ok, post
from platform_assets.local_stack.processes import services
from platform_assets.local_stack.run_progress import ChainEvent
from platform_assets.local_stack.settings import ROOT, StackSettings, stack_settings
from platform_assets.model_spec import table_job_name
from platform_assets.resources.triton import TritonResource
from platform_assets.resources.triton_api import CONTROL_HEADER
from platform_assets.serving.promotion import GATES
from serving_gateway.contract import DEFAULT_MODEL
from tests.support import dropped_model, model_files, pages, readmission
from tests.support.load import SteadyClient, ask_patiently
from tests.support.servers import free_port, wait_until

pytestmark = pytest.mark.timeout(1800)

CHAIN = "best_model_chain"
OTHER_CHAIN = table_job_name("fraud_merchants")
"""Takes its turn as the chain of a model does, and is short."""
CHAIN_DEADLINE_S = 900
"""None takes longer than a minute on an idle machine."""
UNFINISHED = "QUEUED, NOT_STARTED, STARTING, STARTED"
SLOW_S = 120
"""For what an idle machine does in seconds."""
ROW = {"data": [[5.1, 3.5, 1.4, 0.2]], "client_id": "a client"}


@dataclass(slots=True)
class Laptop:
    """A running `make up`, and what a person can see of it."""

    settings: StackSettings
    environ: dict[str, str]
    process: subprocess.Popen[bytes]

    def run(self, command: str, **more: str) -> tuple[int, str]:
        """Exit status and output of a command beside the running stack."""
        return self.run_module("platform_assets.local_stack", command, **more)

    def run_module(self, *module: str, **more: str) -> tuple[int, str]:
        """The same of a module with its arguments."""
        done = subprocess.run(
            [sys.executable, "-m", *module],
            env={**self.environ, **more},
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
        )
        return done.returncode, done.stdout + done.stderr

    def predict(self) -> dict[str, Any]:
        return post(f"{self.settings.gateway_url}/predict", ROW, dict[str, Any], SLOW_S)

    def predict_entity(self, entity: int) -> httpx.Response:
        """What a client that honours Retry-After gets."""
        return ask_patiently(f"{self.settings.gateway_url}/predict", {"entity_id": entity})

    def version(self) -> int:
        return int(self.predict()["version"])

    def ready(self) -> bool:
        return answers_ok(f"{self.settings.gateway_url}/models/{DEFAULT_MODEL}/ready")

    def triton(self) -> TritonResource:
        key = (self.settings.state_dir / "secrets" / "triton-control-key").read_text()
        return TritonResource(url=self.settings.triton_url, control_key=key.strip())

    def generation(self) -> int:
        page = httpx.get(f"{self.settings.gateway_url}/models", trust_env=False).json()
        return int(page["routing"]["generation"])

    def graphql(self, query: str) -> dict[str, Any]:
        url = f"{self.settings.dagster_url}/graphql"
        answer = post(url, {"query": query}, dict[str, Any], SLOW_S)
        return dict(answer["data"])


def run_stack(command: str, environ: dict[str, str], log: Path) -> subprocess.Popen[bytes]:
    with log.open("ab") as file:
        return subprocess.Popen(
            [
                *(sys.executable, "-m", "platform_assets.local_stack.tether", "--grace", "60"),
                *("--", sys.executable, "-m", "platform_assets.local_stack", command),
            ],
            env=environ,
            cwd=ROOT,
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


@pytest.fixture(scope="module")
def environ(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    names = ("DAGSTER", "MLFLOW", "GATEWAY", "TRITON_HTTP", "TRITON_GRPC", "TRITON_METRICS")
    return {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "STATE_DIR": str(tmp_path_factory.mktemp("laptop") / "state"),
        "MODELS_DIR": str(tmp_path_factory.mktemp("models")),
        **{f"{name}_PORT": str(free_port()) for name in names},
    }


@pytest.fixture(scope="module")
def laptop(environ: dict[str, str]) -> Iterator[Laptop]:
    settings = stack_settings(environ)
    log = settings.state_dir.with_name("up.log")
    process = run_stack("up", environ, log)

    def up() -> bool:
        assert process.poll() is None, log.read_text()
        return "Ctrl-C stops everything" in log.read_text()

    try:
        wait_until(up, CHAIN_DEADLINE_S, "the stack to be up and something in production")
        yield Laptop(settings, environ, process)
    finally:
        process.terminate()
        process.wait(SLOW_S)


def test_up_takes_raw_data_to_production(laptop: Laptop) -> None:
    assert laptop.version() == 1
    assert laptop.ready()
    assert laptop.predict_entity(17).json()["feature_source"] == "feast"
    log = laptop.settings.state_dir.with_name("up.log").read_text()
    assert "In production: version 1" in log
    assert laptop.settings.dagster_url in log


def test_status_tells_what_runs_and_what_is_in_production(laptop: Laptop) -> None:
    status, said = laptop.run("status")
    assert status == 0, said
    assert "best_model (the default model): version 1" in said
    for service in services(laptop.settings):
        (row,) = (line for line in said.splitlines() if f"│ {service.name} " in line)
        assert "yes" in row
        assert service.address in row


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "repository/index"),
        ("POST", f"repository/models/{DEFAULT_MODEL}/load"),
        ("POST", f"repository/models/{DEFAULT_MODEL}/unload"),
        ("GET", f"models/{DEFAULT_MODEL}/config"),
        ("GET", "systemsharedmemory/status"),
        ("GET", "logging"),
        ("GET", "trace/setting"),
    ],
)
def test_the_control_apis_of_triton_are_locked(laptop: Laptop, method: str, path: str) -> None:
    url = f"{laptop.settings.triton_url}/v2/{path}"
    for headers in ({}, {CONTROL_HEADER: "a guess"}):
        answer = httpx.request(method, url, headers=headers, trust_env=False)
        assert answer.status_code == 403, answer.text
    assert laptop.version() == 1


def test_the_control_key_of_triton_opens_them_and_only_its_owner_reads_it(laptop: Laptop) -> None:
    secret = laptop.settings.state_dir / "secrets" / "triton-control-key"
    assert secret.stat().st_mode & 0o077 == 0
    index = f"{laptop.settings.triton_url}/v2/repository/index"
    headers = {CONTROL_HEADER: secret.read_text().strip()}
    assert httpx.post(index, headers=headers, trust_env=False).status_code == 200


def test_chains_launched_at_once_follow_each_other_without_a_failed_request(
    laptop: Laptop, page: Page
) -> None:
    before, generation = laptop.version(), laptop.generation()
    erase(laptop.settings.source_path, entity=17)
    client = SteadyClient(laptop.settings.gateway_url, per_second=10)
    with client.asking(), ThreadPoolExecutor() as pool:
        killed = pool.submit(run_chain, laptop.settings.dagster_url, CHAIN, lambda _: None)
        killing = pool.submit(kill_the_first_to_start, laptop)
        page.set_default_timeout(SLOW_S * 1000)
        page.goto(f"{laptop.settings.dagster_url}/locations/platform/jobs/{CHAIN}")
        page.get_by_role("button", name="Materialize all").click()
        page.get_by_text("Launched run").wait_for()
        # Left open, it would draw and ask for news until the runs have ended.
        page.goto("about:blank")
        second, other = (
            pool.submit(run_chain, laptop.settings.dagster_url, job, lambda _: None)
            for job in (CHAIN, OTHER_CHAIN)
        )
        killing.result()
        # Its death ends its turn.
        assert not killed.result().succeeded
        assert second.result().succeeded
        assert other.result().succeeded
        wait_until(lambda: runs(laptop, UNFINISHED) == [], CHAIN_DEADLINE_S, "all runs to end")
        answered = len(client.versions)
        wait_until(lambda: len(client.versions) > answered + 20, SLOW_S, "answers after the switch")

    first, last = sorted(runs(laptop, "SUCCESS"), key=lambda run: run["startTime"])[-2:]
    assert first["endTime"] <= last["startTime"]
    (beside,) = runs(laptop, "SUCCESS", OTHER_CHAIN)
    # A run of another model waits for none of them.
    assert beside["startTime"] < first["endTime"]
    assert laptop.generation() == generation + 2
    assert client.failures == []
    assert client.versions == sorted(client.versions)
    assert set(client.versions) == {before, before + 1, before + 2}
    assert laptop.triton().ready_versions(DEFAULT_MODEL) == (before + 1, before + 2)
    asked = {entity: laptop.predict_entity(entity) for entity in (17, 18)}
    assert {entity: answer.status_code for entity, answer in asked.items()} == {17: 422, 18: 200}
    assert "is not in the feature store" in asked[17].json()["error"], "its rows left the source"
    page.goto(f"{laptop.settings.dagster_url}/assets/best_model/triton_serving_state?view=checks")
    for check in GATES:
        page.get_by_text(check, exact=True).first.wait_for()
    assert page.get_by_text("Succeeded", exact=True).count() == len(GATES)


def test_a_table_that_comes_meanwhile_reaches_production_beside_a_broken_file(
    laptop: Laptop,
) -> None:
    models = Path(laptop.environ["MODELS_DIR"])
    table = dropped_model.drop(models / dropped_model.NAME)
    (models / "broken").mkdir()
    broken = models / "broken" / "defs.yaml"
    broken.write_text(model_files.MINIMAL.replace("age: integer", "age: integr"), "utf-8")

    status, said = laptop.run_module(
        *("platform_assets.components", "new", str(table)),
        *("--target", "outcome", "--name", dropped_model.NAME),
    )
    assert status == 0, said
    assert f"next: make chain MODEL={dropped_model.NAME}" in said
    status, said = laptop.run("chain", MODEL=dropped_model.NAME)
    assert status == 0, said
    assert "In production: version 1" in said
    (call,) = (line for line in said.splitlines() if "curl" in line)
    *_, url, _, header, _, body = shlex.split(call)
    row = next(iter(dropped_model.patients().values()))
    assert json.loads(body) == {"instances": [{name: row[name] for name in list(row)[:-1]}]}
    asked = httpx.post(url, content=body, headers=dict([header.split(": ")]), trust_env=False)
    assert asked.json()["model_name"] == dropped_model.NAME, asked.text
    assert f"{dropped_model.NAME}: version 1" in laptop.run("status")[1]
    shown = laptop.graphql(
        '{assetNodeOrError(assetKey: {path: ["broken", "model_file"]}) '
        "{... on AssetNode {description isExecutable}}}"
    )["assetNodeOrError"]
    assert f"{broken}:6: features.age.type: must be" in shown["description"]
    assert not shown["isExecutable"]

    # The folders are those of the running stack, whatever this call's environment says.
    for name, why in (
        ("broken", f"{broken}:6: features.age.type: must be"),
        ("outcom", f"Did you mean {dropped_model.NAME}? There are best_model, cars, "),
    ):
        status, said = laptop.run("chain", MODEL=name, MODELS_DIR="")
        assert status == 1
        assert why in said


@pytest.fixture(scope="module")
def by_scikit_learn(laptop: Laptop) -> dropped_model.Answers:
    page = httpx.get(
        f"{laptop.settings.gateway_url}/models/{dropped_model.NAME}", trust_env=False
    ).json()
    run_id = page["effective"]["A"]["run_id"]
    return dropped_model.by_scikit_learn(laptop.settings.mlflow_url, run_id)


@pytest.mark.parametrize("ask", dropped_model.WAYS)
def test_every_row_of_it_is_answered_as_scikit_learn_does(
    laptop: Laptop, by_scikit_learn: dropped_model.Answers, ask: dropped_model.Way
) -> None:
    assert ask(laptop.settings.gateway_url).differing(by_scikit_learn) == []


def test_commands_of_the_pages_work(laptop: Laptop) -> None:
    """In the order in which a new user meets them; the model is the first page's own."""
    models = Path(laptop.environ["MODELS_DIR"])
    shutil.rmtree(models / "broken", ignore_errors=True)  # of another test; `check` names it
    (model_file,) = (one.text for one in pages.blocks("README.md", "yaml"))
    readmission.write(models / "readmission", model_file)
    address = {"127.0.0.1:8080": laptop.settings.gateway_url.removeprefix("http://")}
    output = pages.run_commands("README.md", address, laptop.environ)
    assert "In production: version 1" in output
    pages.run_commands("platform_assets/README.md", address, laptop.environ)
    pages.run_commands("platform_assets/components/README.md", address, laptop.environ)
    state = {".local/": f"{laptop.settings.state_dir}/"}
    output = pages.run_commands("feature_repo/README.md", state, laptop.environ)
    assert '"petal_length": [' in output


def test_the_answer_on_the_first_page_is_one_of_the_gateway(laptop: Laptop) -> None:
    (example,) = (json.loads(one.text) for one in pages.blocks("README.md", "json"))
    answer = laptop.predict()
    assert list(example) == list(answer)
    assert example["predictions"] == answer["predictions"]
    assert [len(row) for row in example["probabilities"]] == [3]


def test_a_killed_triton_comes_back_with_exactly_what_served(laptop: Laptop) -> None:
    before, ready = laptop.version(), laptop.triton().ready_versions(DEFAULT_MODEL)
    server = process_of(laptop, "tritonserver")
    server.kill()
    wait_until(lambda: not laptop.ready(), SLOW_S, "the model to be not ready")
    answer = httpx.post(f"{laptop.settings.gateway_url}/predict", json=ROW, trust_env=False)
    assert answer.status_code == 503
    assert int(answer.headers["retry-after"]) >= 1
    wait_until(laptop.ready, SLOW_S, "the model to be ready again")
    assert laptop.triton().ready_versions(DEFAULT_MODEL) == ready
    assert laptop.version() == before


def test_the_drift_sensor_restores_a_version_that_was_unloaded(laptop: Laptop) -> None:
    before, ready = laptop.version(), laptop.triton().ready_versions(DEFAULT_MODEL)
    laptop.triton().endpoints()[0].unload(DEFAULT_MODEL)
    wait_until(lambda: not laptop.ready(), SLOW_S, "the model to be not ready")
    wait_until(laptop.ready, CHAIN_DEADLINE_S, "the sensor's run to reconcile Triton")
    assert laptop.triton().ready_versions(DEFAULT_MODEL) == ready
    assert laptop.version() == before


def test_a_rollback_and_a_reconciliation_wait_for_no_training(laptop: Laptop) -> None:
    """The training hangs; what it makes later finds the pin and leaves production alone."""
    url = laptop.settings.dagster_url
    if laptop.version() == 1:
        assert run_chain(url, CHAIN, lambda _: None).succeeded
    ready = older, before = laptop.triton().ready_versions(DEFAULT_MODEL)
    rollback, reconcile = (f"best_model_{name}" for name in ("rollback", "reconcile"))
    events: list[ChainEvent] = []
    with ThreadPoolExecutor() as pool:
        chain = pool.submit(run_chain, url, CHAIN, events.append)
        worker = first_to_start(laptop)
        databases = list(laptop.settings.dagster_home.rglob("*.db"))
        assert databases
        suspend_outside_of_transactions(worker, databases)
        try:
            back = run_chain(url, rollback, lambda _: None)
            assert back.succeeded
            assert laptop.version() == older
            laptop.triton().endpoints()[0].unload(DEFAULT_MODEL)
            restored = run_chain(url, reconcile, lambda _: None)
            assert restored.succeeded
            assert laptop.triton().ready_versions(DEFAULT_MODEL) == ready
        finally:
            worker.resume()
        chain.result()
    for run in (back, restored):
        assert seconds_in_queue(laptop, run.run_id) < 5
    failures = [event for event in events if event.kind == "failure"]
    assert [one.name for one in failures] == ["best_model__gateway_reload"], failures
    assert "pinned" in failures[0].detail
    assert laptop.version() == older
    unpin(laptop, before)


def erase(source: Path, entity: int) -> None:
    """Take all rows of an entity out of the source."""
    lines = source.read_text().splitlines(keepends=True)
    source.write_text("".join(line for line in lines if not line.startswith(f"{entity},")))


def seconds_in_queue(laptop: Laptop, run_id: str) -> float:
    """Seconds from the launch of a run to the start of its process."""
    found = laptop.graphql(
        f'{{runOrError(runId: "{run_id}") {{... on Run {{stats {{'
        "... on RunStatsSnapshot {enqueuedTime launchTime}}}}}"
    )["runOrError"]["stats"]
    return float(found["launchTime"] - found["enqueuedTime"])


def unpin(laptop: Laptop, version: int) -> None:
    """End the pin of production, and move it to a version."""
    token = (laptop.settings.state_dir / "secrets" / "gateway-control-token").read_text()
    answer = httpx.post(
        f"{laptop.settings.gateway_url}/models/{DEFAULT_MODEL}/variant/A/reload",
        json={"version": version, "mode": "ssot", "unpin": True},
        headers={"authorization": f"Bearer {token.strip()}"},
        trust_env=False,
    )
    assert answer.status_code == 200, answer.text


def test_demo_resumes_the_state_proves_the_next_version_and_leaves_nothing_running(
    laptop: Laptop,
) -> None:
    before = laptop.version()
    family = psutil.Process(laptop.process.pid).children(recursive=True)
    subprocess.run(
        [sys.executable, "-m", "platform_assets.local_stack", "down"],
        env=laptop.environ,
        cwd=ROOT,
        check=True,
    )
    assert laptop.process.wait(SLOW_S) == 0
    assert [process for process in family if process.is_running()] == []

    log = laptop.settings.state_dir.with_name("demo.log")
    demo = run_stack("demo", laptop.environ, log)
    assert demo.wait(CHAIN_DEADLINE_S) == 0, log.read_text()
    proof = log.read_text()
    proved = re.search(r"Proved: version (\d+) \(run [0-9a-f]{32}\)", proof)
    assert proved, proof
    # The chain that a rollback refused before has left a version of its own between them.
    assert int(proved[1]) > before
    for version in (before, proved[1]):
        assert f'{{"name":"best_model","version":"{version}","state":"READY"}}' in proof
    for part in ("reload_variant_A.json", "GET /health", "GET /models", "POST /predict"):
        assert part in proof
    assert not any(map(answers_ok, (laptop.settings.gateway_url, laptop.settings.mlflow_url)))


def runs(laptop: Laptop, statuses: str, job: str = CHAIN) -> list[dict[str, Any]]:
    """Runs of a job that are in one of these statuses, newest first."""
    found = laptop.graphql(
        f'{{runsOrError(filter: {{pipelineName: "{job}", statuses: [{statuses}]}}) {{'
        "... on Runs {results {runId startTime endTime}}}}"
    )
    return list(found["runsOrError"]["results"])


def messages(laptop: Laptop, run_id: str) -> str:
    """What the events of a run say so far."""
    found = laptop.graphql(
        f'{{logsForRun(runId: "{run_id}", limit: 200) {{... on EventConnection '
        "{events {... on MessageEvent {message}}}}}"
    )["logsForRun"]
    return "\n".join(event["message"] for event in found["events"])


def kill_the_first_to_start(laptop: Laptop) -> None:
    """`kill -9` of the first run worker of the chain, as soon as there is one."""
    first_to_start(laptop).kill()


def first_to_start(laptop: Laptop) -> psutil.Process:
    """The run worker of the chain that is under way, as soon as there is one."""

    def workers() -> list[int]:
        said = (messages(laptop, run["runId"]) for run in runs(laptop, "STARTED"))
        return [int(pid) for pid in re.findall(r"\(pid: (\d+)\)", "\n".join(said))]

    wait_until(lambda: workers() != [], CHAIN_DEADLINE_S, "a run to start")
    worker = psutil.Process(workers()[0])
    assert worker in psutil.Process(laptop.process.pid).children(recursive=True)
    server = worker.parent()
    assert server is not None
    assert any("multiprocessing.forkserver" in one for one in server.cmdline()), "runs are forked"
    return worker


def suspend_outside_of_transactions(worker: psutil.Process, databases: Sequence[Path]) -> None:
    """`kill -STOP` at a moment at which the process has no lock that others wait for."""

    def is_locked(path: Path) -> bool:
        with contextlib.closing(sqlite3.connect(path, timeout=0.2)) as database:
            try:
                database.execute("BEGIN IMMEDIATE")
            except sqlite3.OperationalError:
                return True
            return False

    worker.suspend()
    while any(is_locked(path) for path in databases):
        worker.resume()
        time.sleep(0.05)
        worker.suspend()


def process_of(laptop: Laptop, name: str) -> psutil.Process:
    family = psutil.Process(laptop.process.pid).children(recursive=True)
    return next(process for process in family if process.name() == name)
