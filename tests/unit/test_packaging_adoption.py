"""What the chain looks at before it takes a version of another training job."""

from __future__ import annotations

from typing import Any, cast

import msgspec
import numpy as np
import pandas as pd
import pytest

from platform_assets.packaging.adoption import AdoptionError, adopt
from platform_assets.resources.mlflow import MlflowResource
from platform_assets.resources.mlflow_versions import VersionEntry
from platform_assets.resources.records import EvaluationSet, RegisteredVersion
from platform_assets.training.graph.export import CONTRACT_KEY, FEATURES_KEY
from serving_gateway.contract import DATA_FINGERPRINT_TAG, SIGNATURE_TAG
from tests.models import IRIS
from tests.onnx_models import model_bytes

CLASSES = (0, 1, 2)
SIGNATURE = IRIS.signature(CLASSES)
OWN = {SIGNATURE_TAG: "{}", DATA_FINGERPRINT_TAG: "d"}


class Registry:
    """Stands in for MLflow: version 1 is the pipeline's own, version 2 somebody else's."""

    def __init__(self, graph: bytes, run_id: str = "theirs") -> None:
        self.graph = graph
        self.entries = [VersionEntry(1, "ours", dict(OWN)), VersionEntry(2, run_id, {})]
        self.kept: dict[str, list[str]] = {}

    def versions(self, _: str) -> list[VersionEntry]:
        return self.entries

    def version(self, name: str, version: int) -> RegisteredVersion:
        return RegisteredVersion(name, version, "ours", "d", SIGNATURE)

    def evaluation_set(self, _: str) -> EvaluationSet:
        rows = pd.DataFrame(np.eye(4, dtype=np.float32), columns=list(IRIS.feature_names))
        labels = np.array([0, 1, 2, 0])
        return EvaluationSet(rows, labels, labels, np.eye(4, 3), np.arange(4))

    def onnx_bytes(self, *_: object) -> bytes:
        return self.graph

    def log_artifact_bytes(self, run_id: str, path: str, _: bytes) -> None:
        self.kept.setdefault(run_id, []).append(path)

    def set_version_tags(self, _: str, version: int, tags: dict[str, str]) -> None:
        self.entries[version - 1].tags.update(tags)

    def adopt(self, version: int = 2) -> None:
        adopt(IRIS, version, cast(MlflowResource, self), "onnx/model.onnx")


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
    assert SIGNATURE_TAG in registry.entries[1].tags
    assert list(registry.kept) == ["theirs"]


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
    registry = Registry(graph(**answers))
    with pytest.raises(AdoptionError) as refused:
        registry.adopt()
    assert said in str(refused.value)
    assert not registry.kept
    assert not registry.entries[1].tags


def test_the_run_of_a_version_that_the_chain_knows_is_not_written_over() -> None:
    registry = Registry(graph(), run_id="ours")
    with pytest.raises(AdoptionError, match="keeps the graph and the evaluation of version 1"):
        registry.adopt()
    assert not registry.kept


def test_a_version_of_the_pipeline_itself_keeps_what_is_recorded_of_it() -> None:
    registry = Registry(graph())
    with pytest.raises(AdoptionError, match="best_model_rollback takes it back"):
        registry.adopt(1)
    assert not registry.kept
    assert registry.entries[0].tags == OWN
