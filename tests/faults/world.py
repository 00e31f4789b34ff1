"""The real servers, a persistent Dagster, and runs as processes of their own."""

from __future__ import annotations

import contextlib
import csv
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dagster as dg
import httpx
import pytest
from dagster import DagsterEventType

from platform_assets import local_stack
from platform_assets.features.sample_data import write_iris_source
from platform_assets.ledger.keys import DeploymentKey
from platform_assets.ledger.resource import LedgerFolder
from platform_assets.ledger.verification import verify_chain
from platform_assets.local_stack.recovery import fail_abandoned_runs
from platform_assets.resources.model_repository import ModelRepository
from platform_assets.resources.triton import TritonResource
from platform_assets.serving.ledger import Entry, read_ledger
from platform_assets.serving.loading import persisted_versions
from platform_assets.serving.promotion import STATUS_TAG
from tests.faults.killing import KillPoint
from tests.faults.runs import SPEC
from tests.support.gateway_harness import RunningGateway, run_gateway
from tests.support.servers import NO_ROOTS, ROOT, RunningTriton, run_mlflow, run_triton

TOKEN = "control-token-of-the-tests"
KILLED = -9
NAME = SPEC.model_name


@dataclass(frozen=True, slots=True)
class Kept:
    """All that must be there once per intent, wherever it is kept."""

    registered: tuple[int, ...]
    """Versions in MLflow."""
    packaged: tuple[int, ...]
    """Version directories."""
    policy: tuple[int, ...]
    """Versions that a restarted Triton would load."""
    production: int | None
    generation: int
    ledger: tuple[tuple[int, int | None, int], ...]
    """Version, the one before, generation; newest first."""


@dataclass(slots=True)
class World:
    """One state directory with its servers, and the process that runs are forked from."""

    home: Path
    triton: RunningTriton
    mlflow_url: str
    gateway: RunningGateway
    instance: dg.DagsterInstance
    environ: dict[str, str]
    zygote: subprocess.Popen[str]

    @property
    def repository(self) -> ModelRepository:
        """Triton's repository."""
        return ModelRepository(root=str(self.home / "repository"))

    @property
    def control(self) -> TritonResource:
        """Triton as the assets see it."""
        return TritonResource(url=self.triton.http_url, control_key=self.triton.control_key)

    def run(
        self,
        job: str = "chain",
        *,
        parent: str | None = None,
        point: KillPoint | None = None,
        is_canceled: bool = False,
        config: dict[str, Any] | None = None,
    ) -> int:
        """Execute a run as a process of its own; its exit code, -9 when it was killed.

        A run whose process died is reported as failed, as the platform does it. With
        `is_canceled` it does not die at `point`, but Dagster cancels it there.
        """
        order = {
            "job": job,
            "parent": parent,
            "point": None if point is None else str(point),
            "is_canceled": is_canceled,
            "log": str(self.home / "runs.log"),
            "config": config,
            "environ": self.environ,
        }
        assert self.zygote.stdin is not None
        self.zygote.stdin.write(json.dumps(order) + "\n")
        self.zygote.stdin.flush()
        code = int(_line(self.zygote))
        if code == KILLED:
            assert fail_abandoned_runs() == [self.newest_run().run_id]
        return code

    def newest_run(self) -> dg.DagsterRun:
        """The run that was launched last."""
        return self.instance.get_runs(limit=1)[0]

    def log(self) -> str:
        """What the runs printed."""
        return (self.home / "runs.log").read_text()

    def ask_mlflow(self, path: str, **body: Any) -> dict[str, Any]:
        """Ask MLflow's REST interface, which costs no import of MLflow here."""
        url = f"{self.mlflow_url}/api/2.0/mlflow/{path}"
        with httpx.Client(trust_env=False, timeout=20, verify=NO_ROOTS) as client:
            answer = client.post(url, json=body) if body else client.get(url)
        assert answer.status_code == 200, answer.text
        return dict(answer.json())

    def registered(self) -> list[dict[str, Any]]:
        """Versions as MLflow lists them, oldest first."""
        found = self.ask_mlflow("model-versions/search").get("model_versions", [])
        return sorted(found, key=lambda one: int(one["version"]))

    def mlflow_runs(self, status: str) -> list[str]:
        """Names of MLflow's runs of the model in a status."""
        experiments = self.ask_mlflow("experiments/search?max_results=10")["experiments"]
        runs = self.ask_mlflow(
            "runs/search",
            experiment_ids=[one["experiment_id"] for one in experiments],
            filter=f"attributes.status = '{status}'",
        )
        return [one["info"]["run_name"] for one in runs.get("runs", [])]

    def production(self) -> int | None:
        """Version that the gateway routes A to and Triton has READY."""
        slot = self.gateway.models()["effective"].get("A")
        return None if slot is None or not slot["ready"] else int(slot["version"])

    def step_under_way(self) -> str:
        """The step that the newest run had begun and not ended."""
        run_id = self.newest_run().run_id
        ended = {
            event.step_key
            for event in self._events(
                run_id, DagsterEventType.STEP_SUCCESS, DagsterEventType.STEP_FAILURE
            )
        }
        begun = [event.step_key for event in self._events(run_id, DagsterEventType.STEP_START)]
        (step,) = (one for one in begun if one not in ended)
        return str(step)

    def failed_steps(self) -> set[str | None]:
        """The steps of the newest run that failed."""
        failures = self._events(self.newest_run().run_id, DagsterEventType.STEP_FAILURE)
        return {event.step_key for event in failures}

    def _events(self, run_id: str, *kinds: DagsterEventType) -> Sequence[dg.EventLogEntry]:
        return self.instance.all_logs(run_id, of_type=set(kinds))

    def ready(self) -> tuple[int, ...]:
        """READY versions by Triton's index."""
        return self.control.ready_versions(NAME)

    def answering_version(self) -> int:
        """Version that answers a prediction now."""
        answer = self.gateway.predict()
        assert answer.status_code == 200, answer.text
        return int(answer.json()["version"])

    def restart_triton(self) -> None:
        """Let Triton start again with what the repository holds."""
        self.triton.kill()
        self.triton.restart()
        if self.gateway.models()["effective"]:
            self.gateway.wait_ready()

    def runs_of_version(self, version: int) -> set[str]:
        """MLflow run of a version by the repository and by the gateway, which serves it."""
        slot = self.gateway.models()["effective"]["A"]
        assert slot["version"] == version
        return {self.repository.verify(NAME, version).run_id, slot["run_id"]}

    def status_tags(self) -> list[str]:
        """What MLflow says became of each version, oldest first."""
        tags = [{tag["key"]: tag["value"] for tag in one["tags"]} for one in self.registered()]
        return [one.get(STATUS_TAG, "") for one in tags]

    def ledger(self) -> list[Entry]:
        """The deployment ledger, newest first."""
        return read_ledger(self.instance, SPEC)

    def chained(self) -> list[tuple[int, int]]:
        """Version and generation of each switch in the chain of the ledger, oldest first."""
        journal = LedgerFolder(root=str(self.home / "ledger")).journal(NAME)
        assert journal is not None
        lines, rest = journal.lines()
        assert verify_chain(lines, NAME, DeploymentKey(), rest=rest).problems == []
        return [(e.content["version"], e.content["generation"]) for e in journal.entries()]

    def kept(self) -> Kept:
        """Look everywhere."""
        return Kept(
            registered=tuple(int(one["version"]) for one in self.registered()),
            packaged=self.repository.versions(NAME),
            policy=persisted_versions(self.repository, NAME),
            production=self.production(),
            generation=int(self.gateway.models()["routing"]["generation"]),
            ledger=tuple((e.version, e.previous_version, e.generation) for e in self.ledger()),
        )

    def change_source(self) -> None:
        """Give the source other content, so that what is of two runs can be told apart."""
        path = self.home / "iris.csv"
        with path.open(newline="") as file:
            rows = list(csv.reader(file))
        rows[1][2] = f"{float(rows[1][2]) + 0.01:.2f}"
        with path.open("w", newline="") as file:
            csv.writer(file, lineterminator="\n").writerows(rows)

    def leftovers(self) -> list[str]:
        """What writers that died left half done, in the repository and among the features."""
        folders = (self.home / "repository" / NAME, self.home / "feast" / "data" / NAME)
        return [
            entry.name
            for folder in folders
            if folder.is_dir()
            for entry in folder.iterdir()
            if entry.name.startswith(("staging-", "."))
        ]


def _line(zygote: subprocess.Popen[str]) -> str:
    assert zygote.stdout is not None
    line = zygote.stdout.readline()
    assert line, f"the process that runs are forked from ended with {zygote.wait()}"
    return line


@contextlib.contextmanager
def run_world(home: Path) -> Iterator[World]:
    """Run the servers on a fresh state directory with the sample source."""
    for folder in ("repository", "dagster"):
        (home / folder).mkdir(parents=True)
    settings = Path(local_stack.__file__).with_name("dagster.yaml").read_text()
    (home / "dagster" / "dagster.yaml").write_text(settings)
    # It imports while the servers start.
    with _zygote(home / "zygote.log") as zygote, contextlib.ExitStack() as stack:
        write_iris_source(home / "iris.csv")
        triton = stack.enter_context(run_triton(home / "repository", home / "triton"))
        mlflow = stack.enter_context(run_mlflow(home))
        control = {"GATEWAY_MLFLOW_URL": mlflow.url, "GATEWAY_CONTROL_TOKEN": TOKEN}
        gateway = stack.enter_context(run_gateway(home, triton.http_url, env=control))
        environ = {
            **_folders(home),
            "MLFLOW_TRACKING_URI": mlflow.url,
            "TRITON_URL": triton.http_url,
            "TRITON_GRPC_URL": triton.grpc_url,
            "TRITON_CONTROL_KEY": triton.control_key,
            "GATEWAY_URLS": gateway.url,
            "GATEWAY_CONTROL_TOKEN": TOKEN,
        }
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        patch.setenv("DAGSTER_HOME", environ["DAGSTER_HOME"])
        instance = stack.enter_context(dg.DagsterInstance.get())
        while _line(zygote).strip() != "ready":
            pass
        yield World(home, triton, mlflow.url, gateway, instance, environ, zygote)


def _folders(home: Path) -> dict[str, str]:
    return {
        "DAGSTER_HOME": str(home / "dagster"),
        "FEAST_STATE_DIR": str(home / "feast"),
        "FEAST_ONLINE_STORE": "sqlite",
        "FEAST_REDIS": "",
        "SOURCE_PATH": str(home / "iris.csv"),
        "MODEL_REPOSITORY": str(home / "repository"),
        "PROOF_DIR": str(home / "proof"),
        "LEDGER_DIR": str(home / "ledger"),
        "SAMPLES_DIR": str(home / "samples"),
        "REPORTS_DIR": str(home / "reports"),
        "PREDICTIONS_DIR": str(home / "predictions"),
        "NOTIFY_WEBHOOK_URL": "",
    }


@contextlib.contextmanager
def _zygote(log: Path) -> Iterator[subprocess.Popen[str]]:
    with (
        log.open("ab") as errors,
        subprocess.Popen(
            [sys.executable, "-m", "tests.faults.zygote"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            env={
                **os.environ,
                "PYTHONPATH": str(ROOT),
                "MLFLOW_DISABLE_TELEMETRY": "true",
                "FEAST_USAGE": "False",
            },
            cwd=ROOT,
            text=True,
        ) as process,
    ):
        try:
            yield process
        finally:
            # The end of its orders is its end.
            assert process.stdin is not None
            process.stdin.close()
