"""What a change of the signature breaks for clients."""

from __future__ import annotations

import msgspec
import numpy as np
import pandas as pd
import pytest

from platform_assets.serving.compatibility import frame_contract, signature_differences
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
    assert changed(classes=("maybe", "no", "yes")) == []


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
