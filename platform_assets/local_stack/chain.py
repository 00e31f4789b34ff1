"""Launch the chain in the running Dagster and follow it, as a person would in the UI."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from platform_assets.local_stack.http import post
from platform_assets.local_stack.settings import StackError

LOCATION: Final = "platform"
REPOSITORY: Final = "__repository__"

_POLL_S: Final = 0.5
_ENDED: Final = frozenset({"SUCCESS", "FAILURE", "CANCELED"})

_LAUNCH: Final = """
mutation Launch($selector: JobOrPipelineSelector!) {
  launchRun(executionParams: {selector: $selector, mode: "default"}) {
    __typename
    ... on LaunchRunSuccess { run { runId } }
    ... on PythonError { message }
    ... on PipelineNotFoundError { message }
    ... on RunConfigValidationInvalid { errors { message } }
  }
}
"""

_RELOAD: Final = """
mutation Reload($location: String!) {
  reloadRepositoryLocation(repositoryLocationName: $location) {
    __typename
    ... on WorkspaceLocationEntry {
      locationOrLoadError { __typename ... on PythonError { message } }
    }
    ... on PythonError { message }
  }
}
"""

_FOLLOW: Final = """
query Follow($runId: ID!, $cursor: String) {
  logsForRun(runId: $runId, afterCursor: $cursor) {
    __typename
    ... on EventConnection {
      cursor
      events {
        __typename
        ... on MessageEvent { message stepKey }
        ... on AssetCheckEvaluationEvent {
          evaluation { checkName success severity description assetKey { path } }
        }
        ... on MaterializationEvent { assetKey { path } }
        ... on ExecutionStepFailureEvent {
          error { className message causes { message } }
          failureMetadata { description }
        }
        ... on RunFailureEvent { error { message } }
      }
    }
  }
  runOrError(runId: $runId) { ... on Run { status } }
}
"""


@dataclass(frozen=True, slots=True)
class ChainEvent:
    """Something that a person who waits would like to see.

    `kind` is `asset`, `check`, `warning` or `failure`.
    """

    kind: str
    name: str
    detail: str = ""


@dataclass(frozen=True, slots=True)
class ChainResult:
    """How a run ended."""

    run_id: str
    succeeded: bool
    failures: tuple[ChainEvent, ...]


def chain_job_name(model_name: str) -> str:
    """Name of the job that takes a model from its source to production."""
    return f"{model_name.replace('-', '_')}_chain"


def reload_definitions(dagster_url: str) -> None:
    """Make Dagster read the model files again, as its UI's Reload does.

    Raises:
        StackError: the code location does not load; the message is its own.
    """
    answer = _graphql(dagster_url, _RELOAD, {"location": LOCATION})["reloadRepositoryLocation"]
    loaded = answer.get("locationOrLoadError") or answer
    if loaded["__typename"] != "RepositoryLocation":
        said = loaded.get("message", loaded["__typename"])
        raise StackError(f"the definitions do not load: {said}")


def run_chain(
    dagster_url: str,
    job: str,
    on_event: Callable[[ChainEvent], None],
    *,
    silence_s: float = 1800.0,
) -> ChainResult:
    """Launch `job` through the webserver and return when the run has ended.

    Raises:
        StackError: Dagster refused the launch, stopped answering, or nothing was heard of the
            run for `silence_s` seconds (it goes on; the UI shows it).
    """
    selector = {
        "repositoryLocationName": LOCATION,
        "repositoryName": REPOSITORY,
        "pipelineName": job,
    }
    launched = _graphql(dagster_url, _LAUNCH, {"selector": selector})["launchRun"]
    if launched["__typename"] == "PipelineNotFoundError":
        raise StackError(
            f"Dagster has no job {job}, so the definitions of that model cannot be built: the "
            f"description of its asset model_file says why, see {dagster_url}/assets"
        )
    if launched["__typename"] != "LaunchRunSuccess":
        raise StackError(f"Dagster did not launch {job}: {json.dumps(launched)}")
    run_id = str(launched["run"]["runId"])
    failures: list[ChainEvent] = []
    cursor: str | None = None
    heard = time.monotonic()
    while time.monotonic() - heard < silence_s:
        answer = _graphql(dagster_url, _FOLLOW, {"runId": run_id, "cursor": cursor})
        status = answer["runOrError"]["status"]
        logs = answer["logsForRun"]
        cursor = logs["cursor"]
        if logs["events"]:
            heard = time.monotonic()
        for raw in logs["events"]:
            event = _event(raw)
            if event is not None:
                on_event(event)
                if event.kind == "failure":
                    failures.append(event)
        if status in _ENDED and not logs["events"]:
            return ChainResult(run_id, status == "SUCCESS", tuple(failures))
        time.sleep(_POLL_S)
    raise StackError(
        f"nothing was heard of run {run_id} of {job} for {silence_s:.0f} s; it goes on, see "
        f"{dagster_url}/runs/{run_id}"
    )


def _event(raw: dict[str, Any]) -> ChainEvent | None:
    kind = raw["__typename"]
    if kind == "MaterializationEvent":
        return ChainEvent("asset", "/".join(raw["assetKey"]["path"]))
    if kind == "AssetCheckEvaluationEvent":
        return _check_event(raw["evaluation"])
    # A blocking check has told already, by name and in its own words, why it ends the run.
    if kind == "ExecutionStepFailureEvent" and not _by_check(raw):
        return ChainEvent("failure", raw["stepKey"] or "", _failure_text(raw))
    return None


def _by_check(raw: dict[str, Any]) -> bool:
    return (raw.get("error") or {}).get("className") == "DagsterAssetCheckFailedError"


def _check_event(evaluation: dict[str, Any]) -> ChainEvent:
    name = "/".join(evaluation["assetKey"]["path"]) + ":" + evaluation["checkName"]
    if evaluation["success"]:
        return ChainEvent("check", name)
    kind = "failure" if evaluation["severity"] == "ERROR" else "warning"
    return ChainEvent(kind, name, evaluation["description"] or "the check did not pass")


def _failure_text(raw: dict[str, Any]) -> str:
    described = (raw.get("failureMetadata") or {}).get("description")
    if described:
        return str(described)
    error = raw.get("error") or {}
    messages = [error.get("message", ""), *(c["message"] for c in error.get("causes") or [])]
    return str(messages[-1]).strip()


def _graphql(dagster_url: str, query: str, variables: dict[str, Any]) -> dict[str, Any]:
    try:
        asked = {"query": query, "variables": variables}
        body = post(f"{dagster_url}/graphql", asked, dict[str, Any], timeout_s=60)
    except (OSError, ValueError) as error:
        raise StackError(
            f"Dagster at {dagster_url} does not answer ({error}): start it with `make up`, or "
            "give the DAGSTER_PORT that it was started with"
        ) from error
    if body.get("errors"):
        raise StackError(f"Dagster refused a query: {body['errors'][0]['message']}")
    return dict(body["data"])
