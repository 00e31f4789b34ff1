"""When sensors start something, and when they do not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from platform_assets import automation
from platform_assets.features.source import FINGERPRINT_METADATA, source_fingerprint
from platform_assets.resources.model_repository import ModelRepository
from platform_assets.resources.source import SourceResource
from platform_assets.resources.triton import TritonResource
from tests.servers import free_port


@pytest.fixture
def source(tmp_path: Path) -> SourceResource:
    path = tmp_path / "source.csv"
    path.write_text("a,b\n1,2\n")
    return SourceResource(path=str(path))


def asked(instance: dg.DagsterInstance, source: SourceResource) -> Any:
    context = dg.build_sensor_context(instance=instance)
    return automation.new_source_data(context, source=source)


def materialized(instance: dg.DagsterInstance, fingerprint: str) -> None:
    metadata = {FINGERPRINT_METADATA: fingerprint}
    instance.report_runless_asset_event(dg.AssetMaterialization("features", metadata=metadata))


def test_new_content_starts_one_run(source: SourceResource) -> None:
    with dg.DagsterInstance.ephemeral() as instance:
        first, again = asked(instance, source), asked(instance, source)
        assert isinstance(first, dg.RunRequest)
        assert first.run_key == again.run_key
        materialized(instance, "other content")
        assert isinstance(asked(instance, source), dg.RunRequest)


def test_content_that_the_features_were_made_of_starts_nothing(source: SourceResource) -> None:
    with dg.DagsterInstance.ephemeral() as instance:
        materialized(instance, source_fingerprint(source.file))
        source.file.touch()
        assert isinstance(asked(instance, source), dg.SkipReason)


def test_a_missing_source_starts_nothing(tmp_path: Path) -> None:
    with dg.DagsterInstance.ephemeral() as instance:
        skipped = asked(instance, SourceResource(path=str(tmp_path / "none.csv")))
    assert isinstance(skipped, dg.SkipReason)
    assert "no source file" in str(skipped.skip_message)


def looked(instance: dg.DagsterInstance, repository: Path) -> Any:
    nobody = TritonResource(url=f"http://127.0.0.1:{free_port()}", control_key="k")
    return automation.serving_drift(
        dg.build_sensor_context(instance=instance),
        triton=nobody,
        model_repository=ModelRepository(root=str(repository)),
    )


def test_drift_is_not_judged_while_a_run_is_under_way(tmp_path: Path) -> None:
    with dg.DagsterInstance.ephemeral() as instance:
        instance.add_run(dg.DagsterRun(job_name="any", status=dg.DagsterRunStatus.STARTED))
        assert "under way" in str(looked(instance, tmp_path).skip_message)


def test_a_triton_that_is_down_is_the_supervisor_s_matter(tmp_path: Path) -> None:
    model = tmp_path / "best_model"
    model.mkdir()
    (model / "config.pbtxt").write_text("version_policy { specific { versions: 1 } }")
    with dg.DagsterInstance.ephemeral() as instance:
        assert "cannot be asked" in str(looked(instance, tmp_path).skip_message)


def test_before_the_first_version_there_is_no_drift(tmp_path: Path) -> None:
    with dg.DagsterInstance.ephemeral() as instance:
        assert isinstance(looked(instance, tmp_path), dg.SkipReason)


def test_only_what_gives_back_runs_by_itself() -> None:
    assert automation.serving_drift.default_status is dg.DefaultSensorStatus.RUNNING
    assert automation.new_source_data.default_status is dg.DefaultSensorStatus.STOPPED
    assert automation.retraining_schedule.default_status is dg.DefaultScheduleStatus.STOPPED
