"""Queries of the local stack to Dagster's webserver."""

from __future__ import annotations

from typing import Final

LAUNCH: Final = """
mutation Launch($selector: JobOrPipelineSelector!) {
  launchRun(executionParams: {selector: $selector, mode: "default"}) {
    __typename
    ... on LaunchRunSuccess { run { runId } }
    ... on Error { message }
  }
}
"""

JOBS: Final = """
query Jobs($selector: RepositorySelector!) {
  repositoryOrError(repositorySelector: $selector) { ... on Repository { jobs { name } } }
}
"""

RELOAD: Final = """
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

FOLLOW: Final = """
query Follow($runId: ID!, $cursor: String) {
  logsForRun(runId: $runId, afterCursor: $cursor) {
    __typename
    ... on EventConnection {
      cursor
      events {
        __typename
        ... on MessageEvent { stepKey message }
        ... on AssetCheckEvaluationEvent {
          evaluation { checkName success severity description assetKey { path } }
        }
        ... on MaterializationEvent { assetKey { path } }
        ... on ExecutionStepFailureEvent {
          error { className message causes { message } }
          failureMetadata { description }
        }
      }
    }
  }
  runOrError(runId: $runId) { ... on Run { status } }
}
"""
