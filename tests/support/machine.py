"""A running stack of one machine, and what a person can do to it."""

from __future__ import annotations

import contextlib
import itertools
import json
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, TypeVar

import dagster as dg
import httpx
import numpy as np
import psutil

from platform_assets.components.model_file import read_model
from platform_assets.local_stack.chain import LOCATION, REPOSITORY
from platform_assets.local_stack.processes import DAEMON, daemon_healthy
from platform_assets.local_stack.settings import StackSettings
from platform_assets.local_stack.stack import Stack
from platform_assets.model_spec import ModelSpec
from platform_assets.resources.mlflow import MlflowResource
from tests.support.servers import LOOPBACK

T = TypeVar("T")

ALWAYS_ON = "production_watch"
"""A sensor that no test stops."""

RUN_DEADLINE_S = 600
"""A run may wait for its minute, for its turn and for a busy machine: on an idle one, none takes
longer than two minutes."""


class Receiver:
    """A webhook of one's own: what was posted to it, in order."""

    def __init__(self) -> None:
        self.texts: list[str] = []
        texts = self.texts

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                texts.append(json.loads(body)["text"])
                self.send_response(200)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer((LOOPBACK, 0), Handler)
        self.url = f"http://{LOOPBACK}:{self.server.server_port}/hook"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


@dataclass(slots=True)
class Machine:
    """A running stack, and what a person can do to it."""

    settings: StackSettings
    models: Path
    receiver: Receiver
    dagster: dg.DagsterInstance
    token: str
    client: httpx.Client
    stack: Stack
    drifted: threading.Event = field(default_factory=threading.Event)
    over: threading.Event = field(default_factory=threading.Event)
    once: set[str] = field(default_factory=set)
    """Schedules of every minute that are stopped when they have made a run."""

    def spec(self, name: str) -> ModelSpec:
        return read_model(self.models / name / "defs.yaml")

    @property
    def mlflow(self) -> MlflowResource:
        return MlflowResource(tracking_uri=self.settings.mlflow_url)

    def graphql(self, query: str, **variables: Any) -> Any:
        answer = self.client.post(
            f"{self.settings.dagster_url}/graphql", json={"query": query, "variables": variables}
        ).json()
        assert "errors" not in answer, answer
        return answer["data"]

    def start_sensor(self, name: str) -> None:
        query = """mutation($s: SensorSelector!) {startSensor(sensorSelector: $s) {__typename}}"""
        said = self.graphql(query, s=selector(sensorName=name))["startSensor"]
        assert said["__typename"] == "Sensor", said

    def stop_sensor(self, name: str) -> None:
        """Stop a sensor for good.

        The daemon looks by all sensors that ran when its round began, and a look that was under
        way undoes a stop: it holds once a round that began later is over.
        """
        query = """query($s: SensorSelector!) {sensorOrError(sensorSelector: $s) {
            ... on Sensor {sensorState {id status ticks(limit: 1) {endTimestamp}}}}}"""
        stop = """mutation($id: String!) {stopSensor(id: $id) {__typename}}"""

        def is_stopped() -> bool:
            found = self.graphql(query, s=selector(sensorName=name))["sensorOrError"]
            state = found["sensorState"]
            if state["status"] != "RUNNING":
                return all(tick["endTimestamp"] for tick in state["ticks"])
            said = self.graphql(stop, id=state["id"])["stopSensor"]
            assert said["__typename"] == "StopSensorMutationResult", said
            return False

        is_settled = False
        while not is_settled:
            wait_for(is_stopped, f"{name} to stop")
            # The first of these looks may belong to a round that began before the stop.
            for _ in range(2):
                self.next_look(ALWAYS_ON)
            is_settled = is_stopped()

    def start_schedule(self, name: str) -> None:
        query = """mutation($s: ScheduleSelector!) {
            startSchedule(scheduleSelector: $s) {__typename}}"""
        said = self.graphql(query, s=selector(scheduleName=name))["startSchedule"]
        assert said["__typename"] == "ScheduleStateResult", said

    def stop_schedule(self, name: str) -> None:
        query = """query($s: ScheduleSelector!) {scheduleOrError(scheduleSelector: $s) {
            ... on Schedule {scheduleState {id status}}}}"""
        found = self.graphql(query, s=selector(scheduleName=name))["scheduleOrError"]
        if found["scheduleState"]["status"] == "RUNNING":
            query = """mutation($id: String!) {stopRunningSchedule(id: $id) {__typename}}"""
            said = self.graphql(query, id=found["scheduleState"]["id"])["stopRunningSchedule"]
            assert said["__typename"] == "ScheduleStateResult", said

    def would_request(self, schedule: str, at: datetime) -> list[dict[str, Any]]:
        """The runs that Dagster would launch for a schedule at that time."""
        query = """mutation($s: ScheduleSelector!, $at: Float) {
            scheduleDryRun(selectorData: $s, timestamp: $at) {... on DryRunInstigationTick {
            evaluationResult {error {message} runRequests {tags {key value}}}}}}"""
        data = self.graphql(query, s=selector(scheduleName=schedule), at=at.timestamp())
        found = data["scheduleDryRun"]["evaluationResult"]
        assert found["error"] is None, found
        requests: list[dict[str, Any]] = found["runRequests"]
        return requests

    def looks(self, sensor: str) -> list[dict[str, Any]]:
        """Finished looks of a sensor, newest first."""
        query = """query($s: SensorSelector!) {sensorOrError(sensorSelector: $s) {... on Sensor {
            sensorState {ticks(limit: 50) {status timestamp endTimestamp runIds skipReason}}}}}"""
        found = self.graphql(query, s=selector(sensorName=sensor))["sensorOrError"]
        ticks: list[dict[str, Any]] = found["sensorState"]["ticks"]
        assert [tick for tick in ticks if tick["status"] == "FAILURE"] == []
        return [tick for tick in ticks if tick["endTimestamp"]]

    def next_look(self, sensor: str) -> None:
        """Wait for a look of a sensor that begins from now on."""
        now = time.time()

        def has_looked() -> bool:
            return any(look["timestamp"] > now for look in self.looks(sensor))

        wait_for(has_looked, f"a look of {sensor}")

    def runs(self, **tags: str) -> list[dg.DagsterRun]:
        """Runs with these tags (`__` for `/` in their names), newest first."""
        named = {name.replace("__", "/"): value for name, value in tags.items()}
        return list(self.dagster.get_runs(dg.RunsFilter(tags=named)))

    def ended(self, **tags: str) -> dg.DagsterRun:
        """Wait for a run with these tags, and for its end."""

        def over() -> dg.DagsterRun | None:
            return next((run for run in reversed(self.runs(**tags)) if run.is_finished), None)

        return wait_for(over, f"the end of a run with {tags}")

    def settled(self, model: str) -> int:
        """Wait until no run of a model is left; return the version in production."""

        def over() -> bool:
            return all(run.is_finished for run in self.runs(serving__model=model))

        wait_for(over, f"the end of all runs of {model}")
        found = self.production(model)
        assert found is not None
        return found

    def launch(self, assets: list[list[str]], checks: list[tuple[list[str], str]]) -> None:
        """Launch exactly these assets and checks, and wait for the run to succeed."""
        query = """mutation($p: ExecutionParams!) {launchRun(executionParams: $p) {
            __typename ... on LaunchRunSuccess {run {runId}}}}"""
        chosen = {
            "repositoryLocationName": LOCATION,
            "repositoryName": REPOSITORY,
            "pipelineName": "__ASSET_JOB",
            "assetSelection": [{"path": path} for path in assets],
            "assetCheckSelection": [
                {"assetKey": {"path": path}, "name": name} for path, name in checks
            ],
        }
        said = self.graphql(query, p={"selector": chosen, "mode": "default"})["launchRun"]
        run_id = said["run"]["runId"]

        def over() -> dg.DagsterRun | None:
            found = self.dagster.get_run_by_id(run_id)
            return found if found is not None and found.is_finished else None

        assert wait_for(over, "the end of a run").is_success

    @contextlib.contextmanager
    def without_daemon(self) -> Iterator[None]:
        """`kill -9` Dagster's daemon, which the stack starts again when the block is left."""
        tether = psutil.Process(self.stack.states()[DAEMON].pid)
        (daemon,) = tether.children()
        tether.suspend()  # it would report the end of the daemon
        try:
            daemon.kill()
            wait_for(lambda: daemon.status() == psutil.STATUS_ZOMBIE, "the end of the daemon")
            yield
        finally:
            tether.resume()
        since = time.time()
        wait_for(lambda: daemon_healthy(self.settings.dagster_url, since), "another daemon")

    def call(self, method: str, model: str, path: str, **options: Any) -> Any:
        answer = self.client.request(
            method,
            f"{self.settings.gateway_url}/models/{model}{path}",
            headers={"authorization": f"Bearer {self.token}"},
            **options,
        )
        assert answer.status_code == 200, answer.text
        return answer.json()

    def production(self, model: str) -> int | None:
        """Version that answers; None where none does."""
        answer = self.client.post(
            f"{self.settings.gateway_url}/models/{model}/predict", json={"data": [[0.0, 0.0]]}
        )
        return int(answer.json()["version"]) if answer.status_code == 200 else None

    def notified(self, *words: str) -> Callable[[], bool]:
        """Whether one message holds all these words."""
        return lambda: any(
            all(word in text for word in words) for text in list(self.receiver.texts)
        )

    def beside(self) -> None:
        """What goes on all the time: rows as no training set has them, until that is noticed."""
        rng = np.random.default_rng(7)
        for turn in itertools.count():
            if self.over.wait(1):
                return
            if not self.drifted.is_set():
                rows = rng.normal(6, 1, (30, 2)).round(3).tolist()
                url = f"{self.settings.gateway_url}/models/quick/predict"
                self.client.post(url, json={"data": rows})
            # Again and again: a scheduler that is in the midst of a tick overwrites a stop.
            for name in set(self.once) if turn % 5 == 0 else ():
                if self.runs(dagster__schedule_name=name):
                    self.stop_schedule(name)


def wait_for(found: Callable[[], T | None], what: str) -> T:
    """Return what `found` finds, asked a few times a second, and less often as time passes."""
    began = time.monotonic()
    while not (result := found()):
        waited = time.monotonic() - began
        if waited > RUN_DEADLINE_S:
            raise TimeoutError(f"not within {RUN_DEADLINE_S} s: {what}")
        time.sleep(min(max(waited / 20, 0.3), 2))
    return result


def selector(**name: str) -> dict[str, str]:
    return {"repositoryLocationName": LOCATION, "repositoryName": REPOSITORY, **name}
