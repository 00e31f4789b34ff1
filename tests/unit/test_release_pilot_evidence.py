"""What the pilot gets from elsewhere: paired losses, the unit of scores."""

from __future__ import annotations

import logging
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import dagster as dg
import numpy as np
import pytest
from msgspec.structs import replace

from platform_assets.model_spec import Task
from platform_assets.quality.records import QualityError
from platform_assets.release import losses
from platform_assets.release.alerts import alert_text
from platform_assets.release.candidate import score_scale
from platform_assets.release.record import decision_events
from platform_assets.resources.mlflow import MlflowResource, RegistryError
from platform_assets.resources.records import EvaluationSet
from platform_assets.resources.samples import SamplesFolder
from serving_gateway.contract import (
    BoundedMean,
    PairedLosses,
    PairedOutcomes,
    Release,
    ReleaseAct,
    ReleasePlan,
    ReleaseState,
    Strategy,
    Traffic,
    Verdict,
)
from tests.support.models import IRIS

NOW = datetime(2026, 1, 2, tzinfo=UTC)
RELEASE = Release(
    id="one",
    version=2,
    run_id="run-2",
    previous_version=1,
    plan=ReleasePlan(steps=(Traffic(Strategy.MIRROR, 100),), score_scale=7.0),
    state=ReleaseState.RUNNING,
    step=0,
    since="2026-01-01T12:00:00+00:00",
    started_at="2026-01-01T06:00:00+00:00",
    by="token:pipeline",
)


@pytest.mark.parametrize(
    ("state", "versions", "hour", "losses_of_b", "expected"),
    [
        (ReleaseState.RUNNING, (1, 2), 6, PairedOutcomes(9, 3, 88), PairedOutcomes(9, 3, 88)),
        (ReleaseState.WATCHING, (2, 1), 12, PairedOutcomes(3, 9, 88), PairedOutcomes(9, 3, 88)),
        (
            ReleaseState.WATCHING,
            (2, 1),
            12,
            BoundedMean(10, -2.0, 1.0, -1.0, 1.0),
            BoundedMean(10, 2.0, 1.0, -1.0, 1.0),
        ),
    ],
)
def test_losses_are_the_candidates_on_either_side_of_the_switch(
    monkeypatch: pytest.MonkeyPatch,
    state: ReleaseState,
    versions: tuple[int, int],
    hour: int,
    losses_of_b: PairedLosses,
    expected: PairedLosses,
) -> None:
    asked: dict[str, Any] = {}

    def paired(_folder: Path, _spec: object, **options: Any) -> PairedLosses:
        asked.update(options)
        return losses_of_b

    monkeypatch.setattr(losses, "paired_outcomes", paired)
    found = losses.candidate_losses(Path("logs"), IRIS, replace(RELEASE, state=state), NOW)
    assert found == expected
    assert (asked["a_version"], asked["b_version"]) == versions
    assert asked["since"] == datetime(2026, 1, 1, hour, tzinfo=UTC)
    assert asked["score_scale"] == 7


@pytest.mark.parametrize(
    "error", [QualityError("a file is no prediction log"), OSError("no space left on device")]
)
def test_a_log_that_cannot_be_read_gives_no_evidence(
    error: Exception,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def unreadable(*_: object, **__: object) -> PairedLosses:
        raise error

    monkeypatch.setattr(losses, "paired_outcomes", unreadable)
    read = losses.losses_reader(SamplesFolder(root=str(tmp_path)), logging.getLogger("pilot"))
    assert read(IRIS, RELEASE, NOW) is None
    assert str(error) in caplog.text


class Registry(MlflowResource):
    """Has one run's predictions for held-out rows."""

    tracking_uri: str = "http://127.0.0.1:9"
    predicted: list[float]

    def evaluation_set(self, run_id: str) -> Any:
        labels = np.array(self.predicted)
        return EvaluationSet(None, labels, labels, None, labels)  # type: ignore[arg-type] # unused


def test_the_unit_of_scores_is_the_width_of_a_regressions_predictions() -> None:
    class Regression:
        task = Task.REGRESSION

    spec: Any = Regression()
    assert score_scale(spec, "run", Registry(predicted=[3.0, 10.0, 4.0])) == 7
    assert score_scale(spec, "run", Registry(predicted=[3.0, 3.0])) == 1
    assert score_scale(IRIS, "run", Registry(predicted=[])) == 1
    with pytest.raises(RegistryError, match="no held-out rows"):
        score_scale(spec, "run", Registry(predicted=[]))


def test_reasons_are_neither_mentions_in_messages_nor_markup_in_metadata() -> None:
    reason = "<!channel> ![seen](http://elsewhere)\n- 2026-01-01, token:ada: approval: fine"
    act = ReleaseAct("0", Verdict.STOP, RELEASE.since, "token:bob", reason)
    stopped = replace(RELEASE, state=ReleaseState.STOPPED, acts=(act,))
    assert "&lt;!channel&gt;" in alert_text(IRIS, stopped, reason)
    instance = dg.DagsterInstance.ephemeral()
    made, _ = decision_events(IRIS, stopped, (), Verdict.STOP, reason, NOW, instance)
    [line] = str(made.metadata["acts"].value).splitlines()
    assert r"stop: \<!channel> !\[seen\](http://elsewhere) - 2026" in line
