"""The shape of every failure that a person meets in the Dagster UI."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Final

from dagster import Failure

from platform_assets.resources.mlflow_client import MlflowUnavailable, RegistryError
from platform_assets.resources.redaction import without_secrets

STILL_TRUE: Final = (
    "Nothing changed in serving: GET /models of the gateway says what is in production."
)
"""True also of a model that was never served."""


def failure(
    what: str,
    todo: str,
    *,
    metadata: Mapping[str, str | int | float] | None = None,
    still_true: str = STILL_TRUE,
    allow_retries: bool = False,
) -> Failure:
    """Build the failure of a step: what happened, what is still served, what to do.

    `allow_retries` is for causes that may pass by themselves, such as a server that is down.
    Secrets of the environment are taken out: causes may name what they were told to use.
    """
    what, todo = (without_secrets(text, os.environ).rstrip(". ") for text in (what, todo))
    what = what[:1].upper() + what[1:]
    return Failure(
        description=f"{what}. {still_true} What to do: {todo}.",
        metadata={"what_to_do": todo, "still_served": still_true, **(metadata or {})},
        allow_retries=allow_retries,
    )


@contextmanager
def mlflow_failures(step: str) -> Iterator[None]:
    """Turn a `RegistryError` in the block into the failure of the asset `step`."""
    try:
        yield
    except MlflowUnavailable as exc:
        raise failure(
            str(exc),
            f"start MLflow (or wait until it answers), then run again from {step}: what was "
            "materialized before it is kept",
            allow_retries=True,
        ) from exc
    except RegistryError as exc:
        raise failure(str(exc), f"solve that in MLflow, then run again from {step}") from exc
