"""The version that a configured release lets `gateway_reload` switch to."""

from __future__ import annotations

from typing import Final

import dagster as dg

from platform_assets.model_spec import ModelSpec
from platform_assets.resources.failures import as_failure, failure
from platform_assets.resources.gateway import GatewayClientError, GatewayResource, routed_version
from platform_assets.serving.loads import newest_load
from platform_assets.serving.records import ServingState
from platform_assets.serving.switching import PRODUCTION
from serving_gateway.contract import Release, ReleaseState

_REMEDY: Final = (
    "look at the page of the gateway or at the asset release for what it does, and at sensor "
    "release_pilot, which launches this by itself when all steps ended with go"
)


def require_cleared_release(
    spec: ModelSpec,
    newest: ServingState,
    gateway: GatewayResource,
    instance: dg.DagsterInstance,
) -> ServingState:
    """Return the load that may be switched to: that of the version whose release reached go.

    That is not always the newest one: a training may have loaded another version since.
    Without a release in the model file, with nothing in production, or with this version there
    already, it is `newest`.

    Raises:
        dagster.Failure: no release reached go, or the gateway cannot be asked.
    """
    if spec.release is None:
        return newest
    with as_failure(
        "production was not switched, since the gateway cannot be asked whether the release of "
        f"version {newest.version} reached go",
        "bring the gateway back, then run this again",
        GatewayClientError,
    ):
        statuses = gateway.model_statuses(spec.model_name)
        production = {routed_version(status, PRODUCTION) for status in statuses} - {None}
        if not production or production == {newest.version}:
            return newest
        release = gateway.release(spec.model_name).release
    if release is None or release.state is not ReleaseState.CLEARED:
        raise failure(
            f"production was not switched to version {newest.version}: {spec.model_name} has "
            f"releases, and {_describe(release)}",
            _REMEDY,
        )
    return _find_load(release, newest, spec, instance)


def _find_load(
    release: Release, newest: ServingState, spec: ModelSpec, instance: dg.DagsterInstance
) -> ServingState:
    if release.version == newest.version:
        return newest
    load = newest_load(instance, spec, release.version)
    if load is None:
        raise failure(
            f"production was not switched: the release of version {release.version} reached go, "
            "but Dagster has no record of its load",
            f"stop the release (job {spec.model_name}_stop_release); the newest loaded version "
            "is then released",
        )
    return load.state


def _describe(release: Release | None) -> str:
    if release is None:
        return "there was none yet"
    reason = f": {release.reason}" if release.reason else ""
    step = f", in step {release.step + 1} of {len(release.plan.steps)}"
    where = step if release.state is ReleaseState.RUNNING else ""
    return f"that of version {release.version} is {release.state.value}{where}{reason}"
