"""Recover from killed processes and corrupt files before a service starts."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from platform_assets.resources.version_files import RepositoryError, verify_version
from serving_gateway.contract import CONFIG_FILE, PROVENANCE_FILE


def exclude_corrupt_versions(repository: Path) -> Iterator[tuple[str, str]]:
    """Remove versions that changed after packaging from the policies on disk.

    Triton loads all versions that a policy names or none of them, so one broken file would
    keep the healthy ones from coming back. A policy without any healthy version stays unchanged:
    there is nothing to serve, and the reconcile job reports why. Yields the model name and the
    reason for each broken version.
    """
    for config_file in sorted(repository.glob(f"*/{CONFIG_FILE}")):
        broken: dict[int, str] = {}
        for directory in config_file.parent.iterdir():
            # Without provenance it was not packaged here, and cannot be verified.
            if directory.name.isdecimal() and (directory / PROVENANCE_FILE).exists():
                try:
                    verify_version(directory)
                except RepositoryError as error:
                    broken[int(directory.name)] = str(error)
        if broken:
            if problem := _remove_from_policy(config_file, frozenset(broken)):
                yield config_file.parent.name, problem
            for reason in broken.values():
                yield config_file.parent.name, reason


def _remove_from_policy(config_file: Path, broken: frozenset[int]) -> str:
    """Remove versions from a policy; return why that is impossible, else an empty text."""
    from platform_assets.export.triton_config import (
        ConfigError,
        from_text,
        served_versions,
        to_text,
        with_versions,
    )
    from platform_assets.resources.model_repository import ModelRepository

    try:
        config = from_text(config_file.read_text(encoding="utf-8"))
    except (ConfigError, UnicodeDecodeError) as error:
        return f"its {CONFIG_FILE} cannot be read: {error}"
    named = served_versions(config)
    whole = [version for version in named if version not in broken]
    if whole and len(whole) < len(named):
        repository = ModelRepository(root=str(config_file.parents[1]))
        repository.persist_config(config_file.parent.name, to_text(with_versions(config, whole)))
    return ""


def fail_abandoned_runs() -> list[str]:
    """Report every unfinished run of this Dagster instance as failed; return their ids.

    Run workers are children of the code server and never outlive it, so runs that are recorded as
    started when it starts have lost their processes. Without this they would hold their turns
    forever. Restarts of the daemon do not matter: runs continue without it.
    """
    from dagster import DagsterInstance, DagsterRunStatus, RunsFilter

    unfinished = [
        DagsterRunStatus.STARTING,
        DagsterRunStatus.STARTED,
        DagsterRunStatus.CANCELING,
    ]
    with DagsterInstance.get() as instance:
        runs = instance.get_runs(filters=RunsFilter(statuses=unfinished))
        for run in runs:
            instance.report_run_failed(
                run,
                "The process of this run was killed, or the machine went down. What was served "
                "is still served; launch the run again.",
            )
    return [run.run_id for run in runs]
