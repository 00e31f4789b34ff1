"""A chain that is followed through Dagster's webserver, whose answers are played here."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest

from platform_assets.local_stack import chain
from platform_assets.local_stack.chain import ChainResult
from platform_assets.local_stack.processes import daemon_healthy, definitions_loaded
from platform_assets.local_stack.run_progress import ChainEvent
from platform_assets.local_stack.settings import StackError


class Webserver:
    """Answers queries in order with what the test says."""

    def __init__(self) -> None:
        answers: list[dict[str, Any]] = []

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                self.rfile.read(int(self.headers["content-length"]))
                body = json.dumps(answers.pop(0)).encode()
                self.send_response(200)
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: Any) -> None:
                pass

        self.answers = answers
        self.server = HTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def plays(self, *data: dict[str, Any]) -> str:
        self.answers[:] = [{"data": one} for one in data]
        return self.url


@pytest.fixture
def webserver() -> Iterator[Webserver]:
    played = Webserver()
    threading.Thread(target=played.server.serve_forever, daemon=True).start()
    yield played
    played.server.shutdown()
    played.server.server_close()


def launch(kind: str, **more: Any) -> dict[str, Any]:
    return {"launchRun": {"__typename": kind, **more}}


PLANNED = {"__typename": "AssetMaterializationPlannedEvent", "stepKey": "m__features"}
STARTED = launch("LaunchRunSuccess", run={"runId": "r1"})


def logs(*events: dict[str, Any], status: str = "STARTED") -> dict[str, Any]:
    found = {"__typename": "EventConnection", "cursor": "c", "events": list(events)}
    return {"logsForRun": found, "runOrError": {"status": status}}


def check(*, success: bool, severity: str, description: str | None) -> dict[str, Any]:
    evaluation = {
        "checkName": "parity",
        "success": success,
        "severity": severity,
        "description": description,
        "assetKey": {"path": ["m", "onnx_model"]},
    }
    return {"__typename": "AssetCheckEvaluationEvent", "evaluation": evaluation}


def failed_step(class_name: str, *causes: str, note: str | None = None) -> dict[str, Any]:
    said = [{"message": cause} for cause in causes]
    return {
        "__typename": "ExecutionStepFailureEvent",
        "stepKey": "m__features",
        "error": {"className": class_name, "message": "it failed", "causes": said},
        "failureMetadata": None if note is None else {"description": note},
    }


def test_run_is_followed_to_its_end(webserver: Webserver) -> None:
    seen: list[ChainEvent] = []
    events = (
        {"__typename": "RunStartEvent", "stepKey": None},
        *(PLANNED, PLANNED),
        {"__typename": "MaterializationEvent", "assetKey": {"path": ["m", "features"]}},
        check(success=True, severity="ERROR", description="fine"),
        check(success=False, severity="WARN", description=None),
        check(success=False, severity="ERROR", description="it differs"),
        failed_step("DagsterAssetCheckFailedError"),
        failed_step("DagsterExecutionStepExecutionError", "no such file"),
        failed_step("Failure", "unused", note="the source is empty\n"),
        failed_step("DagsterExecutionInterruptedError"),
        {"__typename": "RunFailureEvent", "message": "Steps failed: m__features"},
    )
    url = webserver.plays(STARTED, logs(*events), logs(status="FAILURE"))

    assert chain.run_chain(url, "m_chain", seen.append) == ChainResult("r1", "FAILURE")

    name = "m/onnx_model:parity"
    assert seen == [
        ChainEvent("launched", "m_chain", f"{url}/runs/r1"),
        ChainEvent("asset", "m/features", "1 of 2"),
        ChainEvent("check", name),
        ChainEvent("warning", name, "the check did not pass"),
        ChainEvent("failure", name, "it differs"),
        ChainEvent("failure", "m__features", "no such file"),
        ChainEvent("failure", "m__features", "the source is empty"),
    ]


def test_run_that_ends_without_a_failed_step_has_the_reason_of_the_run(
    webserver: Webserver,
) -> None:
    seen: list[ChainEvent] = []
    why = {"__typename": "RunFailureEvent", "message": "The process of this run was killed."}
    url = webserver.plays(STARTED, logs(why), logs(status="FAILURE"))

    assert chain.run_chain(url, "m_chain", seen.append).status == "FAILURE"
    assert seen[1:] == [ChainEvent("failure", "m_chain", "The process of this run was killed.")]


class Clock:
    """Time that passes only while the code sleeps: three seconds for each that it asks for."""

    now = 0.0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += 3 * seconds


def step(kind: str, key: str = "m__trained_model") -> dict[str, Any]:
    return {"__typename": f"ExecutionStep{kind}Event", "stepKey": key}


def heartbeats(seen: list[ChainEvent]) -> list[tuple[str, str]]:
    return [(event.name, event.detail) for event in seen if event.kind == "waiting"]


def test_heartbeat_names_the_step_in_progress_and_comes_less_often_as_it_goes_on(
    webserver: Webserver, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[ChainEvent] = []
    monkeypatch.setattr(chain, "time", Clock())
    chatter = logs({"__typename": "LogMessageEvent", "stepKey": "m__trained_model"})
    began = logs(
        PLANNED, step("Start", "m__features"), step("Success", "m__features"), step("Start")
    )

    url = webserver.plays(STARTED, began, *[chatter] * 33, logs(status="SUCCESS"))

    assert chain.run_chain(url, "m_chain", seen.append).succeeded
    at = [f"{after} s" for after in (6, 18, 39, 69, 99)]
    assert heartbeats(seen) == [("m: trained_model", after) for after in at]


def test_run_without_a_step_says_what_it_waits_for(
    webserver: Webserver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chain, "time", Clock())
    ended = (step("Start"), step("Success"))
    for status, waits in (
        ("QUEUED", "queued behind another run"),
        ("STARTING", "its process starts"),
        ("STARTED", "between two steps"),
        ("CANCELING", "being canceled"),
    ):
        seen: list[ChainEvent] = []
        answers = (logs(PLANNED, *ended, status=status), *[logs(status=status)] * 2)
        url = webserver.plays(STARTED, *answers, logs(status="SUCCESS"))
        chain.run_chain(url, "m_chain", seen.append)
        assert heartbeats(seen) == [(f"m_chain: {waits}", "6 s")]


def test_run_that_cannot_be_launched_says_why(webserver: Webserver) -> None:
    for answer, said in (
        (launch("PipelineNotFoundError", message="?"), "model_file says why"),
        (launch("RunConfigValidationInvalid"), "RunConfigValidationInvalid"),
        (launch("PythonError", message="no room"), "no room"),
    ):
        with pytest.raises(StackError, match=said):
            chain.run_chain(webserver.plays(answer), "m_chain", print)
    webserver.answers[:] = [{"errors": [{"message": "unknown field", "path": []}]}]
    with pytest.raises(StackError, match="refused a query: unknown field"):
        chain.run_chain(webserver.url, "m_chain", print)


def test_models_are_known_by_the_jobs_of_their_chains(webserver: Webserver) -> None:
    jobs = [{"name": name} for name in ("cars_drift", "churn_chain", "cars_chain", "__ASSET_JOB")]
    url = webserver.plays({"repositoryOrError": {"jobs": jobs}})
    assert chain.models_with_chain(url) == ["cars", "churn"]
    assert chain.models_with_chain(webserver.plays({"repositoryOrError": {}})) == []


def test_definitions_that_do_not_load_are_reported(webserver: Webserver) -> None:
    good = {"__typename": "RepositoryLocation"}
    entry = {"__typename": "WorkspaceLocationEntry", "locationOrLoadError": good}
    chain.reload_definitions(webserver.plays({"reloadRepositoryLocation": entry}))
    bad = {"__typename": "PythonError", "message": "no module"}
    for outcome in (bad, {**entry, "locationOrLoadError": bad}):
        url = webserver.plays({"reloadRepositoryLocation": outcome})
        with pytest.raises(StackError, match="do not load: no module"):
            chain.reload_definitions(url)
    for location, loaded in ((good, True), (bad, False), (None, False)):
        entries = {"locationEntries": [{"locationOrLoadError": location}]}
        assert definitions_loaded(webserver.plays({"workspaceOrError": entries})) is loaded
    assert not definitions_loaded(webserver.plays({"workspaceOrError": {}}))


def test_process_with_the_definitions_that_is_being_restarted_is_waited_for(
    webserver: Webserver,
) -> None:
    good = {"__typename": "RepositoryLocation"}
    away = {"__typename": "PythonError", "message": "Could not reach user code server. gRPC Error"}
    entry = {"__typename": "WorkspaceLocationEntry", "locationOrLoadError": good}
    answers = [{"reloadRepositoryLocation": one} for one in (away, away, entry)]

    chain.reload_definitions(webserver.plays(*answers))

    assert not webserver.answers
    url = webserver.plays({"reloadRepositoryLocation": away})
    with pytest.raises(StackError, match="do not load: Could not reach user code server"):
        chain.reload_definitions(url, patience_s=0)


def test_daemons_count_from_their_own_start_on(webserver: Webserver) -> None:
    def daemons(*beats: float | None) -> str:
        found = [{"required": True, "healthy": True, "lastHeartbeatTime": one} for one in beats]
        idle = {"required": False, "healthy": None, "lastHeartbeatTime": None}
        health = {"daemonHealth": {"allDaemonStatuses": [*found, idle]}}
        return webserver.plays({"instance": health})

    assert daemon_healthy(daemons(10.0, 11.0), since=10.0)
    assert not daemon_healthy(daemons(10.0, 9.0), since=10.0)
    assert not daemon_healthy(daemons(None), since=10.0)
    assert not daemon_healthy(daemons(), since=10.0)
