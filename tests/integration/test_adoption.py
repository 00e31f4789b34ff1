"""Versions that another training job registered: through the same gates, or not at all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from platform_assets.export.adoption import FOREIGN_DATA
from platform_assets.resources.model_repository import RepositoryError
from platform_assets.serving.ledger import PROMOTION, read_ledger
from serving_gateway.contract import DATA_FINGERPRINT_TAG, DEFAULT_MODEL, SIGNATURE_DIGEST_TAG
from tests.support.chain import op_config
from tests.support.full_platform import SERVING, Platform
from tests.support.hostile_graphs import with_burden
from tests.support.onnx_models import model_bytes, string_echo, telltale
from tests.support.third_party import (
    malicious_pickle,
    register_by_flavour,
    register_files,
    third_party_graph,
)

ADOPTED = ("onnx_model", "triton_model_entry", *SERVING)


@pytest.fixture(scope="module")
def settled(shared_platform: Platform) -> Platform:
    """A platform with a version of its own in production."""
    if not shared_platform.settled():
        shared_platform.promote()
    return shared_platform


def adopt(platform: Platform, version: int) -> Any:
    return platform.run(*ADOPTED, run_config=op_config("onnx_model", {"adopt_version": version}))


def registered(platform: Platform, files: dict[str, bytes]) -> int:
    return register_files(platform.mlflow.url, DEFAULT_MODEL, files)


def refused(platform: Platform, version: int) -> str:
    """Adopt a version that must not be taken; return what the step said."""
    generation, before, ready = platform.generation(), platform.production(), platform.ready()
    outcome = adopt(platform, version)
    assert list(outcome.failures) == ["onnx_model"]
    assert not outcome.values
    assert platform.generation() == generation
    assert platform.answering_version() == before
    assert platform.ready() == ready
    with pytest.raises(RepositoryError):
        platform.repository.verify(DEFAULT_MODEL, version)
    # It is no version of the pipeline: nobody takes it for one that passed something.
    tags = platform.resources["mlflow"].version_tags(DEFAULT_MODEL, version)
    assert SIGNATURE_DIGEST_TAG not in tags
    return str(outcome.failures["onnx_model"])


def test_a_version_of_another_training_job_reaches_production_through_every_gate(
    settled: Platform, tmp_path: Path
) -> None:
    before = settled.production()
    graph = third_party_graph(settled.spec, settled.home / "iris.csv", strength=2.0)
    version = register_by_flavour(settled.mlflow.url, DEFAULT_MODEL, graph, tmp_path)
    assert version != before

    outcome = adopt(settled, version)

    assert outcome.success, outcome.failures
    # The rows may be too few to tell two good models apart, which warns and does not block.
    assert [
        name
        for name, check in outcome.checks.items()
        if not check.passed and check.severity is dg.AssetCheckSeverity.ERROR
    ] == []
    gate = outcome.checks["triton_serving_state.no_regression"]
    assert gate.metadata["production_version"].value == before
    assert settled.answering_version() == settled.production() == version
    assert settled.repository.path(DEFAULT_MODEL, version).joinpath("model.onnx").read_bytes() == (
        graph
    )
    tags = settled.resources["mlflow"].version_tags(DEFAULT_MODEL, version)
    assert tags[DATA_FINGERPRINT_TAG] == FOREIGN_DATA
    assert settled.resources["mlflow"].alias_version(DEFAULT_MODEL, "production") == version
    entry = read_ledger(settled.instance, settled.spec)[0]
    assert (entry.version, entry.previous_version, entry.action) == (version, before, PROMOTION)
    # An adoption that is run again changes nothing.
    generation = settled.generation()
    again = adopt(settled, version)
    assert again.success, again.failures
    assert settled.generation() == generation
    assert settled.answering_version() == version
    # The pipeline's own next version is held against it, and follows it.
    own = settled.promote()
    gate = own.checks["triton_serving_state.no_regression"]
    assert gate.metadata["production_version"].value == version


def test_a_third_party_version_that_is_worse_than_production_is_blocked_by_its_gate(
    settled: Platform,
) -> None:
    generation, before = settled.generation(), settled.production()
    graph = third_party_graph(settled.spec, settled.home / "iris.csv", strength=1e-6)
    outcome = adopt(settled, registered(settled, {"model.onnx": graph}))
    failed = [name for name, check in outcome.checks.items() if not check.passed]
    assert failed == ["triton_serving_state.no_regression"]
    assert "gateway_reload" not in outcome.values
    assert settled.generation() == generation
    assert settled.answering_version() == before


def test_nothing_is_unpickled_of_a_version_without_a_graph(
    settled: Platform, tmp_path: Path
) -> None:
    trace = tmp_path / "trace"
    hostile = malicious_pickle(trace)
    files = {"model.pkl": hostile, "MLmodel": b"flavors: {python_function: {}}"}
    said = refused(settled, registered(settled, files))
    assert "must have exactly one file that ends in .onnx, has: none" in said
    said = refused(settled, registered(settled, {"model.onnx": hostile}))
    assert "not a valid ONNX model" in said
    assert not trace.exists()


def test_several_graphs_are_not_chosen_from(settled: Platform) -> None:
    files = {"a.onnx": telltale(1), "b.onnx": telltale(2)}
    said = refused(settled, registered(settled, files))
    assert "a.onnx" in said
    assert "b.onnx" in said


def narrow() -> bytes:
    """A classifier of three features."""
    from onnx import TensorProto, helper

    nodes = [
        helper.make_node("Softmax", ["features"], ["probabilities"], axis=1),
        helper.make_node("ArgMax", ["features"], ["label"], axis=1, keepdims=0),
    ]
    return model_bytes(
        nodes,
        inputs={"features": (TensorProto.FLOAT, [None, 3])},
        outputs={
            "label": (TensorProto.INT64, [None]),
            "probabilities": (TensorProto.FLOAT, [None, 3]),
        },
    )


@pytest.mark.parametrize(
    ("graph", "words"),
    [
        (string_echo, ["input features is missing", "input text is unknown", "output label"]),
        (narrow, ["input features is FP32 (None, 3), not FP32 (None, 4)"]),
    ],
)
def test_a_graph_with_another_interface_is_refused_by_name(
    settled: Platform, graph: Any, words: list[str]
) -> None:
    said = refused(settled, registered(settled, {"model.onnx": graph()}))
    for word in words:
        assert word in said


def test_a_graph_that_does_not_name_its_features_is_refused_with_what_to_write(
    settled: Platform,
) -> None:
    graph = third_party_graph(settled.spec, settled.home / "iris.csv", metadata=False)
    said = refused(settled, registered(settled, {"model.onnx": graph}))
    assert "serving.features" in said
    assert settled.spec.contract in said
    reversed_spec = settled.of(features=tuple(reversed(settled.spec.features))).spec
    other = third_party_graph(reversed_spec, settled.home / "iris.csv")
    said = refused(settled, registered(settled, {"model.onnx": other}))
    assert "names other features, or in another order" in said


def test_weights_outside_of_the_file_are_refused(settled: Platform) -> None:
    import onnx

    model = onnx.load_model_from_string(telltale(1))
    tensor = model.graph.initializer[0]
    tensor.ClearField("int64_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../../outside")
    said = refused(settled, registered(settled, {"model.onnx": model.SerializeToString()}))
    assert "keeps its weights in other files" in said


@pytest.mark.parametrize(
    ("burden", "said"), [("for ever", "the operator Loop"), ("gigabytes", "may take 2.0 GiB")]
)
def test_a_graph_that_would_take_the_machine_down_is_refused(
    settled: Platform, burden: str, said: str
) -> None:
    graph = third_party_graph(settled.spec, settled.home / "iris.csv")
    assert said in refused(settled, registered(settled, {"model.onnx": with_burden(graph, burden)}))


def test_a_version_that_does_not_exist_or_has_no_run_is_refused(settled: Platform) -> None:
    from platform_assets.resources.mlflow_client import open_client

    config = op_config("onnx_model", {"adopt_version": 9999})
    said = settled.run("onnx_model", run_config=config).failures["onnx_model"]
    assert "MLflow has no version 9999" in said
    client = open_client(settled.mlflow.url)
    made = client.create_model_version(DEFAULT_MODEL, "s3://elsewhere/model")
    assert "registered without a run" in refused(settled, int(made.version))
