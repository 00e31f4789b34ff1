"""Hold-out and folds: stable as data grow, never an entity on two sides, never the future."""

from __future__ import annotations

import dataclasses
from datetime import timedelta
from typing import Any

import msgspec
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from platform_assets.model_spec import JoinKey, ModelSpec, Split, Task
from platform_assets.resources.records import SplitRecord
from platform_assets.training.folds import folds, time_folds
from platform_assets.training.frame import source_rows
from platform_assets.training.rows import Rows, TrainingError
from platform_assets.training.splits import evaluation_mask, held_out_mask, split_evaluation
from tests.support.models import IRIS
from tests.support.tabular import mixed_frame, mixed_spec


def _with(spec: ModelSpec, **changes: Any) -> ModelSpec:
    return dataclasses.replace(spec, evaluation=dataclasses.replace(spec.evaluation, **changes))


def _rows(labels: Any, groups: Any, times: Any = None) -> Rows:
    frame = pd.DataFrame({"x": np.arange(len(labels), dtype=np.float32)})
    return Rows(frame, np.asarray(labels), np.asarray(groups), times)


def _flowers(seed: int = 0, entities: int = 150) -> Rows:
    """Every entity three times, in an order of `seed`."""
    order = np.random.default_rng(seed).permutation(3 * entities)
    return _rows(np.tile(np.arange(entities) % 3, 3)[order], np.tile(np.arange(entities), 3)[order])


def _held(rows: Rows, spec: ModelSpec = IRIS) -> set[Any]:
    return set(split_evaluation(rows, spec)[1].groups.tolist())


def test_no_entity_is_both_trained_on_and_evaluated() -> None:
    training, evaluation, _ = split_evaluation(_flowers(), IRIS)
    assert not set(training.groups.tolist()) & set(evaluation.groups.tolist())
    assert len(training) + len(evaluation) == 450
    assert 60 <= len(evaluation) <= 120
    assert set(evaluation.labels.tolist()) == {0, 1, 2}


def test_the_same_entities_are_held_out_in_any_order_of_the_rows() -> None:
    assert _held(_flowers(1)) == _held(_flowers(2))
    assert _held(_flowers(), _with(IRIS, seed=5)) != _held(_flowers())


def test_more_data_moves_no_entity_to_the_other_side() -> None:
    """So that a version in production never learned from what its successor is judged on."""
    before, after = _held(_flowers(entities=150)), _held(_flowers(entities=900))
    assert {one for one in after if one < 150} == before
    assert 120 <= len(after) <= 240


def test_entities_with_a_text_for_a_name_are_held_out_as_well() -> None:
    names = np.array([f"kunde-{number}" for number in range(400)], dtype=object)
    held = _held(_rows(np.arange(400) % 3, names))
    assert 50 <= len(held) <= 110
    assert held <= set(names)


def test_a_class_that_nothing_could_learn_is_refused() -> None:
    rows = _flowers()
    lost = sorted(_held(rows))[0]
    labels = np.where(rows.groups == lost, 9, rows.labels)
    with pytest.raises(TrainingError, match="class 9 of species has only evaluation rows"):
        split_evaluation(_rows(labels, rows.groups), IRIS)


def test_a_target_with_one_value_is_refused() -> None:
    with pytest.raises(TrainingError, match="species has only the value 1"):
        split_evaluation(_rows(np.ones(90, np.int64), np.arange(90)), IRIS)


def test_a_fraction_that_leaves_a_side_empty_is_refused() -> None:
    with pytest.raises(TrainingError, match="no evaluation rows are left of 3"):
        split_evaluation(_rows([0, 1, 2], [1, 1, 1]), _with(IRIS, fraction=1e-9))


@pytest.mark.parametrize("per_class", [[3, 50, 50], [2, 8000], [4, 4, 4], [3, 3], [100, 7, 31]])
def test_every_class_is_in_as_many_folds_as_it_has_entities(per_class: list[int]) -> None:
    labels = np.repeat(np.arange(len(per_class)), per_class)
    rows = _rows(labels, np.arange(len(labels)) + 100)
    dealt = folds(rows, IRIS)
    assert len(dealt) == min(5, sorted(per_class)[-2])
    for learn, test in dealt:
        assert len(set(labels[test].tolist())) > 1
        assert sorted([*learn.tolist(), *test.tolist()]) == list(range(len(labels)))
    for label, entities in enumerate(per_class):
        tested = [test for _, test in dealt if label in labels[test]]
        assert len(tested) == min(len(dealt), entities)


@pytest.mark.parametrize("positives", [3, 5, 10])
def test_entities_that_begin_with_one_class_are_distributed_by_the_rarer_one(
    positives: int,
) -> None:
    """Such as customers of whom some leave at last."""
    groups = np.repeat(np.arange(100), 5)
    labels = ((groups < positives) & (np.arange(500) % 5 == 4)).astype(np.int64)
    for seed in range(5):
        dealt = folds(_rows(labels, groups), _with(IRIS, seed=seed))
        assert len(dealt) == min(5, positives)
        assert all(len(set(labels[test].tolist())) == 2 for _, test in dealt)
        assert all(len(set(labels[learn].tolist())) == 2 for learn, _ in dealt)


def test_one_entity_of_another_class_leaves_all_folds() -> None:
    groups = np.repeat(np.arange(40), 5)
    labels = ((groups > 0) & (np.arange(200) % 5 == 4)).astype(np.int64)
    assert len(folds(_rows(labels, groups), IRIS)) == 5


def test_classes_that_share_few_entities_are_folded_all_the_same() -> None:
    groups = np.repeat(np.arange(6), 3)
    labels = np.array([[0, 1, 2 + entity // 2] for entity in range(6)]).ravel()
    dealt = folds(_rows(labels, groups), IRIS)
    assert len(dealt) == 5
    assert sorted(row for _, test in dealt for row in test) == list(range(18))


def test_an_entity_has_all_its_rows_in_one_fold() -> None:
    rows = _flowers()
    dealt = folds(rows, IRIS)
    assert len(dealt) == IRIS.evaluation.folds
    for learn, test in dealt:
        assert not set(rows.groups[learn].tolist()) & set(rows.groups[test].tolist())


def test_folds_of_a_regression_share_the_range_of_the_target() -> None:
    values = np.sort(np.random.default_rng(0).lognormal(3, 2, 500))
    rows = _rows(values, np.arange(500))
    means = [np.log(values[test]).mean() for _, test in folds(rows, mixed_spec(Task.REGRESSION))]
    assert np.ptp(means) < 0.15


def test_one_entity_alone_cannot_be_compared() -> None:
    with pytest.raises(TrainingError, match="only one entity"):
        folds(_rows([0, 1, 0], [1, 1, 1]), IRIS)


def _hours(count: int, labels: Any = None, repeat: int = 1) -> Rows:
    times = np.datetime64("2024-01-01", "ns") + np.arange(count) // repeat * np.timedelta64(1, "h")
    order = np.random.default_rng(0).permutation(count)
    kinds = np.arange(count) % 3 if labels is None else np.asarray(labels)
    return _rows(kinds[order], np.ones(count, np.int64), times[order])


BY_TIME = _with(IRIS, split=Split.TIME)


def test_the_newest_rows_are_evaluated_and_those_of_one_time_stay_together() -> None:
    training, evaluation, _ = split_evaluation(_hours(100), BY_TIME)
    assert training.times is not None
    assert evaluation.times is not None
    assert len(evaluation) == 20
    assert training.times.max() < evaluation.times.min()
    training, evaluation, _ = split_evaluation(_hours(100, repeat=7), BY_TIME)
    assert len(evaluation) == 23, "three whole groups of seven, and the last two rows"
    assert not set(training.times.tolist()) & set(evaluation.times.tolist())  # type: ignore[union-attr] # has times


@pytest.mark.parametrize(
    ("rows", "spec"), [(_flowers(), IRIS), (_hours(100), BY_TIME)], ids=["by entity", "by time"]
)
def test_rule_of_a_split_is_recorded_as_json(rows: Rows, spec: ModelSpec) -> None:
    _, _, rule = split_evaluation(rows, spec)

    assert msgspec.json.decode(msgspec.json.encode(rule), type=SplitRecord) == rule


def test_no_fold_learns_from_what_comes_after_it() -> None:
    rows = _hours(101, repeat=2)
    dealt = folds(rows, BY_TIME)
    assert len(dealt) == 5
    assert rows.times is not None
    sizes = []
    for learn, test in dealt:
        assert rows.times[learn].max() < rows.times[test].min()
        sizes.append(len(learn))
    assert sizes == sorted(sizes)
    assert len(set(sizes)) == 5


def test_folds_that_would_learn_from_one_class_are_left_out() -> None:
    rows = _hours(60, labels=[0] * 25 + [0, 1] * 17 + [1])
    dealt = folds(rows, BY_TIME)
    assert len(dealt) == 3
    assert all(len(set(rows.labels[learn].tolist())) > 1 for learn, _ in dealt)


def test_rows_of_one_time_cannot_be_split_by_it() -> None:
    rows = _hours(50, repeat=50)
    with pytest.raises(TrainingError, match="no evaluation rows are left"):
        split_evaluation(rows, BY_TIME)
    with pytest.raises(TrainingError, match="too few different times"):
        folds(rows, BY_TIME)
    with pytest.raises(TrainingError, match="needs event_time"):
        split_evaluation(dataclasses.replace(rows, times=None), BY_TIME)


@pytest.mark.parametrize("entities", [2, 3, 7, 12])
def test_a_regression_of_few_entities_is_dealt_all_the_same(entities: int) -> None:
    rows = _rows(np.arange(float(entities)), np.arange(entities))
    dealt = folds(rows, mixed_spec(Task.REGRESSION))
    assert len(dealt) == min(3, entities)
    assert sorted(np.concatenate([test for _, test in dealt]).tolist()) == list(range(entities))


def test_classes_of_one_entity_each_cannot_be_compared() -> None:
    with pytest.raises(TrainingError, match="only one entity"):
        folds(_rows([0, 1, 2], [1, 2, 3]), IRIS)


DAY = np.timedelta64(1, "D")
BY_BOTH = _with(IRIS, split=Split.ENTITY_AND_TIME, fraction=0.3, gap=timedelta(days=7), folds=4)


def _visits(days: int = 200, entities: int = 60, seed: int = 0) -> Rows:
    """Each entity on many days, in an order of `seed`."""
    random = np.random.default_rng(seed)
    who, day = np.tile(np.arange(entities), days), np.repeat(np.arange(days), entities)
    order = random.permutation(len(who))
    times = np.datetime64("2024-01-01", "ns") + day * DAY
    return _rows(((who + day) % 3)[order], who[order], times[order])


def _times_of(rows: Rows) -> Any:
    assert rows.times is not None
    return rows.times


def test_newest_rows_of_held_out_entities_are_evaluated_after_a_gap() -> None:
    rows = _visits()
    training, evaluation, rule = split_evaluation(rows, BY_BOTH)
    assert not set(training.groups.tolist()) & set(evaluation.groups.tolist())
    first = _times_of(evaluation).min()
    assert _times_of(training).max() < first - 7 * DAY
    assert _times_of(training).max() >= first - 9 * DAY, "no more than the gap is lost"
    assert (_times_of(evaluation).max() - first) / DAY == pytest.approx(59)
    assert len(training) + len(evaluation) < len(rows)
    assert msgspec.json.decode(msgspec.json.encode(rule), type=SplitRecord) == rule


def test_a_successor_is_evaluated_on_rows_that_production_did_not_learn_from() -> None:
    """A month later there are new rows, another cutoff, and still no row that was learned from."""
    before = _visits(170)
    learned, _, rule = split_evaluation(before, BY_BOTH)
    known = set(zip(learned.groups.tolist(), _times_of(learned).tolist(), strict=True))
    _, evaluation, _ = split_evaluation(_visits(200, seed=3), BY_BOTH)
    unseen = held_out_mask(rule, evaluation.groups, evaluation.times)
    assert unseen.all(), "the same entities are held out by every training"
    other_seed = _with(BY_BOTH, seed=1)
    _, evaluation, _ = split_evaluation(_visits(200, seed=3), other_seed)
    unseen = held_out_mask(rule, evaluation.groups, evaluation.times)
    assert unseen.sum() > 0
    rows = zip(evaluation.groups.tolist(), _times_of(evaluation).tolist(), strict=True)
    for one, is_unseen in zip(rows, unseen.tolist(), strict=True):
        assert one not in known or not is_unseen


def test_rule_says_what_entities_are_told_apart_by() -> None:
    numbered = dataclasses.replace(IRIS, join_key=JoinKey(row_number="row"))
    fewer = dataclasses.replace(numbered, features=numbered.features[1:])
    turned = dataclasses.replace(numbered, features=numbered.features[::-1])
    keyed = dataclasses.replace(IRIS, features=IRIS.features[1:])
    specs = (numbered, fewer, turned, IRIS, keyed)
    rules = [split_evaluation(_flowers(), one)[2].entities for one in specs]
    assert len({*rules[:3]}) == 3
    assert {*rules[3:]} == {IRIS.join_key.name}


def test_rows_in_the_gap_are_new_to_the_model_that_left_them_out() -> None:
    spec = _with(BY_TIME, gap=timedelta(hours=10))
    rows = _hours(100)
    training, evaluation, rule = split_evaluation(rows, spec)
    assert (len(training), len(evaluation)) == (70, 20)
    assert held_out_mask(rule, rows.groups, rows.times).sum() == 30
    assert evaluation_mask(rule, rows.groups, rows.times).sum() == 20


def test_folds_of_both_test_other_entities_after_the_gap() -> None:
    rows = _visits()
    training, _, _ = split_evaluation(rows, BY_BOTH)
    dealt = folds(training, BY_BOTH)
    assert len(dealt) == 4
    for learn, test in dealt:
        assert not set(training.groups[learn].tolist()) & set(training.groups[test].tolist())
        latest, earliest = _times_of(training)[learn].max(), _times_of(training)[test].min()
        assert latest < earliest - 7 * DAY


def test_calibration_folds_keep_the_gap_on_both_sides() -> None:
    spec = _with(BY_TIME, gap=timedelta(hours=5), folds=4)
    rows = _hours(100)
    dealt = time_folds(rows, spec)
    assert sorted(np.concatenate([test for _, test in dealt]).tolist()) == list(range(100))
    for learn, test in dealt:
        for one in (_times_of(rows)[test].min(), _times_of(rows)[test].max()):
            distance = np.abs(_times_of(rows)[learn] - one)
            assert distance.min() > np.timedelta64(5, "h")


def test_calibration_folds_have_no_gap_where_it_would_leave_nothing_to_learn_from() -> None:
    spec = _with(BY_TIME, gap=timedelta(hours=60), folds=4)
    for learn, test in time_folds(_hours(100), spec):
        assert len(test) == 25
        assert len(learn) == 75


def test_a_gap_that_leaves_nothing_to_learn_from_is_refused() -> None:
    spec = _with(BY_TIME, gap=timedelta(days=30))
    with pytest.raises(TrainingError, match=r"no training rows .* a gap of 30 days"):
        split_evaluation(_hours(100), spec)
    with pytest.raises(TrainingError, match="too long a gap"):
        folds(_hours(100), spec)


def test_values_of_a_feature_can_take_the_place_of_entities() -> None:
    spec = mixed_spec(Task.BINARY, ("no", "yes"))
    spec = _with(spec, group="city")
    frame = mixed_frame(60, 3).assign(
        entity_id=np.arange(60),
        event_timestamp=pd.date_range("2024-01-01", periods=60, tz="UTC"),
        outcome=["no", "yes"] * 30,
    )
    table = pa.Table.from_pandas(frame.assign(insured=frame["insured"] > 0))
    rows = source_rows(table, spec)
    assert rows.groups.tolist() == frame["city"].tolist()
    training, evaluation, rule = split_evaluation(rows, _with(spec, fraction=0.5))
    assert rule.group == "city"
    assert not set(training.groups.tolist()) & set(evaluation.groups.tolist())
    # Of which type a column of a feature table is, the model file does not say.
    features = [
        dataclasses.replace(one, table="customers") if one.name == "income" else one
        for one in spec.features
    ]
    numbers = _with(dataclasses.replace(spec, features=tuple(features)), group="income")
    with pytest.raises(TrainingError, match=r"income is FP64 .* groups rows"):
        source_rows(table, numbers)
