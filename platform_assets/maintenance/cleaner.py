"""Deletes expired records, merges small log files, and keeps count of both."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import dagster as dg

from platform_assets.maintenance.limits import Limits, cutoff
from platform_assets.maintenance.selection import DatedEntry, deletable_runs, select_expired
from platform_assets.maintenance.usage import UNKNOWN, Servers, Usage, find_usage, table_usage
from platform_assets.model_spec import FeatureTableSpec, ModelSpec
from platform_assets.prediction_log.merging import MergedLog, merge_ended_days
from platform_assets.run_tags import MODEL_TAG

JOB: Final = "maintenance"
_OVER: Final = (
    dg.DagsterRunStatus.SUCCESS,
    dg.DagsterRunStatus.FAILURE,
    dg.DagsterRunStatus.CANCELED,
)
_NAMED: Final = 50
"""Names of deleted records in the run's metadata; its log has all of them."""


@dataclass(slots=True)
class Cleaner:
    """One pass over all models."""

    instance: dg.DagsterInstance
    servers: Servers
    folders: Mapping[str, Callable[[str], Path]]
    """Functions that return a model's folder, by its content: `proof`, `sample` and so on."""
    limits: Limits
    now: datetime
    log: Callable[[str], object]
    deleted: dict[tuple[str, str], list[str]] = field(default_factory=dict)
    """Names of deleted records by model and kind."""
    stopped: dict[str, str] = field(default_factory=dict)
    """Models whose remaining records were left alone, and why."""
    merged: dict[str, MergedLog] = field(default_factory=dict)
    """Merged files of the prediction log by model, where there were any."""
    _known: dict[str, Usage] = field(default_factory=dict)

    def clean_model(self, spec: ModelSpec) -> None:
        """Delete the old MLflow runs and files of a model; nothing if its usage is unknown."""
        name = spec.model_name
        try:
            usage = find_usage(spec, self.servers, self.instance, self.limits.keep)
            self._clean_mlflow(name, usage)
            for kind in self.folders:
                self._clean_folder(spec, kind, usage)
        except (*UNKNOWN, OSError) as error:
            self.stopped[name] = str(error)
        else:
            self._known[name] = usage

    def add_table(self, table: FeatureTableSpec) -> None:
        """Let `clean_runs` delete the old runs of a feature table, too."""
        self._known[table.name] = table_usage(table, self.instance)

    def merge_log(self, name: str, folder: Path) -> None:
        """Merge the small files of the ended days of a model's prediction log."""
        try:
            merged = merge_ended_days(folder, self.now.astimezone(UTC).date())
        except OSError as error:
            why = f"files of its log were not merged: {error}"
            self.stopped[name] = "; ".join(filter(None, (self.stopped.get(name), why)))
            return
        if merged.before:
            self.log(f"{name}: merged {merged.before} files of its log into {merged.after}")
            self.merged[name] = merged

    def clean_runs(self) -> None:
        """Delete the old Dagster runs of the models and tables that are known by now."""
        before = cutoff(self.now, self.limits.run_days)
        if before is None:
            return
        old = dg.RunsFilter(statuses=[*_OVER], created_before=before)
        runs = {record.dagster_run.run_id: record for record in self.instance.get_run_records(old)}
        aged = [
            DatedEntry(run_id, record.create_timestamp.timestamp(), _kind(record.dagster_run))
            for run_id, record in runs.items()
            if self._is_known(record.dagster_run)
        ]
        protected = frozenset[str]().union(*(usage.dagster_runs for usage in self._known.values()))
        for run_id in select_expired(
            aged, before=before.timestamp(), keep=self.limits.keep, protected=protected
        ):
            self.instance.delete_run(run_id)
            _delete_local_files(run_id)
            models = ", ".join(sorted(models_of(runs[run_id].dagster_run)))
            self._note(models, "Dagster run", run_id)

    def rows(self) -> list[dict[str, str | int]]:
        """Return the deletions by model and kind."""
        return [
            {
                "model": model,
                "kind": kind,
                "deleted": len(names),
                "names": ", ".join(names[:_NAMED]) + (" …" if len(names) > _NAMED else ""),
            }
            for (model, kind), names in self.deleted.items()
        ]

    def _is_known(self, run: dg.DagsterRun) -> bool:
        """Whether the usage of all models of a run is known; not for other projects' runs."""
        models = models_of(run)
        return models <= self._known.keys() and (bool(models) or run.job_name == JOB)

    def _clean_mlflow(self, name: str, usage: Usage) -> None:
        before = cutoff(self.now, self.limits.mlflow_days)
        runs = self.servers.mlflow.runs_before(name, before) if before else []
        for run in deletable_runs(runs, usage.mlflow_runs):
            self.servers.mlflow.delete_run(run)
            self._note(name, "MLflow run", run.run_id)

    def _clean_folder(self, spec: ModelSpec, kind: str, usage: Usage) -> None:
        name = spec.model_name
        before = cutoff(self.now, self.limits.days(kind, spec))
        if before is None:
            return
        folders = {kind_: folder_of(name) for kind_, folder_of in self.folders.items()}
        folder = folders[kind]
        # A link points at the newest proof; a name that begins with a dot is being written; and
        # the folder of one kind may lie in that of another.
        paths = [
            path
            for path in (folder.iterdir() if folder.is_dir() else ())
            if not path.is_symlink()
            and not path.name.startswith(".")
            and path not in folders.values()
        ]
        aged = [DatedEntry(path.name, path.stat().st_mtime) for path in paths]
        protected = usage.proofs if kind == "proof" else ()
        for entry in select_expired(
            aged, before=before.timestamp(), keep=self.limits.keep, protected=protected
        ):
            _delete(folder / entry)
            self._note(name, kind, entry)

    def _note(self, model: str, kind: str, name: str) -> None:
        self.log(f"{model}: deleted {kind} {name}")
        self.deleted.setdefault((model, kind), []).append(name)


def models_of(run: dg.DagsterRun) -> set[str]:
    """Return the models that a run concerns, from its tag and its assets and checks."""
    keys = {*(run.asset_selection or ())}
    keys |= {check.asset_key for check in run.asset_check_selection or ()}
    return {key.path[0] for key in keys} | {run.tags.get(MODEL_TAG, "")} - {""}


def _kind(run: dg.DagsterRun) -> str:
    # A sensor's newest runs show which of its requests were served: each sensor is its own kind.
    launcher = run.tags.get("dagster/sensor_name") or run.tags.get("dagster/schedule_name", "")
    return f"{run.job_name} by {launcher}"


def _delete_local_files(run_id: str) -> None:
    """Delete what Dagster leaves of a run on local disk: an emptied database, and its output."""
    if home := os.environ.get("DAGSTER_HOME"):
        _delete(Path(home) / "history" / "runs" / f"{run_id}.db")
        _delete(Path(home) / "storage" / run_id)


def _delete(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
