"""Failures as the Dagster UI shows them, and the client errors that become failures."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Final

from dagster import DagsterInvariantViolationError, Failure, OpExecutionContext, RetryRequested

from platform_assets.intervals import retry_seconds
from platform_assets.resources.feast_errors import FeatureStoreError
from platform_assets.resources.gateway import GatewayUnavailable
from platform_assets.resources.mlflow_client import MlflowUnavailable, RegistryError
from platform_assets.resources.redaction import without_secrets
from platform_assets.resources.triton_api import TritonUnreachable

STILL_TRUE: Final = (
    "Nothing changed in serving: GET /models of the gateway says what is in production."
)
"""True also of a model that was never served."""
TRANSIENT: Final = "transient"
"""Metadata key of a failure whose cause may pass by itself."""
RETRIES: Final = 3
_AWAY: Final = (MlflowUnavailable, GatewayUnavailable, TritonUnreachable)
_BUSY: Final = frozenset({429, 502, 503, 504})


def failure(
    what: str,
    todo: str,
    *,
    metadata: Mapping[str, str | int | float] | None = None,
    still_true: str = STILL_TRUE,
    allow_retries: bool = False,
) -> Failure:
    """Build the failure of a step: what happened, what is still served, what to do.

    Secrets of the environment are taken out. `allow_retries` says that the cause may pass by
    itself, such as a server that is down; `metadata` is shown with the failure.

    Raises:
        dagster.RetryRequested: instead of returning, where retries are allowed and the step that
            runs has some left.
    """
    what, todo = (without_secrets(text, os.environ).rstrip(". ") for text in (what, todo))
    what = what[:1].upper() + what[1:]
    made = Failure(
        description=f"{what}. {still_true} What to do: {todo}.",
        metadata={
            "what_to_do": todo,
            "still_served": still_true,
            TRANSIENT: allow_retries,
            **(metadata or {}),
        },
        allow_retries=allow_retries,
    )
    if allow_retries:
        request_retry(made)
    return made


def is_transient(error: Exception) -> bool:
    """Whether a server was away or busy, so that the same call may succeed later."""
    return isinstance(error, _AWAY) or getattr(error, "status", None) in _BUSY


def request_retry(cause: Exception) -> None:
    """End this try of the step that runs, where it has another one; return where it has none.

    Raises:
        dagster.RetryRequested: the step is tried again, each time after twice as long.
    """
    # Not by a RetryPolicy: under one Dagster also starts a canceled step again, and one that
    # an error in the code ended after hours of training.
    try:
        attempts = OpExecutionContext.get().retry_number
    except DagsterInvariantViolationError:
        return
    if attempts < RETRIES:
        raise RetryRequested(RETRIES, retry_seconds() * 2**attempts) from cause


@contextmanager
def as_failure(
    what: str, todo: str, *errors: type[Exception], still_true: str = STILL_TRUE
) -> Iterator[None]:
    """Turn `errors` in the block into the failure of a step: `what` happened, and why.

    Where `what` is empty, the error says it all. The step is tried again where a server was away.
    """
    try:
        yield
    except errors as exc:
        raise failure(
            f"{what}: {exc}" if what else str(exc),
            todo,
            still_true=still_true,
            allow_retries=is_transient(exc),
        ) from exc


@contextmanager
def mlflow_failures(step: str) -> Iterator[None]:
    """Turn a `RegistryError` in the block into the failure of the asset `step`."""
    again = f"then run again from {step}"
    back = f"start MLflow (or wait until it answers), {again}: what was made before it is kept"
    with (
        as_failure("", f"solve that in MLflow, {again}", RegistryError),
        as_failure("", back, MlflowUnavailable),
    ):
        yield


@contextmanager
def feast_failures() -> Iterator[None]:
    """Turn the feature store's errors in the block into the failure of a step that uses it."""
    try:
        yield
    except (FeatureStoreError, OSError) as exc:
        raise failure(
            str(exc),
            "solve that in the feature store, then run again from online_features",
            allow_retries=True,
        ) from exc
