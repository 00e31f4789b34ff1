"""The drift report as Dagster materializes it, and what its check says."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import numpy as np
import pandas as pd
import pytest

from platform_assets.monitoring.records import DriftReport
from platform_assets.resources.reference import REFERENCE_ARTIFACT
from platform_assets.resources.samples import SamplesFolder
from serving_gateway.contract import LOG_PREDICTION, log_day
from tests.support.drifting import (
    PRODUCTION,
    RUN_ID,
    VISITORS,
    Place,
    answered,
    put_in_production,
    rows,
    verdict,
)

pytestmark = pytest.mark.slow


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as opened:
        put_in_production(opened)
        yield opened


@pytest.fixture
def place(tmp_path: Path) -> Place:
    place = Place(tmp_path)
    place.train_on(rows(3000, seed=1))
    return place


def materialized(result: dg.ExecuteInProcessResult) -> tuple[DriftReport, Any]:
    [event] = result.asset_materializations_for_node("visitors__drift_report")
    return result.asset_value(VISITORS.key("drift_report")), event.metadata


def failed(result: dg.ExecuteInProcessResult) -> str:
    [event] = [event for event in result.all_events if event.is_step_failure]
    return str(event.step_failure_data.user_failure_data.description)  # type: ignore[union-attr] # a dg.Failure


def test_answers_like_the_training_set_pass(place: Place, instance: dg.DagsterInstance) -> None:
    place.sample(answered(rows(1000, seed=2)))
    result = place.report(instance)
    report, metadata = materialized(result)
    assert verdict(result).passed, verdict(result).description
    assert {c.name for c in report.columns} == {
        *VISITORS.feature_names,
        "prediction",
        "largest probability",
    }
    assert (report.rows, report.reference_rows, report.version) == (1000, 3000, PRODUCTION)
    assert metadata["picture"].value.startswith("![drift](data:image/png;base64,iVBOR")
    assert len(metadata["columns"].records) == len(report.columns)


def test_drifted_features_are_named_and_only_warn(
    place: Place, instance: dg.DagsterInstance
) -> None:
    window = rows(1000, seed=2)
    window["age"] += 15
    window.loc[::2, "country"] = "<es>"
    place.sample(answered(window))
    result = place.report(instance)
    found = verdict(result)
    assert result.success
    assert not found.passed
    assert not found.blocking
    assert found.severity is dg.AssetCheckSeverity.WARN
    named = str(found.metadata["drifted_features"].value).split(", ")
    assert set(named) == {"age", "country"}
    assert found.metadata["drifted_predictions"].value == "none"
    assert "age (" in str(found.description)


def test_answers_that_shift_are_drift_though_the_features_stay(
    place: Place, instance: dg.DagsterInstance
) -> None:
    samples = answered(rows(1000, seed=2))
    samples["sample_prediction"] = "true"
    samples["sample_score"] = 0.99
    place.sample(samples)
    found = verdict(place.report(instance))
    assert not found.passed
    assert found.metadata["drifted_features"].value == "none"
    named = set(str(found.metadata["drifted_predictions"].value).split(", "))
    assert named == {"prediction", "largest probability"}


def test_the_page_is_kept_and_logged_with_the_run(
    place: Place, instance: dg.DagsterInstance
) -> None:
    window = rows(400, seed=2)
    window["country"] = "<script>"
    place.sample(answered(window))
    result = place.report(instance)
    page = (place.home / "reports" / "visitors" / f"{result.run_id}.html").read_text()
    assert "Drift of visitors version 7" in page
    assert "100.00%: &lt;script&gt;" in page
    assert "<script" not in page
    assert "data:image/png;base64," in page
    logged = place.home / "mlflow" / RUN_ID / "drift" / "report.html"
    assert logged.read_text() == page


def test_too_few_samples_pass_and_say_so(place: Place, instance: dg.DagsterInstance) -> None:
    window = rows(199, seed=2)
    window["age"] = 99.0
    place.sample(answered(window))
    result = place.report(instance)
    found = verdict(result)
    assert found.passed
    assert "not enough to judge: 199 samples" in str(found.description)
    assert materialized(result)[0].columns == ()
    assert not verdict(place.report(instance, min_rows=100)).passed


def test_without_any_sample_there_is_a_report(place: Place, instance: dg.DagsterInstance) -> None:
    result = place.report(instance)
    assert verdict(result).passed
    assert materialized(result)[0].rows == 0


def test_a_feature_that_is_all_null_in_the_window_is_named(
    place: Place, instance: dg.DagsterInstance
) -> None:
    window = rows(500, seed=2)
    window["age"], window["country"] = np.nan, None
    place.sample(answered(window))
    found = verdict(place.report(instance))
    named = set(str(found.metadata["drifted_features"].value).split(", "))
    assert named == {"age", "country"}


def test_a_feature_that_no_sample_holds_is_said_not_to_be_compared(
    place: Place, instance: dg.DagsterInstance
) -> None:
    place.sample(answered(rows(500, seed=2)).drop(columns=["visits"]))
    report, metadata = materialized(place.report(instance))
    assert "visits" not in {column.name for column in report.columns}
    assert metadata["not_compared"].value == "visits: no sample holds it"


def test_files_of_days_before_the_window_are_not_opened(place: Place) -> None:
    today = datetime.now(UTC)
    place.sample(answered(rows(10)), log_day(today.date()) + "/gateway-1")
    place.sample(answered(rows(5)), "gateway-of-an-earlier-release")
    for days in (0, 3):
        folder = place.samples / log_day((today - timedelta(days=days)).date())
        folder.mkdir(exist_ok=True)
        (folder / "torn.parquet").write_bytes(b"PAR1 torn")
        (folder / "loop.parquet").symlink_to("loop.parquet")
    window = SamplesFolder(root=str(place.home / "samples")).window(
        place.spec.model_name,
        PRODUCTION,
        since=today - timedelta(days=2),
        max_rows=100,
        columns=[LOG_PREDICTION],
    )
    assert (window.rows, window.files, len(window.unreadable)) == (15, 2, 1)


def test_other_versions_and_old_samples_do_not_count(
    place: Place, instance: dg.DagsterInstance
) -> None:
    strange = rows(500, seed=2)
    strange["age"] = 99.0
    place.sample(answered(strange, version=PRODUCTION - 1), "other")
    place.sample(answered(strange, days_ago=8), "old")
    place.sample(answered(rows(500, seed=2)), "good")
    result = place.report(instance)
    assert verdict(result).passed
    assert materialized(result)[0].rows == 500
    assert not verdict(place.report(instance, version=PRODUCTION - 1)).passed
    assert not verdict(place.report(instance, days=9.0)).passed


def test_the_newest_samples_are_taken(place: Place, instance: dg.DagsterInstance) -> None:
    strange = rows(500, seed=2)
    strange["age"] = 99.0
    place.sample(answered(strange, days_ago=1), "before")
    place.sample(answered(rows(300, seed=2)), "now")
    result = place.report(instance, max_rows=300)
    assert verdict(result).passed
    assert materialized(result)[0].rows == 300


def test_a_file_that_vanishes_is_not_an_error(
    place: Place, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    place.sample(answered(rows(300, seed=2)), "stays")
    gone = place.sample(answered(rows(300, seed=3)), "rotated")
    real = Path.open

    def opened(path: Path, *args: Any, **kwargs: Any) -> Any:
        if path == gone:
            path.unlink()
        return real(path, *args, **kwargs)

    monkeypatch.setattr(Path, "open", opened)
    report, metadata = materialized(place.report(instance))
    assert report.rows == 300
    assert metadata["not_compared"].value == "nothing"


def test_a_broken_file_is_named_and_the_others_are_read(
    place: Place, instance: dg.DagsterInstance
) -> None:
    place.sample(answered(rows(300, seed=2)))
    (place.samples / "torn.parquet").write_bytes(b"PAR1 torn")
    report, metadata = materialized(place.report(instance))
    assert report.rows == 300
    assert "file torn.parquet: " in str(metadata["not_compared"].value)


def test_without_mlflow_it_says_what_to_do(place: Place, instance: dg.DagsterInstance) -> None:
    place.sample(answered(rows(500, seed=2)))
    description = failed(place.report(instance, mlflow_down=True))
    assert "What version 7 was trained on cannot be fetched: MLflow at" in description
    assert "What to do: bring MLflow back" in description


def test_a_run_that_is_gone_is_reported_and_is_not_drift(
    place: Place, instance: dg.DagsterInstance
) -> None:
    place.sample(answered(rows(500, seed=2)))
    result = place.report(instance, run_gone=True)
    found = verdict(result)
    assert result.success
    assert not found.passed
    assert found.metadata["judged"].value is False
    assert found.metadata["drifted_features"].value == "none"
    assert f"features: run {RUN_ID} does not have them any more" in str(found.description)


def test_features_are_compared_without_the_answers_and_the_other_way_round(
    place: Place, instance: dg.DagsterInstance
) -> None:
    (place.home / "mlflow" / RUN_ID / REFERENCE_ARTIFACT).unlink()
    place.sample(answered(rows(500, seed=2)))
    report, metadata = materialized(place.report(instance))
    assert {column.kind for column in report.columns} == {"prediction"}
    assert "features: run" in str(metadata["not_compared"].value)


def test_what_production_was_trained_on_counts_and_not_what_the_source_holds_by_now(
    place: Place, instance: dg.DagsterInstance
) -> None:
    """The source moved, and a gate refused the candidate that was trained on it."""
    moved = rows(1000, seed=2)
    moved["age"] += 15
    source = place.home / "feast" / "data" / "visitors" / "features.parquet"
    source.parent.mkdir(parents=True)
    moved.assign(entity_id=range(len(moved))).to_parquet(source, index=False)
    place.sample(answered(moved))
    found = verdict(place.report(instance))
    assert found.metadata["drifted_features"].value == "age"


def test_a_few_entities_that_ask_often_are_no_drift(
    place: Place, instance: dg.DagsterInstance
) -> None:
    often = pd.concat([rows(40, seed=2)] * 10, ignore_index=True)
    samples = answered(often).assign(sample_entity=[str(i % 40) for i in range(400)])
    place.sample(samples)
    result = place.report(instance)
    report, _ = materialized(result)
    assert (report.rows, report.units) == (400, 40)
    assert verdict(result).passed, verdict(result).description


def test_too_few_entities_are_not_judged(place: Place, instance: dg.DagsterInstance) -> None:
    strange = rows(400, seed=2).assign(age=99.0)
    place.sample(answered(strange).assign(sample_entity=[str(i % 19) for i in range(400)]))
    found = verdict(place.report(instance))
    assert found.passed
    assert "not enough to judge: 400 samples of 19 entities or requests" in str(found.description)


def test_before_the_first_promotion_it_says_what_to_do(place: Place) -> None:
    with dg.DagsterInstance.ephemeral() as empty:
        description = failed(place.report(empty))
    assert "No version of visitors is in production" in description
    assert "What to do: take a version to production" in description


def test_files_that_do_not_fit_together_fail_with_their_folder(
    place: Place, instance: dg.DagsterInstance
) -> None:
    place.sample(answered(rows(300, seed=2)), "new")
    place.sample(answered(rows(300, seed=2)).assign(age="old"), "old")
    description = failed(place.report(instance))
    assert f"The samples in {place.samples} cannot be read as one table" in description
    assert "age" in description
