"""What the chain looks at before it takes a version of another training job."""

from __future__ import annotations

import signal
import subprocess
import time
from typing import Any, cast

import msgspec
import numpy as np
import pandas as pd
import pytest

from platform_assets.export.adoption import adopt
from platform_assets.export.foreign_graph import InvalidGraph, run_and_validate
from platform_assets.export.inspection import CONTRACT_KEY, FEATURES_KEY, ExportError
from platform_assets.export.runtime import model_inputs
from platform_assets.export.sandbox import Bounds, _pack, _unpack, run_sandboxed
from platform_assets.resources.evaluation import EVALUATION_ARTIFACT, read_evaluation
from platform_assets.resources.mlflow import MlflowResource
from platform_assets.resources.mlflow_versions import VersionEntry
from platform_assets.resources.records import EvaluationSet, RegisteredVersion
from platform_assets.resources.reference import REFERENCE_ARTIFACT
from serving_gateway.contract import (
    DATA_FINGERPRINT_TAG,
    SIGNATURE_DIGEST_TAG,
    Signature,
)
from tests.support.hostile_graphs import with_burden
from tests.support.models import IRIS
from tests.support.onnx_models import model_bytes

pytestmark = pytest.mark.slow

CLASSES = (0, 1, 2)
SIGNATURE = IRIS.signature(CLASSES)
OWN = {SIGNATURE_DIGEST_TAG: "0", DATA_FINGERPRINT_TAG: "d"}
TIMES = np.arange("2024-03-01", "2024-03-05", dtype="datetime64[D]").astype("datetime64[ns]")


class Registry:
    """Stands in for MLflow: version 1 is the pipeline's own, version 2 somebody else's."""

    def __init__(self, graph: bytes, run_id: str = "theirs") -> None:
        self.graph = graph
        self.entries = [VersionEntry(1, "ours", dict(OWN)), VersionEntry(2, run_id, {})]
        self.kept: dict[str, dict[str, bytes]] = {}

    def versions(self, _: str) -> list[VersionEntry]:
        return self.entries

    def version(self, name: str, version: int) -> RegisteredVersion:
        return RegisteredVersion(name, version, "ours", "d", SIGNATURE)

    def evaluation_set(self, _: str) -> EvaluationSet:
        rows = pd.DataFrame(np.eye(4, dtype=np.float32), columns=list(IRIS.feature_names))
        labels = np.array([0, 1, 2, 0])
        return EvaluationSet(rows, labels, labels, np.eye(4, 3), np.arange(4), TIMES)

    def artifact_bytes(self, run_id: str, path: str) -> bytes:
        return f"{path} of {run_id}".encode()

    def onnx_bytes(self, *_: object) -> bytes:
        return self.graph

    def log_artifact_bytes(self, run_id: str, path: str, data: bytes) -> None:
        self.kept.setdefault(run_id, {})[path] = data

    def record_signature(self, run_id: str, signature: Signature) -> dict[str, str]:
        return {SIGNATURE_DIGEST_TAG: signature.label_output}

    def set_version_tags(self, _: str, version: int, tags: dict[str, str]) -> None:
        self.entries[version - 1].tags.update(tags)

    def adopt(self, version: int = 2) -> None:
        adopt(IRIS, version, cast(MlflowResource, self), "onnx/model.onnx")


INPUTS = model_inputs(SIGNATURE, Registry(b"").evaluation_set("").features)


def graph(width: int = 3, *, label: str = "INT64", shift: int = 0) -> bytes:
    """Answers the position of the largest of the first `width` features, plus `shift`."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    kind = getattr(TensorProto, label)
    nodes = [
        helper.make_node("Slice", ["features", "zero", "width", "one"], ["scores"]),
        helper.make_node("Softmax", ["scores"], ["probabilities"], axis=1),
        helper.make_node("ArgMax", ["scores"], ["place"], axis=1, keepdims=0),
        helper.make_node("Add", ["place", "shift"], ["shifted"]),
        helper.make_node("Cast", ["shifted"], ["label"], to=kind),
    ]
    constants = {"zero": [0], "width": [width], "one": [1], "shift": [shift]}
    made = onnx.load_model_from_string(
        model_bytes(
            nodes,
            inputs={"features": (TensorProto.FLOAT, [None, 4])},
            outputs={
                "label": (kind, [None]),
                "probabilities": (TensorProto.FLOAT, [None, width]),
            },
            initializers=[
                numpy_helper.from_array(np.array(value), name) for name, value in constants.items()
            ],
        )
    )
    features = msgspec.json.encode(SIGNATURE.features).decode()
    helper.set_model_props(made, {FEATURES_KEY: features, CONTRACT_KEY: IRIS.contract})
    return bytes(made.SerializeToString())


def test_a_graph_that_answers_as_promised_is_taken() -> None:
    registry = Registry(graph())
    registry.adopt()
    assert SIGNATURE_DIGEST_TAG in registry.entries[1].tags
    assert list(registry.kept) == ["theirs"]
    assert REFERENCE_ARTIFACT in registry.kept["theirs"]


def test_rows_of_an_adopted_version_keep_their_times() -> None:
    registry = Registry(graph())
    registry.adopt()
    kept = read_evaluation(registry.kept["theirs"][EVALUATION_ARTIFACT])
    assert kept.times is not None
    assert kept.times.tolist() == TIMES.tolist()
    assert kept.groups.tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("answers", "said"),
    [
        ({"width": 4}, "probabilities is float32 of shape [4, 4]"),
        ({"width": 2}, "not a number for each of 3 classes"),
        ({"label": "FLOAT"}, "label is float32"),
        ({"label": "STRING"}, "label is object"),
        ({"shift": 1}, "label says 3, which is none of 0, 1, 2"),
    ],
)
def test_a_graph_that_answers_in_another_form_is_refused(
    answers: dict[str, Any], said: str
) -> None:
    with pytest.raises(InvalidGraph) as refused:
        run_and_validate(graph(**answers), SIGNATURE, INPUTS)
    assert said in str(refused.value)


def test_a_graph_as_today_s_exporters_write_it_is_taken() -> None:
    answers = run_and_validate(newer(opset=21, ml_opset=5, ir_version=10), SIGNATURE, INPUTS)
    assert (
        answers["label"].tolist() == run_and_validate(graph(), SIGNATURE, INPUTS)["label"].tolist()
    )


@pytest.mark.parametrize("beyond", [{"opset": 22}, {"ir_version": 11}])
def test_a_graph_beyond_the_serving_image_is_refused_with_its_remedy(
    beyond: dict[str, int],
) -> None:
    with pytest.raises(ExportError, match=r"target_opset \{'': 21, 'ai.onnx.ml': 3\}, and set"):
        run_and_validate(newer(**beyond), SIGNATURE, INPUTS)


@pytest.mark.parametrize(
    ("operator", "remedy"),
    [("ZipMap", r"convert with options=\{'zipmap': False\}"), ("TreeEnsemble", "ai.onnx.ml 3")],
)
def test_an_unusable_operator_is_named_with_its_remedy(operator: str, remedy: str) -> None:
    import onnx

    model = onnx.load_model_from_string(graph())
    node = onnx.helper.make_node(operator, ["probabilities"], ["maps"], domain="ai.onnx.ml")
    model.graph.node.append(node)
    with pytest.raises(InvalidGraph, match=f"the operator {operator}, .*{remedy}"):
        run_and_validate(model.SerializeToString(), SIGNATURE, INPUTS)


def newer(*, opset: int = 17, ml_opset: int = 3, ir_version: int = 8) -> bytes:
    import onnx

    model = onnx.load_model_from_string(graph())
    model.ir_version = ir_version
    model.opset_import[0].version = opset
    model.opset_import.append(onnx.helper.make_opsetid("ai.onnx.ml", ml_opset))
    return bytes(model.SerializeToString())


def test_a_graph_that_is_refused_leaves_nothing_behind() -> None:
    registry = Registry(graph(width=2))
    with pytest.raises(InvalidGraph, match="not a number for each of 3 classes"):
        registry.adopt()
    assert not registry.kept
    assert not registry.entries[1].tags


@pytest.mark.parametrize(
    ("burden", "said"),
    [
        ("for ever", "the operator Loop"),
        ("in a branch", "the operator Loop"),
        ("others", "the operator com.microsoft.Gelu"),
        ("chance", "the operator RandomUniform, which is chance"),
        ("functions", "the function f0"),
    ],
)
def test_operators_that_may_never_end_or_that_others_brought_are_refused(
    burden: str, said: str
) -> None:
    with pytest.raises(InvalidGraph) as refused:
        run_and_validate(with_burden(graph(), burden), SIGNATURE, INPUTS)
    assert said in str(refused.value)


@pytest.mark.parametrize(
    ("burden", "bounds", "said"),
    [
        ("terabytes", Bounds(), "may take 2.0 GiB and 120 s"),
        ("gigabytes", Bounds(), "may take 2.0 GiB and 120 s"),
        ("hours", Bounds(seconds=4), "does not finish"),
    ],
)
def test_a_graph_that_takes_too_much_is_stopped(burden: str, bounds: Bounds, said: str) -> None:
    started = time.monotonic()
    with pytest.raises(InvalidGraph) as refused:
        run_sandboxed(with_burden(graph(), burden), SIGNATURE, INPUTS, bounds)
    assert said in str(refused.value)
    assert time.monotonic() - started < 30


def test_rows_and_answers_pass_between_the_processes_as_they_are() -> None:
    sent: dict[str, np.ndarray[Any, Any]] = {
        "text": np.array([["\0 ü"], [""]], dtype=object),
        "number": np.array([[np.nan], [1.5]], dtype=np.float32),
        "truth": np.array([[True], [False]]),
        "none": np.empty((0, 3)),
    }
    got = _unpack(_pack(sent))
    assert list(got) == list(sent)
    for name, array in sent.items():
        assert got[name].dtype == array.dtype
        np.testing.assert_array_equal(got[name], array)


def test_a_process_that_is_killed_is_the_graph_s_doing_and_it_has_no_secret(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TRITON_CONTROL_KEY", "secret")

    def killed(argv: list[str], **options: Any) -> subprocess.CompletedProcess[bytes]:
        assert "secret" not in options["env"].values()
        return subprocess.CompletedProcess(argv, -signal.SIGKILL)

    monkeypatch.setattr(subprocess, "run", killed)
    with pytest.raises(InvalidGraph, match="SIGKILL ended the process"):
        run_sandboxed(graph(), SIGNATURE, INPUTS)
