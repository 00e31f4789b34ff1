"""Adopts a version that another training job registered, so that it can pass the same gates.

Its graph must have the inputs and outputs of the model file. It is judged on the evaluation rows
of the newest version that the pipeline trained, as production is. Whether its own training held
out the same rows is not known here.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from dataclasses import replace

from platform_assets.export.inspection import sha256
from platform_assets.export.runtime import answers_in, model_inputs
from platform_assets.export.sandbox import run_sandboxed
from platform_assets.model_spec import ModelSpec
from platform_assets.resources.evaluation import EVALUATION_ARTIFACT, write_evaluation
from platform_assets.resources.mlflow import MlflowResource, RegistryNotFound
from platform_assets.resources.mlflow_versions import VersionEntry
from platform_assets.resources.records import EvaluationSet, RegisteredVersion
from platform_assets.resources.reference import REFERENCE_ARTIFACT
from serving_gateway.contract import (
    DATA_FINGERPRINT_TAG,
    ONNX_DIGEST_TAG,
    RUN_ID_TAG,
    SIGNATURE_DIGEST_TAG,
    Signature,
)

FOREIGN_DATA = "unknown: trained elsewhere"
"""Data fingerprint of a version that the pipeline did not train."""


class AdoptionError(Exception):
    """The version cannot be adopted; the message says why."""


def is_foreign(entry: VersionEntry) -> bool:
    """Whether the pipeline neither registered nor adopted this version."""
    return SIGNATURE_DIGEST_TAG not in entry.tags


def _is_own(entry: VersionEntry) -> bool:
    return not is_foreign(entry) and entry.tags.get(DATA_FINGERPRINT_TAG) != FOREIGN_DATA


def adopt(
    spec: ModelSpec, version: int, mlflow: MlflowResource, artifact: str
) -> tuple[RegisteredVersion, bytes]:
    """Check a foreign version's graph, and record in MLflow what the chain needs to know.

    Returns the adopted version, and the bytes of its graph, which its run then keeps as
    `artifact`.

    Raises:
        AdoptionError: the version has no run, or there is nothing to judge it by.
        InvalidGraph: its graph does not match the model file, or needs too many resources.
        RegistryError: MLflow does not answer, or does not have the version.
    """
    entries = {entry.version: entry for entry in mlflow.versions(spec.model_name)}
    entry = entries.get(version)
    if entry is None:
        raise AdoptionError(f"MLflow has no version {version} of {spec.model_name}")
    if _is_own(entry):
        raise AdoptionError(
            f"version {version} of {spec.model_name} was trained by this pipeline, so there is "
            f"nothing to adopt: {spec.model_name}_rollback takes it back to production"
        )
    if not entry.run_id:
        raise AdoptionError(
            f"version {version} of {spec.model_name} was registered without a run, which has to "
            "keep its evaluation: register it from a run"
        )
    _require_own_run(entry, entries.values())
    known, evaluation, known_run = _yardstick(spec, entries, version, mlflow)
    graph = mlflow.onnx_bytes(spec.model_name, version, artifact)
    signature = spec.signature(known.classes)
    outputs = run_sandboxed(graph, signature, model_inputs(signature, evaluation.features))
    labels, probabilities = answers_in(outputs, signature)
    labels = labels.astype(evaluation.labels.dtype)
    # The threshold is that of the version trained by the pipeline.
    answered = replace(evaluation, labels=labels, probabilities=probabilities, threshold=None)
    mlflow.log_artifact_bytes(entry.run_id, EVALUATION_ARTIFACT, write_evaluation(answered))
    reference = mlflow.artifact_bytes(known_run, REFERENCE_ARTIFACT)
    mlflow.log_artifact_bytes(entry.run_id, REFERENCE_ARTIFACT, reference)
    mlflow.log_artifact_bytes(entry.run_id, artifact, graph)
    mlflow.set_version_tags(
        spec.model_name,
        version,
        {
            RUN_ID_TAG: entry.run_id,
            DATA_FINGERPRINT_TAG: FOREIGN_DATA,
            ONNX_DIGEST_TAG: sha256(graph),
            # Last: these make the version count as adopted.
            **mlflow.record_signature(entry.run_id, signature),
        },
    )
    return mlflow.version(spec.model_name, version), graph


def _require_own_run(entry: VersionEntry, entries: Iterable[VersionEntry]) -> None:
    """Refuse a run that already belongs to a version that the chain knows."""
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
) -> tuple[Signature, EvaluationSet, str]:
    """Return signature, evaluation rows and run of the newest version trained by the pipeline.

    Versions whose run is gone are skipped.
    """
    for other in sorted(entries, reverse=True):
        entry = entries[other]
        if other == version or not _is_own(entry):
            continue
        with suppress(RegistryNotFound):
            signature = mlflow.version(spec.model_name, other).signature
            if [f.name for f in signature.features] == list(spec.feature_names):
                return signature, mlflow.evaluation_set(entry.run_id), entry.run_id
    raise AdoptionError(
        f"there are no evaluation rows of {spec.model_name} to judge version {version} by: run "
        f"{spec.model_name}_chain once, then adopt it"
    )
