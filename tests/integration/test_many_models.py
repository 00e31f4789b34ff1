"""Fifty models defined, ten of them served at once by one Triton and one gateway."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from platform_assets.export.inspection import inspect_graph, sha256
from platform_assets.export.records import PackagedVersion
from platform_assets.export.triton_config import ServingOptions, model_config, to_text
from platform_assets.resources.gateway import GatewayResource
from platform_assets.resources.model_repository import ModelRepository, Provenance
from platform_assets.resources.triton import TritonResource
from platform_assets.serving.loading import load_beside
from platform_assets.serving.policy import Drift
from platform_assets.serving.reconcile import observed_drift
from platform_assets.training.own_code import MODELS_DIR
from serving_gateway.contract import Mode, ReloadRequest
from tests.support.gateway_harness import ROW, RunningGateway, run_gateway
from tests.support.onnx_models import telltale
from tests.support.servers import ROOT, RunningTriton, run_triton

DEFINED = 50
SERVED = 10
MOST_IMPORTS = 12.0
"""Times the processor time of Dagster's own import, which tells how fast the machine is; 5 to 8
were seen."""
FILE = """
type: platform_assets.components.TabularModel
attributes:
  source: {file: rows.csv}
  join_key: {column: id, type: text}
  event_timestamp: {column: at, timezone: UTC}
  features:
    weight: {minimum: 0, maximum: 500}
    age: integer
    city: {type: text, nullable: true}
    member: boolean
  target: {column: outcome, type: text}
  task: multiclass
  gates: {metric_floor: 0.5}
  automation:
    {schedule: 0 3 * * *, on_new_data: true, drift_schedule: 0 * * * *, on_drift: true}
"""
LOAD = """
import json, time
import dagster
imported = time.process_time()
from platform_assets.definitions import defs
repository = defs.get_repository_def()
imports = time.process_time() / imported
graph = repository.asset_graph
broken = [key.path[0] for key in graph.get_all_asset_keys() if key.path[-1] == "model_file"]
switches = [key.path[0] for key in graph.get_all_asset_keys() if key.path[-1] == "gateway_reload"]
jobs = sorted(job for job in repository.job_names)
print(json.dumps({"imports": imports, "broken": broken, "models": switches, "jobs": jobs}))
"""


def loaded(folder: Path) -> Any:
    """Load the code location in a process of its own, as Dagster does."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", LOAD],
        env={**os.environ, MODELS_DIR: str(folder), "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(done.stdout.splitlines()[-1])


def test_fifty_models_are_defined_within_seconds_and_a_broken_file_stands_alone(
    tmp_path: Path,
) -> None:
    names = [f"model_{number:02d}" for number in range(DEFINED)]
    for name in names:
        (tmp_path / name).mkdir()
        (tmp_path / name / "defs.yaml").write_text(FILE)
    broken = tmp_path / names[17] / "defs.yaml"
    broken.write_text(FILE.replace("task: multiclass", "task: miracle"))

    first = loaded(tmp_path)

    assert first["broken"] == [names[17]]
    good = {name for name in names if name != names[17]}
    assert good < set(first["models"])
    assert {f"{name}_chain" for name in good} < set(first["jobs"])
    # Processor time: what else a machine does is no fault of the definitions.
    imports = first["imports"]
    assert (imports if imports < MOST_IMPORTS else loaded(tmp_path)["imports"]) < MOST_IMPORTS


@dataclass(frozen=True, slots=True)
class Fleet:
    """One Triton and one gateway with several models."""

    triton: TritonResource
    repository: ModelRepository
    running: RunningGateway
    gateway: GatewayResource

    def serve(self, number: int, version: int) -> None:
        """Package, load and switch to a version, by the code that the assets call."""
        name, graph = name_of(number), telltale(label_of(number, version))
        summary, run_id = inspect_graph(graph), f"run-{number}-{version}"
        options = ServingOptions(max_batch_size=64)
        text = to_text(model_config(name, summary.inputs, summary.outputs, [version], options))
        digest = sha256(graph)
        self.repository.package(graph, Provenance(name, version, run_id, digest, "data", "test"))
        packaged = PackagedVersion(name, version, run_id, digest, text)
        state = load_beside(
            packaged,
            triton=self.triton,
            repository=self.repository,
            timeout_s=60,
            log=lambda _: None,
        )
        assert state.ready, state.reason
        request = ReloadRequest(version=version, run_id=run_id, mode=Mode.SSOT)
        self.gateway.reload(name, "A", request)

    def generations(self) -> list[int]:
        statuses = [self.gateway.model_statuses(name_of(number))[0] for number in range(SERVED)]
        return [status.routing.generation for status in statuses]

    def predicted(self, number: int) -> tuple[int, int]:
        """Label and version of an answer at the model's own path."""
        path = f"/models/{name_of(number)}/predict"
        answer = self.running.client.post(path, json={"data": [ROW]}).json()
        assert answer["model_name"] == name_of(number)
        return answer["predictions"][0], answer["version"]

    def inferred(self, number: int) -> tuple[int, int]:
        """The same by the Open Inference Protocol."""
        tensor = {"name": "features", "shape": [1, 4], "datatype": "FP32", "data": ROW}
        path = f"/v2/models/{name_of(number)}/infer"
        answer = self.running.client.post(path, json={"inputs": [tensor]}).json()
        outputs = {one["name"]: one["data"] for one in answer["outputs"]}
        return outputs["label"][0], int(answer["model_version"])


def name_of(number: int) -> str:
    return f"fleet_{number}"


def label_of(number: int, version: int) -> int:
    """The label that tells model and version."""
    return 1000 + 10 * number + version


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    home = tmp_path_factory.mktemp("fleet")
    (home / "repository").mkdir()
    with (
        run_triton(home / "repository", home) as triton,
        run_gateway(home, triton.http_url) as running,
    ):
        made = Fleet(
            client_of(triton),
            ModelRepository(root=str(home / "repository")),
            running,
            GatewayResource(urls=running.url, control_token=running.control_token),
        )
        # Two at a time, as two runs would.
        with ThreadPoolExecutor(2) as pool:
            list(pool.map(made.serve, range(SERVED), [1] * SERVED))
        yield made


def client_of(triton: RunningTriton) -> TritonResource:
    return TritonResource(
        url=triton.http_url, grpc_url=triton.grpc_url, control_key=triton.control_key
    )


def test_ten_models_answer_at_once_each_for_itself(fleet: Fleet) -> None:
    numbers = list(range(SERVED)) * 5
    with ThreadPoolExecutor(SERVED) as pool:
        predicted = list(pool.map(fleet.predicted, numbers))
        inferred = list(pool.map(fleet.inferred, numbers))
    assert predicted == inferred == [(label_of(number, 1), 1) for number in numbers]


def test_ten_models_are_listed_and_counted_each_by_its_name(fleet: Fleet) -> None:
    names = [name_of(number) for number in range(SERVED)]
    before = [answered(fleet, name) for name in names]
    for number in range(SERVED):
        for _ in range(number):
            fleet.predicted(number)
    assert set(names) <= set(fleet.running.models()["models"])
    for number, name in enumerate(names):
        assert answered(fleet, name) - before[number] == number
        assert fleet.running.metric("gateway_ready", model=name) == 1
        status = fleet.gateway.model_statuses(name)[0]
        assert status.ssot.model_name == name
        assert status.effective["A"].run_id == f"run-{number}-1"
        assert observed_drift(name, fleet.triton, fleet.repository) == Drift((), ())


def test_a_switch_of_one_model_leaves_the_others_as_they_are(fleet: Fleet) -> None:
    before = fleet.generations()
    with httpx.Client(base_url=fleet.running.url, timeout=20, trust_env=False) as client:
        seen = [client.get(f"/models/{name_of(n)}/ready").status_code for n in range(SERVED)]
    assert seen == [200] * SERVED

    fleet.serve(4, 2)

    after = fleet.generations()
    assert [n for n in range(SERVED) if after[n] != before[n]] == [4]
    assert after[4] == before[4] + 1
    versions = [2 if number == 4 else 1 for number in range(SERVED)]
    expected = [(label_of(n, v), v) for n, v in enumerate(versions)]
    assert [fleet.predicted(number) for number in range(SERVED)] == expected
    assert [fleet.inferred(number) for number in range(SERVED)] == expected
    ready = [fleet.triton.ready_versions(name_of(number)) for number in range(SERVED)]
    assert ready == [(1, 2) if number == 4 else (1,) for number in range(SERVED)]


def answered(fleet: Fleet, name: str) -> float:
    return fleet.running.metric("gateway_predictions_total", model=name, outcome="answered")
