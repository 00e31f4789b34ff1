"""scikit-learn -> ONNX: what the graph declares, and what it refuses."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pandas as pd
import pytest
from sklearn.linear_model import LogisticRegression

from platform_assets.export.conversion import export
from platform_assets.export.inspection import (
    IMAGE_IR_VERSION,
    IMAGE_OPSET,
    ExportError,
    inspect_graph,
)
from platform_assets.export.parity import compare
from platform_assets.export.runtime import model_inputs, run_graph
from platform_assets.export.triton_config import TensorSpec
from serving_gateway.contract import DType, Feature, Signature
from tests.support.estimators import Homemade

NAMES = ("a", "b")
SIGNATURE = Signature(
    features=tuple(Feature(name, DType.FP32) for name in NAMES),
    packed_input="features",
    classes=(0, 1, 2),
)


@pytest.fixture(scope="module")
def rows() -> pd.DataFrame:
    rng = np.random.default_rng(5)
    return pd.DataFrame(rng.normal(size=(90, 2)).astype(np.float32), columns=list(NAMES))


@pytest.fixture(scope="module")
def estimator(rows: pd.DataFrame) -> Any:
    return LogisticRegression().fit(rows.to_numpy(), np.arange(90) % 3)


@pytest.fixture(scope="module")
def graph(estimator: Any) -> bytes:
    return export(estimator, SIGNATURE, "best_model")


def test_the_graph_has_the_signature_s_tensors_and_no_map(graph: bytes) -> None:
    summary = inspect_graph(graph)
    assert summary.inputs == (TensorSpec("features", DType.FP32, (None, 2)),)
    assert summary.outputs == (
        TensorSpec("label", DType.INT64, (None,)),
        TensorSpec("probabilities", DType.FP32, (None, 3)),
    )


def test_the_same_estimator_gives_the_same_bytes(estimator: Any, graph: bytes) -> None:
    assert export(estimator, SIGNATURE, "best_model") == graph


def test_the_graph_stays_within_what_the_serving_image_reads(graph: bytes) -> None:
    summary = inspect_graph(graph)
    assert summary.opset < IMAGE_OPSET
    assert summary.ir_version < IMAGE_IR_VERSION


def test_the_graph_answers_as_scikit_learn_does(
    estimator: Any, graph: bytes, rows: pd.DataFrame
) -> None:
    shuffled = rows[["b", "a"]]  # the signature decides the order, not the frame
    outputs = run_graph(graph, model_inputs(SIGNATURE, shuffled))
    parity = compare(
        outputs["label"],
        outputs["probabilities"],
        estimator.predict(rows.to_numpy()),
        estimator.predict_proba(rows.to_numpy()),
    )
    assert parity.holds, parity


def test_a_graph_beyond_the_serving_image_is_refused(graph: bytes) -> None:
    model = onnx.load_model_from_string(graph)
    model.ir_version = IMAGE_IR_VERSION + 1
    with pytest.raises(ExportError, match="the serving image reads at most"):
        inspect_graph(model.SerializeToString())


@pytest.mark.parametrize("keep", [0, 10, 100])
def test_truncated_bytes_are_no_graph(graph: bytes, keep: int) -> None:
    with pytest.raises(ExportError, match="not a valid ONNX model"):
        inspect_graph(graph[:keep])


def test_an_estimator_without_a_converter_is_named(rows: pd.DataFrame) -> None:
    homemade = Homemade().fit(rows, np.arange(90) % 3)
    with pytest.raises(ExportError, match="Homemade has no ONNX converter"):
        export(homemade, SIGNATURE, "best_model")


def test_rows_become_the_tensors_of_their_types() -> None:
    features = (
        Feature("city", DType.BYTES),
        Feature("age", DType.INT64, nullable=True),
        Feature("member", DType.BOOL),
    )
    frame = pd.DataFrame(
        {"member": [True, False], "age": [1.0, np.nan], "city": np.array(["Å", ""], object)}
    )
    inputs = model_inputs(Signature(features, None), frame)
    assert list(inputs) == ["city", "age", "member"]
    assert {name: array.dtype for name, array in inputs.items()} == {
        "city": np.object_,
        "age": np.float64,
        "member": np.bool_,
    }
    assert all(array.shape == (2, 1) for array in inputs.values())
    assert inputs["city"][0, 0] == "Å"
