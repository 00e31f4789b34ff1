"""What the maintenance deletes, and what it must never touch."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, replace
from datetime import UTC, datetime, timedelta
from importlib.resources import files as files_of
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import dagster as dg
import pytest

from platform_assets.maintenance import cleaner as cleaner_module
from platform_assets.maintenance.cleaner import JOB, Cleaner
from platform_assets.maintenance.job import SCHEDULE_VARIABLE, maintenance_job
from platform_assets.maintenance.limits import Limits, cutoff
from platform_assets.maintenance.selection import (
    DatedEntry,
    deletable_runs,
    select_expired,
    select_kept_versions,
)
from platform_assets.maintenance.usage import Servers, Usage, find_usage
from platform_assets.model_spec import FeatureSpec, FeatureTableSpec, JoinKey, Outcomes, Source
from platform_assets.prediction_log.merging import MergedLog
from platform_assets.resources.folders import DriftReports, PredictionsFolder, ProofFolder
from platform_assets.resources.gateway import GatewayResource, GatewayUnavailable
from platform_assets.resources.mlflow import MlflowResource
from platform_assets.resources.mlflow_runs import RunEntry
from platform_assets.resources.mlflow_versions import VersionEntry
from platform_assets.resources.model_repository import ModelRepository
from platform_assets.resources.samples import SamplesFolder
from platform_assets.resources.triton import TritonResource
from platform_assets.run_tags import MODEL_TAG
from platform_assets.serving.ledger import BEST_VERSION
from platform_assets.shared_definitions import monitoring_definitions
from serving_gateway.contract import (
    DAGSTER_RUN_TAG,
    OUTCOMES_FOLDER,
    RUN_ID_TAG,
    SIGNATURE_DIGEST_TAG,
)
from tests.support.model_status import effective_version, model_status
from tests.support.models import IRIS
from tests.support.prediction_log import Logged, write_log

OURS = {RUN_ID_TAG: "r", SIGNATURE_DIGEST_TAG: "d"}
NOW = datetime.now(UTC) + timedelta(days=400)
"""By then everything that a test makes is old."""
NONE_IN_USE = Usage(frozenset(), frozenset(), frozenset())


def test_only_what_is_old_surplus_and_unprotected_may_go() -> None:
    entries = [DatedEntry(f"{kind}{at}", at, kind) for kind in "ab" for at in range(1, 6)]
    assert select_expired(entries, before=5, keep=2, protected={"a2", "b5"}) == [
        "a3",
        "b3",
        "b2",
        "a1",
        "b1",
    ]
    assert select_expired(entries, before=2, keep=2) == ["a1", "b1"]
    assert select_expired(entries, before=9, keep=5) == []


def test_versions_in_use_the_newest_and_third_party_ones_are_kept() -> None:
    entries = [VersionEntry(n, f"run-{n}", {} if n in (2, 7) else OURS) for n in range(1, 8)]
    assert select_kept_versions(entries, {1, None}, keep=2) == {1, 2, 5, 6, 7}
    assert select_kept_versions([], {None}, keep=2) == set()


def test_a_training_that_is_kept_keeps_the_runs_of_its_candidates() -> None:
    runs = [
        RunEntry("kept", None, "m-1"),
        RunEntry("candidate", "kept", None),
        RunEntry("old", None, "m-2"),
        RunEntry("old candidate", "old", None),
    ]
    assert [run.run_id for run in deletable_runs(runs, {"kept"})] == ["old", "old candidate"]


def test_limits_are_those_of_the_environment() -> None:
    environ = {"MAINTENANCE_RUN_DAYS": "7", "MAINTENANCE_KEEP": "3", "MAINTENANCE_PROOF_DAYS": ""}
    assert Limits.from_environment(environ) == Limits(run_days=7, keep=3)
    assert cutoff(NOW, 0) is None


def test_the_page_names_every_limit_and_its_default() -> None:
    page = (files_of("platform_assets.maintenance") / "README.md").read_text()
    documented = re.findall(r"^\| `MAINTENANCE_(\w+)` \| (\d+) \|", page, re.MULTILINE)
    assert {name.lower(): int(days) for name, days in documented} == asdict(Limits())


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("MAINTENANCE_RUN_DAYS", "-1"),
        ("MAINTENANCE_MLFLOW_DAYS", "1d"),
        ("MAINTENANCE_KEEP", "0"),
        ("MAINTENANCE_SAMPLE_DAYS", "999999"),
        ("MAINTENANCE_SAMPLE_DAYS", "9" * 5_000),
    ],
)
def test_a_limit_that_is_not_a_number_is_refused_by_name(variable: str, value: str) -> None:
    with pytest.raises(ValueError, match=f"{variable}='{value}': give a whole number"):
        Limits.from_environment({variable: value})


@pytest.fixture
def instance(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dg.DagsterInstance]:
    """An instance on disk, as one machine has it."""
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path))
    with dg.DagsterInstance.local_temp(str(tmp_path)) as instance:
        yield instance


def cleaner(
    instance: dg.DagsterInstance,
    monkeypatch: pytest.MonkeyPatch,
    usage: Usage | Exception = NONE_IN_USE,
    folders: Mapping[str, Path] | None = None,
    **limits: int,
) -> Cleaner:
    """A cleaner that learns of this usage; MLflow has nothing."""

    def find_usage(*_: object) -> Usage:
        if isinstance(usage, Exception):
            raise usage
        return usage

    monkeypatch.setattr(cleaner_module, "find_usage", find_usage)
    chosen = Limits(**{"mlflow_days": 0, "keep": 1, **limits})
    servers: Any = None
    given = folders or {}

    def place(kind: str) -> Callable[[str], Path]:
        return lambda _name: given[kind]

    places = {kind: place(kind) for kind in given}
    return Cleaner(instance, servers, places, chosen, NOW, lambda _line: None)


def run_of(instance: dg.DagsterInstance, job: str = "best_model_chain", **fields: Any) -> str:
    run = dg.DagsterRun(job_name=job, **{"status": dg.DagsterRunStatus.SUCCESS, **fields})
    instance.add_run(run)
    return run.run_id


def own(instance: dg.DagsterInstance, sensor: str = "", **fields: Any) -> str:
    tags = {MODEL_TAG: IRIS.model_name} | ({"dagster/sensor_name": sensor} if sensor else {})
    return run_of(instance, tags=tags, **fields)


def left(instance: dg.DagsterInstance) -> set[str]:
    return {run.run_id for run in instance.get_runs()}


def clean(one: Cleaner) -> None:
    one.clean_model(IRIS)
    one.clean_runs()


def test_old_runs_go_save_the_newest_of_each_launcher_and_those_in_use(
    instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, in_use, by_sensor, _, newest = (
        own(instance),
        own(instance),
        own(instance, "best_model_new_data"),
        own(instance, status=dg.DagsterRunStatus.STARTED),
        own(instance),
    )
    usage = Usage(frozenset(), frozenset({in_use}), frozenset())
    one = cleaner(instance, monkeypatch, usage)
    clean(one)
    assert old not in left(instance)
    assert {in_use, by_sensor, newest} < left(instance)
    assert len(left(instance)) == 4, "and the one under way"
    [row] = one.rows()
    assert row == {"model": "best_model", "kind": "Dagster run", "deleted": 1, "names": old}


def test_a_run_is_young_until_its_limit(
    instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = {own(instance) for _ in range(3)}
    clean(cleaner(instance, monkeypatch, run_days=401))
    clean(cleaner(instance, monkeypatch, run_days=0))
    assert left(instance) == runs
    clean(cleaner(instance, monkeypatch, run_days=399))
    assert len(left(instance)) == 1


def test_runs_of_other_projects_and_of_unknown_models_stay(
    instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(3):
        run_of(instance, "another_team")
        run_of(instance, "__ASSET_JOB", asset_selection={dg.AssetKey(["gone", "features"])})
        run_of(
            instance,
            "__ASSET_JOB",
            asset_selection={dg.AssetKey([name, "features"]) for name in ("gone", IRIS.model_name)},
        )
    runs = left(instance)
    clean(cleaner(instance, monkeypatch))
    assert left(instance) == runs
    assets = {dg.AssetKey(IRIS.key("features"))}
    checks = {dg.AssetCheckKey(dg.AssetKey(IRIS.key("features")), "ranges")}
    for _ in range(2):
        run_of(instance, JOB)
        run_of(instance, "materialized", asset_selection=assets)
        run_of(instance, "checked", asset_selection=set(), asset_check_selection=checks)
    clean(cleaner(instance, monkeypatch))
    assert runs < left(instance)
    assert len(left(instance)) == len(runs) + 3


def test_old_runs_of_a_feature_table_go_save_those_that_made_what_is_there(
    instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    shops = FeatureTableSpec(
        table_name="shops",
        source=Source("shops.csv"),
        join_key=JoinKey("shop"),
        features=(FeatureSpec("risk"),),
    )

    @dg.asset(key=shops.key("features"))
    def features() -> None:
        pass

    tags = {MODEL_TAG: "shops"}
    made = dg.materialize([features], instance=instance, tags=tags).run_id
    *_, newest = (run_of(instance, "shops", tags=tags) for _ in range(3))
    one = cleaner(instance, monkeypatch)
    one.clean_runs()
    assert len(left(instance)) == 4, "of a table that no model file names"
    one.add_table(shops)
    one.clean_runs()
    assert left(instance) == {made, newest}


def test_a_deleted_run_leaves_no_file(
    instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    @dg.op
    def speak() -> None:
        print("hello")

    @dg.job(name="best_model_rollback", tags={MODEL_TAG: IRIS.model_name})
    def job() -> None:
        speak()

    old, new = (job.execute_in_process(instance=instance).run_id for _ in range(2))
    assert any(old in str(path) for path in tmp_path.rglob("*"))
    clean(cleaner(instance, monkeypatch))
    assert left(instance) == {new}
    assert [path for path in tmp_path.rglob("*") if old in str(path)] == []


def test_where_it_is_unknown_what_is_in_use_nothing_of_the_model_goes(
    instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    runs = {own(instance) for _ in range(3)}
    folder = files(tmp_path / "proof", "one", "two")
    one = cleaner(instance, monkeypatch, GatewayUnavailable("no answer"), {"proof": folder})
    clean(one)
    assert one.stopped == {"best_model": "no answer"}
    assert one.rows() == []
    assert left(instance) == runs
    assert len(list(folder.iterdir())) == 2


def files(folder: Path, *names: str) -> Path:
    """A folder with these files, the last one the newest."""
    folder.mkdir(parents=True)
    for age, name in enumerate(reversed(names)):
        (folder / name).write_text(name)
        os.utime(folder / name, (1_000_000_000 - age,) * 2)
    return folder


def test_old_files_go_but_for_the_newest_and_the_proof_of_production(
    instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    proofs = tmp_path / "proof"
    for number, name in enumerate(("old", "production", "newest")):
        files(proofs / name, "reload_variant_A.json")
        os.utime(proofs / name, (1_000_000_000 + number,) * 2)
    (proofs / "latest").symlink_to("newest")
    samples = files(tmp_path / "sample", "a.parquet", "b.parquet", ".staged")
    reports = files(tmp_path / "report", "a.html", "b.html")
    usage = Usage(frozenset(), frozenset(), frozenset({"production"}))
    predictions = files(tmp_path / "prediction", "a-v1.parquet", "b-v1.parquet", ".x.part")
    outcomes = files(tmp_path / "outcome", "date=2026-01-01", "date=2026-01-02")
    folders = {"proof": proofs, "sample": samples, "report": reports, "prediction": predictions}
    folders["outcome"] = outcomes
    clean(cleaner(instance, monkeypatch, usage, folders, report_days=0))
    assert sorted(path.name for path in proofs.iterdir()) == ["latest", "newest", "production"]
    assert sorted(path.name for path in samples.iterdir()) == [".staged", "b.parquet"]
    assert [path.name for path in outcomes.iterdir()] == ["date=2026-01-02"]
    assert len(list(reports.iterdir())) == 2
    assert sorted(path.name for path in predictions.iterdir()) == [".x.part", "b-v1.parquet"]


def test_predictions_and_outcomes_stay_until_they_were_measured(
    instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    samples = tmp_path / "sample"
    outcomes = samples / OUTCOMES_FOLDER
    ages = {"measured": 94, "last": 92.9, "new": 0}
    for folder in (samples, outcomes):
        for name, age in ages.items():
            (folder / name).mkdir(parents=True)
            written = (NOW - timedelta(days=age)).timestamp()
            os.utime(folder / name, (written, written))
    os.utime(outcomes, (1, 1))
    folders = {"sample": samples, "outcome": outcomes}
    spec = replace(IRIS, outcomes=Outcomes(of_labels=True, outcome_delay=timedelta(days=90)))
    one = cleaner(instance, monkeypatch, NONE_IN_USE, folders)
    one.clean_model(spec)
    assert not one.stopped
    assert {path.name for path in outcomes.iterdir()} == {"last", "new"}
    assert {path.name for path in samples.iterdir()} == {"last", "new", OUTCOMES_FOLDER}
    assert Limits(sample_days=0).days("sample", spec) == 0
    assert Limits(sample_days=200).days("outcome", spec) == 200
    assert Limits().days("report", spec) == Limits().report_days


def test_each_place_that_knows_a_version_keeps_it_and_its_runs(
    instance: dg.DagsterInstance,
) -> None:
    """Version 1 is at a gateway, 2 in Triton, 3 in its configuration, and so on; 14 and 15 new."""

    @dg.asset(key=IRIS.key("gateway_reload"))
    def gateway_reload() -> dg.MaterializeResult[None]:
        return dg.MaterializeResult(metadata={"version": 7, "previous_version": 8, BEST_VERSION: 9})

    @dg.asset(key=IRIS.key("features"))
    def features() -> None:
        pass

    switch, reading = (
        dg.materialize([one], instance=instance).run_id for one in (gateway_reload, features)
    )
    instance.report_runless_asset_event(
        dg.AssetMaterialization(dg.AssetKey(IRIS.key("gateway_reload")), metadata={"version": 10})
    )
    entries = [
        VersionEntry(n, f"run-{n}", {} if n == 6 else {**OURS, DAGSTER_RUN_TAG: f"dagster-{n}"})
        for n in range(1, 16)
    ]
    places: dict[str, Any] = {
        "gateway": SimpleNamespace(
            model_statuses=lambda _name: [
                model_status({"A": effective_version(1), "B": effective_version(11)})
            ]
        ),
        "triton": SimpleNamespace(ready_anywhere=lambda _name: (2, 7)),
        "repository": SimpleNamespace(
            persisted_config=lambda _name: "version_policy { specific { versions: 3 } }",
            versions=lambda _name: (4,),
        ),
        "mlflow": SimpleNamespace(
            aliases=lambda _name: {"champion": 5}, versions=lambda _name: entries
        ),
    }
    usage = find_usage(IRIS, Servers(**places), instance, keep=2)
    kept = {*range(1, 12), 14, 15}
    assert usage.mlflow_runs == {f"run-{n}" for n in kept}
    assert {switch, reading} | {f"dagster-{n}" for n in kept - {6}} == usage.dagster_runs - {""}
    assert usage.proofs == {switch}, "of version 7, which Triton has"


def test_the_maintenance_runs_daily_from_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    for expected, value in (("0 4 * * *", ""), ("30 1 * * 0", "30 1 * * 0")):
        monkeypatch.setenv(SCHEDULE_VARIABLE, value)
        [schedule] = monitoring_definitions([IRIS]).schedules or ()
        assert isinstance(schedule, dg.ScheduleDefinition)
        assert schedule.cron_schedule == expected
        assert schedule.default_status is dg.DefaultScheduleStatus.RUNNING


def job_resources(home: Path, **others: Any) -> dict[str, Any]:
    """What the job needs, with servers that nobody asks."""
    return {
        "gateway": GatewayResource(urls="http://unused", control_token="token"),
        "triton": TritonResource(url="http://unused", control_key="key"),
        "mlflow": MlflowResource(tracking_uri="http://unused"),
        "model_repository": ModelRepository(root=str(home / "repository")),
        "proof_folder": ProofFolder(root=str(home / "proof")),
        "samples": SamplesFolder(root=str(home)),
        "drift_reports": DriftReports(root=str(home / "reports")),
        "predictions": PredictionsFolder(root=str(home / "predictions")),
        **others,
    }


def test_the_job_merges_the_log_also_where_it_is_unknown_what_is_in_use(
    instance: dg.DagsterInstance, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unknown(*_: object) -> Usage:
        raise GatewayUnavailable("no gateway answers")

    monkeypatch.setattr(cleaner_module, "find_usage", unknown)
    for file in ("a", "b"):
        write_log(tmp_path, IRIS.model_name, [Logged(id=file)], file)
    done = maintenance_job([IRIS]).execute_in_process(
        instance=instance, resources=job_resources(tmp_path), raise_on_error=False
    )
    assert not done.success
    [merged] = (tmp_path / IRIS.model_name).glob("date=*/*.parquet")
    assert merged.name.startswith("merged-")


def test_the_job_finds_what_was_written_below_a_home_directory(
    instance: dg.DagsterInstance, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (("HOME", str(tmp_path)), ("MAINTENANCE_MLFLOW_DAYS", "0")):
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("MAINTENANCE_KEEP", "1")
    monkeypatch.setattr(cleaner_module, "find_usage", lambda *_: NONE_IN_USE)
    reports, proofs = DriftReports(root="~/reports"), ProofFolder(root="~/proof")
    report = reports.write(IRIS.model_name, "old", "a page")
    proof = proofs.write(IRIS.model_name, "old", {"proof.html": "a page"})
    reports.write(IRIS.model_name, "new", "a page")
    proofs.write(IRIS.model_name, "new", {"proof.html": "a page"})
    for old in (report, proof):
        os.utime(old, (1_000_000_000,) * 2)
    there = job_resources(tmp_path, drift_reports=reports, proof_folder=proofs)
    assert maintenance_job([IRIS]).execute_in_process(instance=instance, resources=there).success
    assert (report.exists(), proof.exists()) == (False, False)


def test_a_log_that_cannot_be_merged_is_named_and_keeps_no_other_from_it(
    instance: dg.DagsterInstance, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = cleaner(instance, monkeypatch)
    for model in ("one", "two"):
        for file in ("a", "b"):
            write_log(tmp_path, model, [Logged(id=file)], file)
    (tmp_path / "one" / ".erase.lock").mkdir()  # root may write into any folder
    for model in ("one", "two"):
        one.merge_log(model, tmp_path / model)
    assert "files of its log were not merged" in one.stopped["one"]
    assert one.merged == {"two": MergedLog(2, 1)}
