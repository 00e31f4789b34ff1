"""What a proof says of answers: their parity, and rows in the digits that people write."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray

from platform_assets.decimals import shortest_decimal
from platform_assets.model_spec import Task
from platform_assets.resources.records import EvaluationSet
from platform_assets.serving import proof
from platform_assets.serving.proof import ask_gateway_again, proof_rows, varied_rows
from serving_gateway.contract import DType, Feature, Signature
from tests.support.tabular import CLASSES, mixed_spec


@pytest.mark.parametrize(
    ("labels", "shown"),
    [
        (np.array([*"aaaaaaabaac"], object), [0, 1, 2, 7, 10]),
        (np.array([3, 1, 2, 0, 5, 4, 6]), [0, 1, 2, 3, 4]),
        (np.array([True, True]), [0, 1]),
        (np.array([0.5, 0.25, 0.5, 1.0, 2.0, 4.0]), [0, 1, 3, 4, 5]),
        (np.array([], object), []),
    ],
    ids=["rare classes", "more classes than rows", "few rows", "regression", "none"],
)
def test_rows_of_different_answers_are_shown_first(labels: NDArray[Any], shown: list[int]) -> None:
    assert varied_rows(labels, 5) == shown


def test_values_have_no_digits_that_only_their_type_adds() -> None:
    types = {"length": DType.FP32, "ratio": DType.FP64, "count": DType.INT64}
    signature = Signature(
        features=tuple(Feature(name, dtype, nullable=True) for name, dtype in types.items()),
        packed_input=None,
    )
    features = pd.DataFrame(
        {
            "length": np.array([4.42, np.nan], np.float32),
            "ratio": [4.420000076293945, 0.1],
            "count": [3.0, np.nan],
        }
    )
    labels = np.array(["a", "b"], object)
    evaluation = EvaluationSet(features, labels, labels, None, labels)
    first, second = proof_rows(signature, evaluation, np.array(["a", "x"], object))
    assert first == {
        "row": "0",
        "features": "[4.42, 4.420000076293945, 3]",
        "gateway": "a",
        "scikit-learn": "a",
    }
    assert (second["features"], second["gateway"]) == ("[None, 0.1, None]", "x")


def test_the_shortest_decimal_is_the_same_number() -> None:
    words = np.random.default_rng(0).integers(0, 2**32, 2000, dtype=np.uint32)
    numbers = words.view(np.float32)
    for number in numbers[np.isfinite(numbers)]:
        assert np.float32(shortest_decimal(float(number))) == number


@pytest.mark.parametrize(
    ("probability", "answered", "holds"),
    [
        pytest.param(0.29999, "yes", True, id="tie at the threshold"),
        pytest.param(0.50001, "no", False, id="tie of the classes"),
    ],
)
def test_a_tie_is_at_the_threshold_of_the_version(
    probability: float, answered: str, holds: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    yes = np.array([0.1, probability, 0.9])
    probabilities = np.column_stack([1 - yes, yes])
    expected = np.where(yes >= 0.3, "yes", "no").astype(object)
    answers = expected.copy()
    answers[1] = answered
    evaluation = EvaluationSet(
        pd.DataFrame({"x": yes}), expected, expected, probabilities, np.arange(3), threshold=0.3
    )
    signature = Signature((Feature("x", DType.FP64),), packed_input="features")
    registry: Any = SimpleNamespace(
        version=lambda *_: SimpleNamespace(run_id="run", signature=signature),
        evaluation_set=lambda _: evaluation,
    )
    monkeypatch.setattr(proof, "ask_gateway", lambda *_: (answers, probabilities))
    promoted: Any = SimpleNamespace(model_name="mixed", version=1)
    gateway: Any = None
    spec = mixed_spec(Task.BINARY, CLASSES["two texts"])
    parity, rows = ask_gateway_again(spec, promoted, gateway, registry)
    assert parity.holds is holds
    assert len(rows) == 3
