"""The version that may be released next: loaded, READY, and past its gates."""

from __future__ import annotations

from datetime import datetime

import dagster as dg

from platform_assets.model_spec import ModelSpec, Task
from platform_assets.resources.mlflow import MlflowResource, RegistryError
from platform_assets.serving.loads import RecordedLoad
from platform_assets.serving.promotion import require_gates_passed
from serving_gateway.contract import EffectiveVersion, Mode, Release, ReleaseState


def release_obstacle(
    load: RecordedLoad | None,
    production: EffectiveVersion | None,
    last: Release | None,
    released_load: str,
) -> str | None:
    """Say why the newest load does not begin a release; None when its gates decide.

    `last` is the model's last release, and `released_load` the load it began with, if remembered.
    """
    if load is None or not load.state.ready:
        return "no loaded version waits for its release"
    version = load.state.version
    if production is None:
        return None
    if production.version == version:
        return f"version {version}, the newest one loaded, is in production"
    if production.mode == Mode.PINNED:
        return (
            f"version {version} waits: production is pinned to version {production.version}, "
            'which ends with a reload of variant A with {"unpin": true} at the gateway'
        )
    # By time if the load is not remembered; not by time alone, since clocks differ.
    is_new = (
        last is None or last.version != version or load.at > datetime.fromisoformat(last.started_at)
    )
    if is_new and load.state.load_id != released_load:
        return None
    how = "" if last is None else f" ({last.state.value})"
    return (
        f"version {version} was released already{how}; materialize triton_serving_state "
        "again, with its checks, to release it once more"
    )


def waiting_note(spec: ModelSpec, load: RecordedLoad | None, release: Release) -> str:
    """Say that a newer version waits for the active release to end; empty where none does."""
    if load is None or not load.state.ready:
        return ""
    version = load.state.version
    if version in {release.version, release.previous_version}:
        return ""
    note = f"version {version}, loaded meanwhile, waits until this release has ended"
    if release.state is ReleaseState.WATCHING:  # stopping it would pin the version
        return note
    return f"{note}; to begin it at once, stop this one (job {spec.model_name}_stop_release)"


def open_gates(load: RecordedLoad, instance: dg.DagsterInstance) -> str | None:
    """Name the gates that the load has not passed; None when it passed all."""
    try:
        require_gates_passed(load.state, instance)
    except dg.Failure as failure:
        return str(failure.description)
    return None


def score_scale(spec: ModelSpec, run_id: str, mlflow: MlflowResource) -> float:
    """Return the unit of score differences: 1 for probabilities, else the predictions' width.

    Raises:
        RegistryError: what a regression predicted for its held-out rows cannot be read.
    """
    if spec.task is not Task.REGRESSION:
        return 1.0
    predicted = mlflow.evaluation_set(run_id).labels
    if not len(predicted):
        raise RegistryError(f"run {run_id} has no held-out rows: their width is unknown")
    width = float(predicted.max() - predicted.min())
    return width if width > 0 else 1.0
