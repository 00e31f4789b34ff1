"""What a change of the signature breaks for clients."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import pandas as pd
import pytest

from platform_assets.serving.compatibility import (
    align_probabilities,
    comparison_obstacle,
    frame_contract,
    signature_differences,
)
from serving_gateway.contract import DType, Feature, Signature, feature_contract

AGE = Feature("age", DType.INT64)
CITY = Feature("city", DType.BYTES)
BEFORE = Signature(features=(AGE, CITY), packed_input=None, classes=("no", "yes"))


def changed(**fields: object) -> list[str]:
    return signature_differences(BEFORE, msgspec.structs.replace(BEFORE, **fields))


def test_the_same_signature_breaks_nothing() -> None:
    assert changed() == []


def test_what_may_be_missing_from_now_on_breaks_nothing() -> None:
    city = Feature("city", DType.BYTES, nullable=True)
    assert changed(features=(AGE, city)) == []


@pytest.mark.parametrize(
    ("features", "said"),
    [
        ((AGE,), "city was removed"),
        ((AGE, CITY, Feature("new", DType.FP32)), "new was added"),
        ((Feature("age", DType.FP32), CITY), "age was INT64 and is FP32"),
        (
            (Feature("age", DType.INT64, nullable=True), CITY),
            "age was INT64 and is INT64 (as FP64)",
        ),
        ((CITY, AGE), "the features have another order"),
    ],
)
def test_changed_features_break(features: tuple[Feature, ...], said: str) -> None:
    assert changed(features=features) == [said]


def test_a_feature_that_may_not_be_missing_any_more_breaks() -> None:
    before = msgspec.structs.replace(
        BEFORE, features=(AGE, Feature("city", DType.BYTES, nullable=True))
    )
    assert signature_differences(before, BEFORE) == ["city may not be missing any more"]


def test_answers_in_other_terms_break() -> None:
    assert changed(classes=("yes",)) == ["it never answers 'no' any more"]
    assert changed(classes=()) == ["a classification became a regression"]
    assert changed(classes=("no", "yes", "maybe")) == []


@pytest.mark.parametrize("classes", [("yes", "no"), ("maybe", "no", "yes")])
def test_probabilities_that_stand_elsewhere_break(classes: tuple[str, ...]) -> None:
    assert "another order" in changed(classes=classes)[0]


def test_a_label_that_is_written_otherwise_breaks() -> None:
    before = msgspec.structs.replace(BEFORE, classes=(0, 1))
    after = msgspec.structs.replace(BEFORE, classes=(False, True))
    assert signature_differences(before, after) == ["it never answers 0, 1 any more"]


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({}, ""),
        ({"features": (AGE, CITY, Feature("new", DType.FP32))}, ""),
        ({"classes": ("maybe", "no")}, ""),
        ({"features": (AGE,)}, "reads city, which the evaluation rows lack"),
        ({"features": (AGE, Feature("city", DType.FP32))}, "reads city as another type"),
        ({"features": (Feature("age", DType.INT64, nullable=True), CITY)}, "reads age as another"),
        ({"classes": ()}, "is a classifier"),
        ({"classes": (1, 2)}, "answers labels of another type"),
    ],
)
def test_production_is_asked_only_what_it_can_read(fields: dict[str, Any], why: str) -> None:
    found = comparison_obstacle(BEFORE, msgspec.structs.replace(BEFORE, **fields))
    assert found[: len(why) or None] == why


def test_probabilities_of_production_follow_the_classes_of_the_candidate() -> None:
    found = align_probabilities(("maybe", "yes", "no"), np.array([[0.2, 0.8]]), ("no", "yes"))
    assert found.tolist() == [[0, 0.8, 0.2]]


def test_smaller_batches_break() -> None:
    assert changed(max_batch_rows=8) == ["at most 8 rows in one request, not 1024"]


def test_rows_tell_the_contract_by_their_own_types() -> None:
    rows = pd.DataFrame({"age": np.array([1, 2]), "city": np.array(["a", ""], dtype=object)})
    assert frame_contract(rows, BEFORE) == feature_contract(BEFORE.features)
    assert frame_contract(rows[["city", "age"]], BEFORE) != feature_contract(BEFORE.features)
    other = rows.astype({"age": np.float32})
    assert frame_contract(other, BEFORE) != feature_contract(BEFORE.features)


def test_a_number_that_may_be_missing_keeps_its_own_type_in_the_contract() -> None:
    age = Feature("age", DType.INT64, nullable=True)
    signature = msgspec.structs.replace(BEFORE, features=(age, CITY))
    rows = pd.DataFrame({"age": np.array([1.0, np.nan]), "city": np.array(["a", ""], dtype=object)})
    assert frame_contract(rows, signature) == feature_contract(signature.features)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ({}, {"request": ("age",)}, ["age has to come with each request"]),
        ({"request": ("age",)}, {}, []),  # it may still be sent
        (
            {"join_keys": ("customer",)},
            {"join_keys": ("customer", "shop")},
            ["features are read by customer and shop, not by customer"],
        ),
        (
            {"join_keys": ("customer", "shop")},
            {"join_keys": ("shop",)},  # the other one is not a key any more
            ["features are read by shop, not by customer and shop"],
        ),
        ({"join_keys": ("a", "b")}, {"join_keys": ("b", "a")}, []),
        (
            {"join_keys": ("customer",)},
            {"join_keys": ("shop",)},
            ["features are read by shop, not by customer"],
        ),
        ({}, {"join_keys": ("customer",)}, []),
        (
            {},
            {"join_keys": ("customer", "shop")},
            ["features are read by customer and shop, not by one key"],
        ),
    ],
)
def test_what_callers_do_not_send_yet_breaks_them(
    old: dict[str, tuple[str, ...]], new: dict[str, tuple[str, ...]], said: list[str]
) -> None:
    before, after = (msgspec.structs.replace(BEFORE, **one) for one in (old, new))
    assert signature_differences(before, after) == said
