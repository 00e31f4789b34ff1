"""A version that somebody else's training job registered, made to stand in the same chain.

Its graph has to read and answer what the model file says. It is judged on the evaluation rows
of the pipeline's own newest version, so that the gates compare it with production fairly.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import msgspec

from platform_assets.model_spec import ModelSpec
from platform_assets.packaging.onnx_export import (
    GraphSummary,
    graph_contract,
    inspect_graph,
    model_inputs,
    run_graph,
    sha256,
)
from platform_assets.packaging.triton_config import TensorSpec
from platform_assets.resources.evaluation import EVALUATION_ARTIFACT, write_evaluation
from platform_assets.resources.mlflow import MlflowResource
from platform_assets.resources.mlflow_versions import VersionEntry
from platform_assets.resources.records import EvaluationSet, RegisteredVersion
from platform_assets.training.graph.builder import ExportError
from platform_assets.training.graph.export import CONTRACT_KEY, FEATURES_KEY
from serving_gateway.contract import (
    DATA_FINGERPRINT_TAG,
    ONNX_DIGEST_TAG,
    RUN_ID_TAG,
    SIGNATURE_TAG,
    Signature,
    feature_contract,
)

if TYPE_CHECKING:
    import numpy as np

FOREIGN_DATA = "unknown: trained elsewhere"
"""Data fingerprint of a version whose training the pipeline did not do."""


class AdoptionError(Exception):
    """The version cannot enter the chain; the message says why."""


def is_foreign(entry: VersionEntry) -> bool:
    """Whether the pipeline neither registered nor adopted this version."""
    return SIGNATURE_TAG not in entry.tags


def _is_own(entry: VersionEntry) -> bool:
    return not is_foreign(entry) and entry.tags.get(DATA_FINGERPRINT_TAG) != FOREIGN_DATA


def adopt(
    spec: ModelSpec, version: int, mlflow: MlflowResource, artifact: str
) -> tuple[RegisteredVersion, bytes]:
    """Check a foreign version's graph, and record in MLflow what the chain needs of it.

    Args:
        spec: the model that the version is said to be of.
        version: its number in MLflow.
        mlflow: the registry.
        artifact: where a run keeps its graph for publishing.

    Returns:
        The version as the chain knows it, and the bytes of its graph.

    Raises:
        AdoptionError: the version has no run, another interface or other features, or there is
            nothing to judge it by.
        RegistryError: MLflow does not answer or does not have it.
        ExportError: its graph is no valid ONNX model.
    """
    entries = {entry.version: entry for entry in mlflow.versions(spec.model_name)}
    entry = entries.get(version)
    if entry is None:
        raise AdoptionError(f"MLflow has no version {version} of {spec.model_name}")
    if _is_own(entry):
        raise AdoptionError(
            f"version {version} of {spec.model_name} was trained by this pipeline, so there is "
            f"nothing to adopt: {spec.identifier}_rollback takes it back to production"
        )
    if not entry.run_id:
        raise AdoptionError(
            f"version {version} of {spec.model_name} was registered without a run, which has to "
            "keep its evaluation: register it from a run"
        )
    _require_own_run(entry, entries.values())
    known, evaluation = _yardstick(spec, entries, version, mlflow)
    graph = mlflow.onnx_bytes(spec.model_name, version, artifact)
    signature = spec.signature(known.classes)
    _require_interface(signature, inspect_graph(graph))
    _require_contract(signature, graph)
    _record_evaluation(entry.run_id, signature, evaluation, graph, mlflow)
    mlflow.log_artifact_bytes(entry.run_id, artifact, graph)
    mlflow.set_version_tags(
        spec.model_name,
        version,
        {
            RUN_ID_TAG: entry.run_id,
            DATA_FINGERPRINT_TAG: FOREIGN_DATA,
            ONNX_DIGEST_TAG: sha256(graph),
            # Last: with it the version counts as adopted.
            SIGNATURE_TAG: msgspec.json.encode(signature).decode(),
        },
    )
    return mlflow.version(spec.model_name, version), graph


def _require_own_run(entry: VersionEntry, entries: Iterable[VersionEntry]) -> None:
    """Refuse a run that keeps the graph and the evaluation of a version that the chain knows."""
    for other in entries:
        if (
            other.run_id == entry.run_id
            and other.version != entry.version
            and not is_foreign(other)
        ):
            raise AdoptionError(
                f"version {entry.version} was registered from run {entry.run_id}, which keeps the "
                f"graph and the evaluation of version {other.version}: register it from a run of "
                "its own"
            )


def _yardstick(
    spec: ModelSpec, entries: dict[int, VersionEntry], version: int, mlflow: MlflowResource
) -> tuple[Signature, EvaluationSet]:
    """Signature and evaluation rows of the newest version that the pipeline trained."""
    for other in sorted(entries, reverse=True):
        entry = entries[other]
        if other == version or not _is_own(entry):
            continue
        signature = mlflow.version(spec.model_name, other).signature
        if [f.name for f in signature.features] != list(spec.feature_names):
            continue
        return signature, mlflow.evaluation_set(entry.run_id)
    raise AdoptionError(
        f"there are no evaluation rows of {spec.model_name} to judge version {version} by: run "
        f"{spec.identifier}_chain once, then adopt it"
    )


def _require_interface(signature: Signature, graph: GraphSummary) -> None:
    inputs = _expected_inputs(signature)
    wrong = _tensor_differences("input", inputs, graph.inputs)
    names = [signature.label_output]
    if signature.probabilities_output is not None:
        names.append(signature.probabilities_output)
    missing = set(names) - {tensor.name for tensor in graph.outputs}
    wrong += [f"output {name} is missing" for name in sorted(missing)]
    if wrong:
        raise AdoptionError(
            "its graph does not read and answer what the model file says: " + "; ".join(wrong)
        )


def _require_contract(signature: Signature, graph: bytes) -> None:
    """Refuse a graph that names no features, or others: its tensors alone cannot tell."""
    contract = feature_contract(signature.features)
    try:
        if graph_contract(graph) == contract:
            return
        reason = "its metadata names other features, or in another order"
    except ExportError as error:
        reason = str(error)
    features = msgspec.json.encode(signature.features).decode()
    raise AdoptionError(
        f"{reason}. Whoever exports it must write into its metadata, by onnx.helper."
        f"set_model_props, what the columns of its rows are: {FEATURES_KEY!r}: {features!r}, "
        f"{CONTRACT_KEY!r}: {contract!r}"
    )


def _expected_inputs(signature: Signature) -> dict[str, TensorSpec]:
    features = signature.features
    if signature.packed_input is not None:
        name = signature.packed_input
        return {name: TensorSpec(name, features[0].tensor_dtype, (None, len(features)))}
    return {f.name: TensorSpec(f.name, f.tensor_dtype, (None, 1)) for f in features}


def _tensor_differences(
    kind: str, expected: dict[str, TensorSpec], found: tuple[TensorSpec, ...]
) -> list[str]:
    there = {tensor.name: tensor for tensor in found}
    wrong = [f"{kind} {name} is missing" for name in expected if name not in there]
    wrong += [f"{kind} {name} is unknown" for name in there if name not in expected]
    wrong += [
        f"{kind} {name} is {there[name].dtype.value} {there[name].shape}, not "
        f"{tensor.dtype.value} {tensor.shape}"
        for name, tensor in expected.items()
        if name in there and there[name] != tensor
    ]
    return wrong


def _record_evaluation(
    run_id: str,
    signature: Signature,
    evaluation: EvaluationSet,
    graph: bytes,
    mlflow: MlflowResource,
) -> None:
    """Keep with the run what the graph answers for the rows, as training does for its own."""
    try:
        outputs = run_graph(graph, model_inputs(signature, evaluation.features))
    except Exception as error:
        # ONNX Runtime's exceptions have no common root of their own.
        raise AdoptionError(f"its graph cannot answer the evaluation rows: {error}") from error
    labels: np.ndarray[Any, Any] = outputs[signature.label_output].reshape(-1)
    probabilities = outputs.get(signature.probabilities_output or "")
    _require_answers(signature, labels, probabilities, len(evaluation.label_true))
    mlflow.log_artifact_bytes(
        run_id,
        EVALUATION_ARTIFACT,
        write_evaluation(
            evaluation.features,
            evaluation.label_true,
            labels.astype(evaluation.labels.dtype),
            probabilities,
            evaluation.groups,
        ),
    )


def _require_answers(
    signature: Signature,
    labels: np.ndarray[Any, Any],
    probabilities: np.ndarray[Any, Any] | None,
    rows: int,
) -> None:
    """Refuse answers of another form than the signature promises; no gate would look at it."""
    classes = signature.classes
    text = bool(classes) and isinstance(classes[0], str)
    kinds, wanted = ("OU", "text") if text else ("i", "INT64") if classes else ("f", "FP64 or FP32")
    wrong = []
    if labels.dtype.kind not in kinds or len(labels) != rows:
        wrong.append(
            f"{signature.label_output} is {labels.dtype}, {len(labels)} values for {rows} rows, "
            f"not one {wanted} for each"
        )
    elif classes and (other := sorted(set(labels.tolist()) - set(classes))):
        wrong.append(
            f"{signature.label_output} says {other[0]!r}, which is none of "
            f"{', '.join(map(repr, classes))}"
        )
    if probabilities is not None and (
        probabilities.dtype.kind != "f" or probabilities.shape != (rows, len(classes))
    ):
        wrong.append(
            f"{signature.probabilities_output} is {probabilities.dtype} of shape "
            f"{list(probabilities.shape)}, not a number for each of {len(classes)} classes"
        )
    if wrong:
        raise AdoptionError("its graph answers otherwise than promised: " + "; ".join(wrong))
