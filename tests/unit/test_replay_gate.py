"""The gate `replay`, with versions that are functions: what it asks, blocks, lets pass and says."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import dagster as dg
import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from platform_assets.model_spec import ModelSpec, ReplayLimits
from platform_assets.quality.comparisons import matured_outcomes
from platform_assets.resources.samples import SamplesFolder
from platform_assets.serving.loaded_version import LoadedVersion
from platform_assets.serving.replay import asking
from platform_assets.serving.replay.asking import BATCH_ROWS
from platform_assets.serving.replay.gate import ReplayConfig, replay
from platform_assets.serving.replay.rows import tensor_frame
from serving_gateway.contract import (
    LOG_ENTITY,
    LOG_ID,
    LOG_PREDICTION,
    LOG_ROW,
    LOG_SCORE,
    LOG_TIME,
    LOG_VERSION,
    OUTCOME_ID,
    OUTCOME_OBSERVED,
    OUTCOME_RECEIVED,
    OUTCOME_ROW,
    OUTCOME_VALUE,
    OUTCOMES_FOLDER,
    DType,
    Feature,
    Signature,
)
from tests.support.replaying import (
    CANDIDATE,
    PRODUCTION,
    SIGNATURE,
    SPEC,
    Answer,
    Tensors,
    loaded,
    logged_rows,
    refusing,
    sigmoid_model,
    write_log,
)

WARN, ERROR = dg.AssetCheckSeverity.WARN, dg.AssetCheckSeverity.ERROR
REGRESSION = Signature(
    features=SIGNATURE.features,
    packed_input=None,
    label_output="prediction",
    probabilities_output=None,
)


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asking, "_REST", 0.0)
    monkeypatch.setattr(asking, "SINGLES", 40)


def judge(
    root: Path,
    candidate: LoadedVersion,
    table: pa.Table | None = None,
    *,
    by_day: bool = True,
    outcomes: Any = lambda *_: {},
    **config: Any,
) -> dg.AssetCheckResult:
    if table is not None:
        write_log(root, table, by_day=by_day)
    return replay(candidate, ReplayConfig(**config), SamplesFolder(root=str(root)), outcomes)


def of_limits(**limits: Any) -> Any:
    return replace(SPEC, gates=replace(SPEC.gates, replay=ReplayLimits(**limits)))


def plain(result: dg.AssetCheckResult) -> dict[str, Any]:
    return {name: value.value for name, value in result.metadata.items()}


def guards(result: dg.AssetCheckResult) -> dict[str, dict[str, Any]]:
    return {str(one["guard"]): one for one in records(result, "guards")}


def records(result: dg.AssetCheckResult, name: str) -> list[dict[str, Any]]:
    table = result.metadata[name]
    assert isinstance(table, dg.TableMetadataValue)
    return [dict(one.data) for one in table.records]


@pytest.mark.parametrize("by_day", [True, False])
def test_honest_retraining_passes_and_its_numbers_are_shown(tmp_path: Path, by_day: bool) -> None:
    candidate, endpoint = loaded(sigmoid_model(threshold=51), sigmoid_model())
    result = judge(tmp_path, candidate, logged_rows(), by_day=by_day)
    assert result.passed, result.description
    shown = plain(result)
    assert shown["rows"] == shown["rows_compared"] == 400
    assert shown["rows_failed"] == shown["rows_not_finite"] == 0
    assert shown["logged_answers_not_given_now"] == "0 of 400"
    assert shown["answers"].startswith("![")
    assert shown["load_id"] == "load"
    found = guards(result)
    assert set(found) == {"disagreement", "score_shift", "latency_p99"}
    assert found["disagreement"]["low"] <= found["disagreement"]["value"] < 0.03
    assert found["disagreement"]["limit"] == 0.2
    assert {version for version, _ in endpoint.asked} == {CANDIDATE, PRODUCTION}
    assert max(rows for _, rows in endpoint.asked) == BATCH_ROWS


def test_candidate_that_learned_another_unit_is_blocked(tmp_path: Path) -> None:
    """Equal on held-out rows, which are in its own unit; wrong on what clients send."""
    candidate, _ = loaded(sigmoid_model(scale=0.1), sigmoid_model())
    result = judge(tmp_path, candidate, logged_rows())
    assert not result.passed
    assert result.severity is ERROR
    said = result.description or ""
    assert "disagreement is 0.4" in said
    assert "shown to be beyond the limit" in said
    assert "score_shift of the probability of 1" in said
    assert said.endswith("production stays where it is")


def test_rows_that_differ_most_are_shown_without_whose_they_are(tmp_path: Path) -> None:
    candidate, _ = loaded(sigmoid_model(scale=0.1), sigmoid_model())
    table = logged_rows(**{LOG_ENTITY: pa.array(["customer 17"] * 400)})
    rows = records(judge(tmp_path, candidate, table), "rows_that_differ_most")
    assert len(rows) == 10
    assert all(str(one["logged"]).startswith("request-") for one in rows)
    assert all('"amount": ' in str(one["features"]) for one in rows)
    assert str(rows[0]["production"]).startswith("1 (")
    assert str(rows[0]["candidate"]).startswith("0 (")
    assert "customer 17" not in str(rows)


def test_no_row_is_shown_where_the_model_file_says_so(tmp_path: Path) -> None:
    spec = of_limits(rows_shown=0)
    candidate, _ = loaded(sigmoid_model(scale=0.1), sigmoid_model(), spec=spec)
    assert "rows_that_differ_most" not in judge(tmp_path, candidate, logged_rows()).metadata


def test_model_that_is_meant_to_answer_differently_has_a_way(tmp_path: Path) -> None:
    spec = of_limits(disagreement=1.0, score_shift=10.0)
    candidate, _ = loaded(sigmoid_model(scale=0.1), sigmoid_model(), spec=spec)
    assert judge(tmp_path, candidate, logged_rows()).passed


def test_difference_that_few_rows_do_not_show_is_a_warning(tmp_path: Path) -> None:
    spec = of_limits(disagreement=0.2, score_shift=10.0)
    candidate, _ = loaded(sigmoid_model(threshold=75), sigmoid_model(), spec=spec)
    result = judge(tmp_path, candidate, logged_rows(60))
    assert not result.passed
    assert result.severity is WARN
    assert "too few rows to show it" in (result.description or "")


def test_rows_of_one_entity_count_as_one(tmp_path: Path) -> None:
    """A client that repeats itself shows no more than one that does not."""
    entities = pa.array([f"customer {row % 4}" for row in range(400)])
    candidate, _ = loaded(sigmoid_model(scale=0.1), sigmoid_model())
    result = judge(tmp_path, candidate, logged_rows(**{LOG_ENTITY: entities}))
    assert result.severity is WARN
    assert guards(result)["disagreement"]["observations"] == 4


@pytest.mark.parametrize("batched", [False, True])
def test_row_that_is_refused_alone_is_counted_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, batched: bool
) -> None:
    monkeypatch.setattr(asking, "SINGLES", 0 if batched else 400)
    table = logged_rows()
    marked = float(table["amount"][7].as_py())
    refused = refusing(sigmoid_model(), lambda one: bool((one["amount"] == marked).any()))
    candidate, _ = loaded(refused, sigmoid_model())
    # Held-out rows are not refused: it is what clients send that fails.
    result = judge(tmp_path, candidate, table)
    assert not result.passed
    assert result.severity is ERROR
    expected = "it cannot answer 1 of 400 logged rows (no kernel for this row)"
    assert expected in (result.description or "")
    assert plain(result)["rows_compared"] == 399


def test_answers_that_are_not_finite_are_blocked(tmp_path: Path) -> None:
    healthy = sigmoid_model()

    def ill(inputs: Tensors) -> dict[str, Any]:
        found = healthy(inputs)
        found["probabilities"][inputs["amount"][:, 0] > 99.0] = np.nan
        return found

    candidate, _ = loaded(ill, healthy)
    result = judge(tmp_path, candidate, logged_rows())
    assert not result.passed
    assert "logged rows with NaN or infinity" in (result.description or "")


def test_slow_candidate_is_blocked_and_noise_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(asking, "SINGLES", 1_000)
    clock = Clock()
    monkeypatch.setattr(asking, "time", clock)
    production = clock.taking(sigmoid_model(), 0.004)
    for seconds, passed in ((0.008, True), (0.013, False)):
        candidate, _ = loaded(clock.taking(sigmoid_model(), seconds), production)
        result = judge(tmp_path / str(passed), candidate, logged_rows(1_000))
        assert result.passed is passed, result.description
    assert "latency_p99 is 3.25" in (result.description or "")
    assert plain(result)["candidate_p99_ms"] == pytest.approx(13)
    assert plain(result)["production_p99_ms"] == pytest.approx(4)


class Clock:
    """Time that only versions take."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def perf_counter(self) -> float:
        return self.seconds

    def monotonic(self) -> float:
        return self.seconds

    def taking(self, answer: Answer, seconds: float) -> Answer:
        def slow(inputs: Tensors) -> dict[str, Any]:
            self.seconds += seconds
            return answer(inputs)

        return slow


def test_each_inference_is_followed_by_a_pause_and_both_begin_in_turn(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(asking, "_REST", 0.5)
    clock, pauses = Clock(), list[float]()
    monkeypatch.setattr(asking, "time", clock)
    candidate, endpoint = loaded(
        clock.taking(sigmoid_model(), 0.4), clock.taking(sigmoid_model(), 0.2)
    )
    frame = tensor_frame(SIGNATURE, logged_rows(42))
    versions = [(candidate.registered, frame), (candidate.version_record(PRODUCTION), frame)]
    asked, _ = asking.answer_in_turn(endpoint, versions, pauses.append)  # type: ignore[arg-type]
    assert asked == 42
    assert [version for version, _ in endpoint.asked[:4]] == [1, 2, 2, 1]
    assert pauses[:4] == pytest.approx([0.1, 0.2, 0.2, 0.1])


def test_slow_versions_are_asked_for_a_minute_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(asking, "_SECONDS", 0.0)
    candidate, _ = loaded(sigmoid_model(), sigmoid_model())
    assert plain(judge(tmp_path, candidate, logged_rows()))["rows"] == 1


def test_missing_values_and_texts_reach_the_versions_as_clients_sent_them(tmp_path: Path) -> None:
    table = logged_rows(
        visits=pa.array([None, 3] * 200, pa.int64()), region=pa.array([None, "süd"] * 200)
    )
    candidate, endpoint = loaded(sigmoid_model(), sigmoid_model())
    assert judge(tmp_path, candidate, table).passed
    newest, before = endpoint.inputs[0], endpoint.inputs[2]
    assert newest["visits"].dtype == np.float64
    assert newest["visits"].tolist() == [[3.0]]
    assert np.isnan(before["visits"]).all()
    assert newest["region"].tolist() == [["süd"]]
    assert before["region"].tolist() == [[""]]


def test_log_without_a_new_feature_passes_and_is_named(tmp_path: Path) -> None:
    wider = replace_features(Feature("age", DType.FP32))
    candidate, endpoint = loaded(sigmoid_model(), sigmoid_model(), signature=wider, old=SIGNATURE)
    result = judge(tmp_path, candidate, logged_rows())
    assert result.passed
    assert "lacks age" in (result.description or "")
    assert not endpoint.asked


def test_feature_that_became_a_text_passes_and_is_named(tmp_path: Path) -> None:
    retyped = Signature(
        features=(Feature("amount", DType.BYTES), *SIGNATURE.features[1:]), packed_input=None,
        classes=(0, 1),
    )  # fmt: skip
    candidate, _ = loaded(sigmoid_model(), sigmoid_model(), signature=SIGNATURE, old=SIGNATURE)
    object.__setattr__(candidate.registered, "signature", retyped)
    result = judge(tmp_path, candidate, logged_rows())
    assert result.passed
    assert "amount as float, not as BYTES" in (result.description or "")


def replace_features(*more: Feature) -> Signature:
    return Signature(
        features=(*SIGNATURE.features, *more), packed_input=None, classes=SIGNATURE.classes
    )


def test_older_rows_without_a_feature_are_left_out(tmp_path: Path) -> None:
    write_log(tmp_path, logged_rows(100).drop_columns(["amount"]), by_day=False)
    candidate, _ = loaded(sigmoid_model(), sigmoid_model())
    result = judge(tmp_path, candidate, logged_rows(200))
    assert plain(result)["rows"] == 200


def test_files_of_today_without_ids_are_replayed(tmp_path: Path) -> None:
    table = logged_rows().drop_columns([LOG_ID, LOG_ROW, LOG_ENTITY])
    candidate, _ = loaded(sigmoid_model(scale=0.1), sigmoid_model())
    result = judge(tmp_path, candidate, table, by_day=False)
    assert result.severity is ERROR
    assert guards(result)["disagreement"]["observations"] == 400


@pytest.mark.parametrize("rows", [0, 49])
def test_too_few_logged_rows_pass_and_say_so(tmp_path: Path, rows: int) -> None:
    candidate, endpoint = loaded(sigmoid_model(scale=0.1), sigmoid_model())
    result = judge(tmp_path, candidate, logged_rows(rows) if rows else None)
    assert result.passed
    assert f"{rows} rows with all features are logged" in (result.description or "")
    assert not endpoint.asked


def test_what_needs_no_replay_passes_without_one(tmp_path: Path) -> None:
    write_log(tmp_path, logged_rows())
    wrong = sigmoid_model(scale=0.1)
    for (candidate, endpoint), rows, said in (
        (loaded(wrong, None), None, "no other version in production"),
        (loaded(wrong, sigmoid_model(), same_graph=True), None, "byte for byte"),
        (loaded(wrong, sigmoid_model()), 0, "set to 0"),
    ):
        result = judge(tmp_path, candidate, rows=rows)
        assert result.passed
        assert said in (result.description or "")
        assert not endpoint.asked


def of_version(version: int, rows: int, **columns: Any) -> pa.Table:
    return logged_rows(rows, **{LOG_VERSION: pa.array([version] * rows, pa.int64())} | columns)


def test_requests_of_earlier_versions_are_replayed_after_a_switch(tmp_path: Path) -> None:
    """Twenty rows of production are too few; its predecessor's clients sent the same requests."""
    wrong = ["1" if one == "0" else "0" for one in logged_rows(380)[LOG_PREDICTION].to_pylist()]
    write_log(tmp_path, of_version(7, 380, **{LOG_PREDICTION: wrong}))
    candidate, endpoint = loaded(sigmoid_model(scale=0.1), sigmoid_model())
    result = judge(tmp_path, candidate, of_version(PRODUCTION, 20))
    assert result.severity is ERROR
    assert "disagreement is 0.4" in (result.description or "")
    shown = plain(result)
    assert shown["rows"] == 400
    assert shown["logged_of_versions"] == "20 of 1, 380 of 7"
    assert shown["logged_answers_not_given_now"] == "0 of 20", "another version's are not its own"
    assert {version for version, _ in endpoint.asked} == {CANDIDATE, PRODUCTION}


def test_rows_that_today_s_contract_cannot_read_are_left_out_and_counted(tmp_path: Path) -> None:
    write_log(tmp_path, of_version(7, 30).drop_columns(["amount"]))
    write_log(tmp_path, of_version(7, 40, region=pa.array([1.5] * 40)))
    gaps = pa.array([None if row < 5 else 1.0 for row in range(60)], pa.float32())
    write_log(tmp_path, of_version(7, 60, amount=gaps))
    candidate, _ = loaded(sigmoid_model(), sigmoid_model())
    result = judge(tmp_path, candidate, of_version(PRODUCTION, 50))
    assert result.passed, result.description
    assert plain(result)["rows"] == 105
    assert {str(one["reason"]): one["rows"] for one in records(result, "rows_left_out")} == {
        "the log lacks amount": 30,
        "the log has region as double, not as BYTES": 40,
        "a feature without which a version cannot answer is missing": 5,
    }


def test_newest_rows_are_replayed_as_many_as_wanted(tmp_path: Path) -> None:
    table = logged_rows()
    candidate, endpoint = loaded(sigmoid_model(), sigmoid_model())
    assert plain(judge(tmp_path, candidate, table, rows=60))["rows"] == 60
    assert endpoint.inputs[0]["amount"][0, 0] == np.float32(table["amount"][399].as_py())


def test_production_that_does_not_answer_blocks_unless_meant(tmp_path: Path) -> None:
    candidate, endpoint = loaded(sigmoid_model(), sigmoid_model(), is_ready=False)
    result = judge(tmp_path, candidate, logged_rows())
    assert not result.passed
    assert "replay: {without_comparison: true}" in (result.description or "")
    result = judge(tmp_path, candidate, without_comparison=True)
    assert result.passed
    assert {version for version, _ in endpoint.asked} == {CANDIDATE}
    broken = refusing(sigmoid_model(), lambda one: len(one["amount"]) != 200)
    candidate, _ = loaded(broken, sigmoid_model(), is_ready=False)
    assert not judge(tmp_path, candidate, without_comparison=True).passed


def test_log_that_cannot_be_read_is_a_warning(tmp_path: Path) -> None:
    write_log(tmp_path, logged_rows(60))
    candidate, _ = loaded(sigmoid_model(), sigmoid_model())
    result = judge(tmp_path, candidate, logged_rows(60, **{LOG_SCORE: pa.array(["high"] * 60)}))
    assert not result.passed
    assert result.severity is WARN
    assert "the log cannot be read" in (result.description or "")


def test_logged_answers_that_production_does_not_give_now_are_counted(tmp_path: Path) -> None:
    table = logged_rows()
    logged = table[LOG_PREDICTION].to_pylist()
    logged[:3] = ["1" if one == "0" else "0" for one in logged[:3]]
    table = logged_rows(**{LOG_PREDICTION: logged})
    candidate, _ = loaded(sigmoid_model(), sigmoid_model())
    result = judge(tmp_path, candidate, table)
    assert result.passed
    assert plain(result)["logged_answers_not_given_now"] == "3 of 400"


@pytest.mark.parametrize("share", [0.0, 0.2])
def test_matured_outcomes_show_a_worse_candidate(tmp_path: Path, share: float) -> None:
    """Right before, and wrong now on a fifth of the rows, which alone is within the limits."""
    spec = of_limits(disagreement=1.0, score_shift=10.0)
    candidate, _ = loaded(sigmoid_model(threshold=50 + 100 * share), sigmoid_model(), spec=spec)
    table = logged_rows()
    oldest = table[LOG_TIME][0].as_py()
    true = dict(zip(table[LOG_ID].to_pylist(), table[LOG_PREDICTION].to_pylist(), strict=True))

    def outcomes(root: Path, spec: ModelSpec, since: datetime) -> dict[tuple[str, int], str]:
        assert (root, spec.model_name, since) == (tmp_path, SPEC.model_name, oldest)
        return {(one, 0): label for one, label in true.items() if int(one.partition("-")[2]) % 2}

    result = judge(tmp_path, candidate, table, outcomes=outcomes)
    assert result.passed is (share == 0), result.description
    outcome = guards(result)["outcome"]
    assert outcome["observations"] == 200
    assert outcome["value"] == pytest.approx(share, abs=0.06)


def test_outcomes_that_clients_sent_are_joined_with_logged_rows(tmp_path: Path) -> None:
    table = logged_rows(
        sample_probabilities=pa.nulls(400, pa.list_(pa.float64())),
        sample_b_version=pa.nulls(400, pa.int64()),
        sample_b_prediction=pa.nulls(400, pa.string()),
        sample_b_score=pa.nulls(400, pa.float64()),
    )
    true = ["1" if one == "0" else "0" for one in table[LOG_PREDICTION].to_pylist()]
    sent = pa.table(
        {
            OUTCOME_ID: table[LOG_ID],
            OUTCOME_ROW: table[LOG_ROW],
            OUTCOME_VALUE: true,
            OUTCOME_OBSERVED: table[LOG_TIME],
            OUTCOME_RECEIVED: table[LOG_TIME],
        }
    )
    folder = tmp_path / SPEC.model_name / OUTCOMES_FOLDER / f"date={datetime.now(UTC):%Y-%m-%d}"
    folder.mkdir(parents=True)
    parquet.write_table(sent, folder / "1.parquet")
    # Right wherever production is wrong, which is everywhere: a difference that is a gain.
    spec = of_limits(disagreement=1.0, score_shift=100.0)
    healthy = sigmoid_model()

    def turned(inputs: Tensors) -> dict[str, Any]:
        found = healthy(inputs)
        return {"label": 1 - found["label"], "probabilities": found["probabilities"][:, ::-1]}

    candidate, _ = loaded(turned, healthy, spec=spec)
    result = judge(tmp_path, candidate, table, outcomes=matured_outcomes)
    assert result.passed, result.description
    assert guards(result)["outcome"]["value"] == -1.0
    candidate, _ = loaded(healthy, turned, spec=spec)
    result = judge(tmp_path, candidate, outcomes=matured_outcomes)
    assert "outcome is 1 (" in (result.description or "")


def test_outcomes_that_cannot_be_joined_leave_the_other_guards(tmp_path: Path) -> None:
    candidate, _ = loaded(sigmoid_model(), sigmoid_model())
    # A log without the columns of B is not one that outcomes can be joined with.
    result = judge(tmp_path, candidate, logged_rows(), outcomes=matured_outcomes)
    assert result.passed, result.description
    assert plain(result)["outcomes"].startswith("not joined: the files in ")
    assert "disagreement" in guards(result)


def regression(scale: float) -> Answer:
    return lambda inputs: {"prediction": scale * inputs["amount"][:, 0].astype(np.float64)}


@pytest.mark.parametrize(("scale", "passed"), [(1.02, True), (2.54, False)])
def test_regression_in_another_unit_is_blocked(tmp_path: Path, scale: float, passed: bool) -> None:
    """Inches instead of centimetres."""
    candidate, _ = loaded(regression(scale), regression(1.0), signature=REGRESSION)
    result = judge(tmp_path, candidate, logged_rows().drop_columns([LOG_PREDICTION]))
    assert result.passed is passed, result.description
    assert set(guards(result)) == {"score_shift", "latency_p99"}


@pytest.mark.parametrize(("scale", "passed"), [(1.0, True), (0.1, False)])
def test_classifier_without_probabilities_is_compared_by_its_labels(
    tmp_path: Path, scale: float, passed: bool
) -> None:
    plain_labels = Signature(
        features=SIGNATURE.features, packed_input=None, classes=(0, 1), probabilities_output=None
    )
    candidate, _ = loaded(sigmoid_model(scale), sigmoid_model(), signature=plain_labels)
    object.__setattr__(candidate.evaluation, "probabilities", None)
    result = judge(tmp_path, candidate, logged_rows())
    assert result.passed is passed, result.description
    assert (guards(result)["score_shift"]["value"] == 0) is passed


def test_classes_that_moved_are_compared_by_name(tmp_path: Path) -> None:
    turned = Signature(features=SIGNATURE.features, packed_input=None, classes=(1, 0))
    model = sigmoid_model()

    def moved(inputs: Tensors) -> dict[str, Any]:
        found = model(inputs)
        return found | {"probabilities": found["probabilities"][:, ::-1]}

    candidate, _ = loaded(moved, model, signature=turned, old=SIGNATURE)
    result = judge(tmp_path, candidate, logged_rows())
    assert result.passed, result.description
    assert guards(result)["score_shift"]["value"] == pytest.approx(0)


def test_labels_of_another_type_are_not_compared(tmp_path: Path) -> None:
    words = Signature(features=SIGNATURE.features, packed_input=None, classes=("no", "yes"))
    candidate, _ = loaded(sigmoid_model(), sigmoid_model(), signature=words, old=SIGNATURE)
    result = judge(tmp_path, candidate, logged_rows())
    assert result.passed
    assert "labels of another type" in (result.description or "")
