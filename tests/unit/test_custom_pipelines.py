"""Pipelines of the user's over raw columns: the platform's inputs, exact graphs, early refusals."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace
from typing import Any

import dagster as dg
import numpy as np
import pandas as pd
import pytest

from platform_assets.export.checks import export_checks
from platform_assets.export.conversion import export
from platform_assets.export.inspection import graph_contract, inspect_graph, sha256
from platform_assets.export.parity import Parity, compare
from platform_assets.export.records import OnnxModel
from platform_assets.export.runtime import answers_in, blank_row, model_inputs, run_graph
from platform_assets.export.triton_config import TensorSpec
from platform_assets.model_spec import CandidateSpec, FeatureSpec, ModelSpec, Task
from platform_assets.resources.records import EvaluationSet, RegisteredVersion
from platform_assets.training.candidates import CandidateError, build, expand, parameters
from platform_assets.training.importance import permutation_importance
from platform_assets.training.probe import probe
from platform_assets.training.rows import Rows
from platform_assets.training.selection import answers_of, fit
from serving_gateway.contract import DType, Feature, Signature
from serving_gateway.inference.codec import Codec
from tests.support.tabular import CLASSES, mixed_frame, mixed_rows, mixed_spec


def _spec(name: str, task: Task = Task.BINARY, **grid: tuple[Any, ...]) -> ModelSpec:
    classes = () if task is Task.REGRESSION else CLASSES["two texts"]
    candidate = CandidateSpec(pipeline=f"tests.support.pipelines:{name}", grid=grid)
    return mixed_spec(task, classes, candidates=(candidate,))


def _fitted(spec: ModelSpec, rows: Rows) -> Any:
    return fit(build(expand(spec)[0], spec), rows, spec)[0]


def _answered(estimator: Any, spec: ModelSpec, frame: pd.DataFrame) -> tuple[Parity, bytes]:
    signature = spec.signature(spec.target.classes)
    graph = export(estimator, signature, "mixed")
    outputs = run_graph(graph, model_inputs(signature, frame))
    asked = Rows(frame, np.zeros(len(frame)), np.arange(len(frame)))
    expected = answers_of(estimator, asked, spec, spec.target.classes)
    answers = answers_in(outputs, signature)
    return compare(*answers, expected.labels, expected.probabilities, 1e-5), graph


@pytest.mark.parametrize(
    ("name", "task"),
    [
        ("of_all_types", Task.BINARY),
        ("by_selector", Task.BINARY),
        ("of_codes", Task.BINARY),
        ("nested", Task.BINARY),
        ("boosted", Task.REGRESSION),
    ],
)
def test_columns_of_all_types_are_answered_alike_by_the_platform_s_inputs(
    name: str, task: Task
) -> None:
    spec = _spec(name, task)
    asked = mixed_frame(2000, 9)
    asked["city"] = np.where(np.arange(2000) % 9 == 0, "never seen", asked["city"])
    parity, graph = _answered(_fitted(spec, mixed_rows(spec)), spec, asked)
    assert parity.holds, parity
    assert inspect_graph(graph).inputs == tuple(
        TensorSpec(one.name, one.feature.tensor_dtype, (None, 1)) for one in spec.features
    )
    assert graph_contract(graph) == spec.contract


@pytest.mark.parametrize("name", ["without_columns", "nested"])
def test_a_packed_input_is_taken_apart_inside_the_graph(name: str) -> None:
    chosen = (FeatureSpec("speed", DType.FP32, nullable=True), FeatureSpec("weight", DType.FP32))
    spec = dataclasses.replace(_spec(name), features=chosen)
    rows = mixed_rows(spec)
    frame = rows.features[["speed", "weight"]]
    estimator = _fitted(spec, dataclasses.replace(rows, features=frame))
    parity, graph = _answered(estimator, spec, frame)
    assert parity.holds, parity
    assert inspect_graph(graph).inputs == (TensorSpec("features", DType.FP32, (None, 2)),)
    assert graph_contract(graph) == spec.contract


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("strange", r"step prepare > numbers > strange \(Strange\) has no ONNX converter"),
        ("demanding_and_strange", r"step prepare > numbers > demanding \(Demanding\) has no"),
        ("of_a_lambda", r"step prepare > numbers \(FunctionTransformer\) has no ONNX conv"),
        ("sparse_bins", r"step prepare > bins \(KBinsDiscretizer\) cannot be converted: onehot"),
        ("of_texts_and_numbers", "step 'both' reads texts and numbers together"),
        ("beyond_single_precision", "differently as an ONNX model.*'float32'"),
        ("mute", "Mute was fitted, but cannot answer: no answer"),
        ("only_an_estimator", "is not a scikit-learn Pipeline; give .* as `function`"),
    ],
)
def test_what_cannot_be_exported_is_refused_before_the_training(name: str, said: str) -> None:
    spec = _spec(name)
    with pytest.raises(CandidateError, match=rf"candidates\[0\] .*{name}\).*{said}"):
        probe(expand(spec), mixed_rows(spec), spec, spec.target.classes, print)


def test_a_pipeline_gets_the_grid_and_the_seed() -> None:
    spec = _spec("by_selector", model__max_depth=(3, 5))
    one, two = expand(spec)
    assert (one.name, two.name) == (
        "tests.support.pipelines:by_selector model__max_depth=3",
        "tests.support.pipelines:by_selector model__max_depth=5",
    )
    described = parameters(build(two, spec))
    assert described["model__max_depth"] == "5"
    assert described["model__random_state"] == str(spec.evaluation.seed)


def test_importance_shuffles_the_columns_that_a_pipeline_reads() -> None:
    spec = _spec("nested")
    rows = mixed_rows(spec)
    found = permutation_importance(_fitted(spec, rows), rows, spec, spec.target.classes)
    assert {one.feature for one in found} == set(spec.feature_names)
    assert found[0].feature == "weight"
    assert {one.mean for one in found if one.feature not in {"weight", "speed"}} == {0.0}


@pytest.mark.parametrize(
    ("name", "passed"),
    [("of_known_colours", False), ("by_selector", True), ("without_columns", True)],
)
def test_a_pipeline_that_cannot_answer_the_empty_text_is_refused_after_its_export(
    name: str, passed: bool
) -> None:
    """Which the gateways would refuse at the release; its evaluation rows are answered alike."""
    spec = _spec(name)
    if name == "without_columns":
        chosen = (
            FeatureSpec("speed", DType.FP32, nullable=True),
            FeatureSpec("weight", DType.FP32),
        )
        spec = dataclasses.replace(spec, features=chosen)
    rows = mixed_rows(spec)
    rows = dataclasses.replace(rows, features=rows.features[list(spec.feature_names)])
    estimator = _fitted(spec, rows)
    signature = spec.signature(spec.target.classes)
    graph = export(estimator, signature, "mixed")
    answers = answers_of(estimator, rows, spec, spec.target.classes)
    evaluation = EvaluationSet(
        rows.features, answers.labels, answers.labels, answers.probabilities, rows.groups
    )
    mlflow: Any = SimpleNamespace(
        artifact_bytes=lambda *_: graph, evaluation_set=lambda _: evaluation
    )
    registered = RegisteredVersion("mixed", 1, "run", "", signature)
    model = OnnxModel(registered, sha256(graph))
    onnx_parity, *_ = export_checks(spec)
    verdict = onnx_parity(model, mlflow)
    assert isinstance(verdict, dg.AssetCheckResult)
    assert verdict.passed is passed, verdict.description
    if not passed:
        said = verdict.description or ""
        assert said.startswith("the model cannot answer a row of zeros, False and empty texts, ")
        assert "production stays where it is" in said


def test_the_trial_of_the_checks_is_that_of_the_gateways() -> None:
    kinds = [(dtype, nullable) for dtype in DType for nullable in (False, True)]
    features = tuple(
        Feature(f"{dtype.value}{nullable}", dtype, nullable) for dtype, nullable in kinds
    )
    signature = Signature(features=features, packed_input=None, classes=(0, 1))
    row = model_inputs(signature, blank_row(signature))
    sent = dict(zip((one.name for one in features), Codec(signature).warm_up_rows(), strict=True))
    for name, tensor in row.items():
        text = tensor.dtype == object
        assert tensor.shape == (1, 1)
        assert sent[name] == (bytes(4) if text else tensor.tobytes()), name
        assert not text or tensor[0, 0] == ""
