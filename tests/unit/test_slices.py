"""Slices of the evaluation rows: floor and comparison of each, with a bounded error of all."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, cast

import dagster as dg
import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray

from platform_assets.model_spec import (
    Evaluation,
    FeatureSpec,
    Gates,
    ModelSpec,
    Split,
    Task,
    WhenInconclusive,
)
from platform_assets.resources.records import (
    EvaluationSet,
    RegisteredVersion,
    SplitRecord,
    TrainedModel,
)
from platform_assets.serving.comparison import ComparisonVerdict, compare
from platform_assets.serving.loaded_version import LoadedVersion
from platform_assets.serving.regression import RegressionConfig, no_regression
from platform_assets.serving.slice_gate import SLICES, judge_comparisons, with_slices
from platform_assets.training.checks import training_checks
from platform_assets.training.floor import estimate_metric
from platform_assets.training.metrics import METRICS, Answers
from platform_assets.training.slices import (
    SliceVerdict,
    error_rate,
    estimate_slices,
    holm,
    judge_slices,
    slices_of,
)
from serving_gateway.contract import DType
from tests.faults.scale import scale
from tests.support.tabular import mixed_spec

ACCURACY = METRICS["accuracy"]
GATES = Gates(metric_floor=0.8, slices=("region",))
SPEC = dataclasses.replace(
    mixed_spec(Task.BINARY, (False, True)),
    features=(FeatureSpec("region", DType.BYTES), FeatureSpec("weight")),
    gates=GATES,
    evaluation=Evaluation("accuracy", split=Split.ENTITY),
)
REGIONS = np.repeat(np.array(["north", "south", "west"], object), [400, 300, 200])
TRUE = np.arange(900) % 2


def answering(north: float, south: float, west: float) -> NDArray[np.int64]:
    """Answers of which these shares are right, spread over the rows of each region."""
    wrong = np.zeros(900, bool)
    for region, share in (("north", north), ("south", south), ("west", west)):
        rows = np.flatnonzero(region == REGIONS)
        wrong[rows[: round(len(rows) * (1 - share))]] = True
    return np.where(wrong, 1 - TRUE, TRUE)


def _rows(labels: NDArray[np.int64], regions: Any = REGIONS) -> EvaluationSet:
    frame = pd.DataFrame({"region": regions, "weight": np.ones(len(labels), np.float32)})
    true = np.arange(len(labels)) % 2
    return EvaluationSet(frame, true, labels, np.eye(2)[labels], np.arange(len(labels)))


@dataclass
class Production:
    """What clients get now, which is version 1."""

    labels: NDArray[np.int64]
    split: SplitRecord | None = None


def candidate(
    labels: NDArray[np.int64],
    production: Production | None = None,
    spec: ModelSpec = SPEC,
    regions: Any = REGIONS,
    own: SplitRecord | None = None,
) -> LoadedVersion:
    signature = spec.signature((False, True))
    evaluation = _rows(labels, regions)
    own = own or SplitRecord("entity", 1, 0.2, group=spec.evaluation.group)

    def version_record(version: int) -> RegisteredVersion:
        split = production.split if production else None
        return RegisteredVersion("mixed", version, "r", "d", signature, split=split)

    def answered(_: RegisteredVersion) -> Any:
        return (production.labels if production else None), evaluation.probabilities

    return cast(
        LoadedVersion,
        SimpleNamespace(
            spec=spec,
            state=SimpleNamespace(version=2, model_name="mixed"),
            identity={"version": 2},
            registered=RegisteredVersion("mixed", 2, "r", "d", signature, split=own),
            evaluation=evaluation,
            answers=[(labels, evaluation.probabilities)],
            production_version=1 if production else None,
            best_version=None,
            has_graph_of=lambda _: False,
            version_record=version_record,
            ask=answered,
        ),
    )


def judged(one: LoadedVersion) -> tuple[dg.AssetCheckResult, dict[tuple[Any, Any], dict[str, Any]]]:
    config = RegressionConfig()
    verdict = with_slices(one, config, no_regression(one, config))
    lines = cast(Any, verdict.metadata[SLICES]).records
    return verdict, {(line.data["column"], line.data["value"]): dict(line.data) for line in lines}


def test_a_slice_below_the_floor_blocks_a_version_that_keeps_it_on_the_whole() -> None:
    verdict, lines = judged(candidate(answering(0.97, 0.95, 0.6)))
    assert not verdict.passed
    assert verdict.severity is dg.AssetCheckSeverity.ERROR
    assert "region 'west' (200 rows): accuracy 0.6 is below the floor 0.8" in str(
        verdict.description
    )
    assert lines["region", "west"]["floor"] == "misses the floor"
    assert lines["region", "north"]["floor"] == "keeps the floor"
    assert [line["rows"] for line in lines.values()] == [400, 300, 200]


def test_a_loss_of_one_slice_blocks_although_the_whole_gains() -> None:
    before, now = answering(0.9, 0.88, 0.95), answering(0.97, 0.97, 0.85)
    verdict, lines = judged(candidate(now, Production(before)))
    assert lines["region", "west"]["comparison"] == ComparisonVerdict.WORSE.value
    assert lines["region", "west"]["gain"] == pytest.approx(-0.1)
    assert lines["region", "north"]["comparison"] == ComparisonVerdict.NON_INFERIOR.value
    assert (verdict.passed, verdict.severity) == (False, dg.AssetCheckSeverity.ERROR)
    assert "region 'west' (200 rows) is worse than production by 0.1" in str(verdict.description)


def test_a_slice_blocks_where_all_rows_are_inconclusive() -> None:
    spec = dataclasses.replace(SPEC, gates=dataclasses.replace(GATES, regression_tolerance=1e-4))
    labels = answering(0.97, 0.95, 0.6)
    one = candidate(labels, Production(labels), spec)
    before = no_regression(one, RegressionConfig())
    assert (before.passed, before.severity) == (False, dg.AssetCheckSeverity.WARN)
    verdict, _ = judged(one)
    assert (verdict.passed, verdict.severity) == (False, dg.AssetCheckSeverity.ERROR)


def test_first_version_and_the_same_answers_pass() -> None:
    verdict, lines = judged(candidate(answering(0.95, 0.95, 0.95)))
    assert verdict.passed
    assert {line["comparison"] for line in lines.values()} == {"not compared"}
    many = dataclasses.replace(SPEC, gates=dataclasses.replace(GATES, regression_tolerance=0.2))
    same = answering(0.95, 0.95, 0.95)
    verdict, lines = judged(candidate(same, Production(same), many))
    assert verdict.passed
    assert {line["comparison"] for line in lines.values()} == {ComparisonVerdict.NON_INFERIOR.value}


@pytest.mark.parametrize(
    ("when", "severity"),
    [
        (WhenInconclusive.WARN, dg.AssetCheckSeverity.WARN),
        (WhenInconclusive.BLOCK, dg.AssetCheckSeverity.ERROR),
    ],
)
def test_a_slice_of_few_rows_is_inconclusive(
    when: WhenInconclusive, severity: dg.AssetCheckSeverity
) -> None:
    regions = REGIONS.copy()
    regions[:9] = "tiny"
    spec = dataclasses.replace(SPEC, gates=dataclasses.replace(GATES, when_inconclusive=when))
    labels = TRUE.copy()
    labels[:9] = 1 - labels[:9]
    verdict, lines = judged(candidate(labels, spec=spec, regions=regions))
    assert lines["region", "tiny"]["floor"] == "inconclusive"
    assert lines["region", "tiny"]["p (Holm)"] is None
    assert (verdict.passed, verdict.severity) == (False, severity)
    assert "inconclusive for 1 of 4 slices (region 'tiny')" in str(verdict.description)


def test_without_slices_the_verdict_stays_as_it_is() -> None:
    spec = dataclasses.replace(SPEC, gates=Gates(metric_floor=0.8))
    one = candidate(answering(0.97, 0.95, 0.6), spec=spec)
    verdict = no_regression(one, RegressionConfig())
    assert with_slices(one, RegressionConfig(), verdict) is verdict
    assert verdict.passed


def test_production_that_was_split_by_another_column_is_not_compared() -> None:
    by_group = SplitRecord("entity", 1, 0.2, group="region")
    verdict = no_regression(candidate(TRUE, Production(TRUE, by_group)), RegressionConfig())
    assert not verdict.passed
    assert "trained on rows chosen by region" in str(verdict.description)
    assert "evaluation.group changed" in str(verdict.description)


def test_production_that_knew_rows_by_another_key_is_not_compared() -> None:
    by_id, by_customer = (SplitRecord("entity", 1, 0.2, entities=key) for key in ("id", "customer"))
    unknown = SplitRecord("entity", 1, 0.2)
    spec = dataclasses.replace(SPEC, gates=Gates(metric_floor=0.5))
    for production, is_compared in ((by_id, True), (unknown, True), (by_customer, False)):
        one = candidate(TRUE, Production(TRUE, production), spec=spec, own=by_id)
        verdict = no_regression(one, RegressionConfig())
        assert verdict.passed is is_compared
        assert ("cannot be told by the candidate's entities" in str(verdict.description)) is (
            not is_compared
        )


def test_a_model_with_a_slice_below_the_floor_is_not_registered() -> None:
    rows = _rows(answering(0.97, 0.95, 0.6))
    answers = Answers(rows.label_true, rows.labels, rows.probabilities, (False, True))
    trained = TrainedModel(
        model_name="mixed",
        run_id="r",
        estimator=None,
        signature=SPEC.signature((False, True)),
        metrics={},
        data_fingerprint="d",
        code_version="c",
        dagster_run_id="o",
        evaluation_rows=900,
        metric=estimate_metric(ACCURACY, answers, rows.groups, 0.95),
        split=SplitRecord("entity"),
        classes_not_evaluated=(),
        picture=b"",
        slices=estimate_slices(ACCURACY, answers, rows.features, rows.groups, GATES),
    )
    check = training_checks(SPEC)[0]
    context = dg.build_op_context(op_config={"metric_floor": 0.8})
    verdict = cast(dg.AssetCheckResult, check(context, trained))
    assert not verdict.passed
    assert "region 'west'" in str(verdict.description)
    assert "is not registered" in str(verdict.description)
    assert len(cast(Any, verdict.metadata["slices"]).records) == 3
    lower = dg.build_op_context(op_config={"metric_floor": 0.5})
    assert cast(dg.AssetCheckResult, check(lower, trained)).passed


def test_rare_values_are_one_slice_and_missing_ones_another() -> None:
    values = np.array([f"v{number}" for number in range(30) for _ in range(60 - number)], object)
    frame = pd.DataFrame({"a": np.append(values, ["", "", ""] * 30), "b": True})
    found = [(one.column, one.value, int(one.rows.sum())) for one in slices_of(frame, ["a", "b"])]
    assert found[0] == ("a", "(missing)", 90)
    assert found[1] == ("a", "v0", 60)
    assert found[20] == ("a", "(others)", sum(60 - number for number in range(19, 30)))
    assert found[21:] == [("b", "True", len(frame))]


def test_holm_corrects_for_the_number_of_slices() -> None:
    assert holm([0.01, None, 0.04, 0.03, 0.005]) == pytest.approx(
        [0.03, None, 0.06, 0.06, 0.02], nan_ok=True
    )
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []


# Error rates of all slices together.

COUNT, ROWS = 8, 60


def most(rate: float, runs: int) -> float:
    """A rate that a simulation of a true `rate` exceeds once in a thousand cases."""
    return rate + 3.1 * math.sqrt(rate * (1 - rate) / runs)


def _right(random: np.random.Generator, share: float) -> Answers:
    true = np.zeros(ROWS, np.int64)
    return Answers(true, (random.random(ROWS) > share).astype(np.int64), None, (0, 1))


@pytest.mark.slow
def test_of_slices_that_all_are_equal_hardly_ever_one_is_called_worse() -> None:
    random, runs, called, uncorrected = np.random.default_rng(5), scale(75, 150), 0, 0
    gates = Gates(metric_floor=0.5)
    entities = np.arange(ROWS)
    for _ in range(runs):
        results = [
            (
                "region",
                str(number),
                ROWS,
                compare(
                    ACCURACY, _right(random, 0.8), _right(random, 0.8), entities,
                    tolerance=0.0, confidence=0.95,
                ),
            )
            for number in range(COUNT)
        ]  # fmt: skip
        called += any(
            one.verdict is ComparisonVerdict.WORSE for one in judge_comparisons(results, gates)
        )
        uncorrected += any(result.verdict is ComparisonVerdict.WORSE for *_, result in results)
    assert called / runs <= most(error_rate(gates), runs)
    assert uncorrected / runs > most(error_rate(gates), runs), "else nothing was corrected"


@pytest.mark.slow
def test_of_slices_at_the_floor_hardly_ever_one_is_said_to_miss_it() -> None:
    random, runs, called = np.random.default_rng(6), scale(75, 150), 0
    frame = pd.DataFrame({"region": np.repeat([f"r{n}" for n in range(COUNT)], ROWS)})
    for _ in range(runs):
        right = random.random(COUNT * ROWS) < 0.8
        answers = Answers(np.zeros(len(right), np.int64), 1 - right.astype(np.int64), None, (0, 1))
        measured = estimate_slices(ACCURACY, answers, frame, np.arange(len(right)), GATES)
        found = judge_slices(ACCURACY, measured, 0.8, GATES)
        called += any(one.verdict is SliceVerdict.MISSED for one in found)
    assert called / runs <= most(error_rate(GATES), runs)
