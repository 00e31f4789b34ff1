"""The requirements for a graph and a repository entry before Triton sees them."""

from collections.abc import Sequence
from typing import Final

import dagster as dg

from platform_assets.export.assets import ONNX_ARTIFACT
from platform_assets.export.inspection import sha256
from platform_assets.export.parity_check import parity_check
from platform_assets.export.records import OnnxModel, PackagedVersion
from platform_assets.export.runtime import BLANK_ROW, answers_in, blank_row, model_inputs, run_graph
from platform_assets.model_spec import ModelSpec
from platform_assets.resources.environment import ENVIRONMENT_TAG, differences
from platform_assets.resources.failures import mlflow_failures
from platform_assets.resources.mlflow import MlflowResource
from platform_assets.resources.mlflow_versions import VersionEntry
from platform_assets.resources.model_repository import ModelRepository, RepositoryError
from serving_gateway.contract import (
    CODE_VERSION_TAG,
    DATA_FINGERPRINT_TAG,
    ONNX_DIGEST_TAG,
    Signature,
)

_MADE_OF: Final = (DATA_FINGERPRINT_TAG, CODE_VERSION_TAG)


def export_checks(spec: ModelSpec) -> list[dg.AssetChecksDefinition]:
    """Build the checks of `onnx_model` and `triton_model_entry` of one model."""
    return [_onnx_parity(spec), _reproducible(spec), _entry_digest(spec)]


def _onnx_parity(spec: ModelSpec) -> dg.AssetChecksDefinition:
    @dg.asset_check(
        asset=spec.key("onnx_model"),
        blocking=True,
        description=(
            "ONNX Runtime answers every evaluation row as scikit-learn did: equal labels except "
            f"for ties, probabilities within tolerance. It also answers {BLANK_ROW}."
        ),
    )
    def onnx_parity(onnx_model: OnnxModel, mlflow: MlflowResource) -> dg.AssetCheckResult:
        """Run the graph over every evaluation row."""
        with mlflow_failures("onnx_parity"):
            graph = mlflow.artifact_bytes(onnx_model.registered.run_id, ONNX_ARTIFACT)
            evaluation = mlflow.evaluation_set(onnx_model.registered.run_id)
        if sha256(graph) != onnx_model.sha256:
            # Replaced bytes have not had their first run in the sandbox.
            problem = "MLflow holds other bytes than were recorded; they were not run"
            return dg.AssetCheckResult(passed=False, description=problem)
        signature = onnx_model.registered.signature
        if reason := _blank_row_failure(graph, signature):
            return dg.AssetCheckResult(passed=False, description=reason)
        outputs = run_graph(graph, model_inputs(signature, evaluation.features))
        return parity_check(
            "onnx_parity",
            onnx_model.registered.run_id,
            evaluation,
            answers_in(outputs, signature),
            tolerance=spec.gates.parity_tolerance,
            mlflow=mlflow,
        )

    return onnx_parity


def _blank_row_failure(graph: bytes, signature: Signature) -> str | None:
    """Return why the gateways would refuse the version's trial row, else None."""
    try:
        run_graph(graph, model_inputs(signature, blank_row(signature)))
    # ONNX Runtime's exceptions have no common base class of their own.
    except Exception as error:
        return (
            f"the model cannot answer {BLANK_ROW}: let its pipeline take them (an encoder of texts "
            f"with handle_unknown, for example); production stays where it is. {error}"
        )
    return None


def _reproducible(spec: ModelSpec) -> dg.AssetChecksDefinition:
    @dg.asset_check(
        asset=spec.key("onnx_model"),
        name="reproducible",
        description=(
            "When another version was made from the same data, model file and locked packages, "
            "both graphs have the same digest; a warning says what else differs."
        ),
    )
    def reproducible(onnx_model: OnnxModel, mlflow: MlflowResource) -> dg.AssetCheckResult:
        with mlflow_failures("onnx_model"):
            entries = mlflow.versions(spec.model_name)
            twin = latest_equivalent_version(onnx_model.registered.version, entries)
            if twin is None:
                description = "no other version has the same data, model file and packages"
                return dg.AssetCheckResult(passed=True, description=description)
            tags = [
                mlflow.run_tags(run_id) for run_id in (onnx_model.registered.run_id, twin.run_id)
            ]
        digest = twin.tags[ONNX_DIGEST_TAG]
        here, there = (tags_.get(ENVIRONMENT_TAG, "{}") for tags_ in tags)
        same = digest == onnx_model.sha256
        diff = differences(here, there)
        return dg.AssetCheckResult(
            passed=same,
            severity=dg.AssetCheckSeverity.WARN,
            description=None
            if same
            else f"version {twin.version} was made from the same data, model file and packages, "
            f"but its graph differs: {'; '.join(diff) or 'nothing that is recorded explains it'}",
            metadata={
                "sha256": onnx_model.sha256,
                "other_version": twin.version,
                "other_sha256": digest,
                "environment": here,
                "environment_differences": dg.MetadataValue.json(diff),
            },
        )

    return reproducible


def _entry_digest(spec: ModelSpec) -> dg.AssetChecksDefinition:
    @dg.asset_check(
        asset=spec.key("triton_model_entry"),
        blocking=True,
        description="The bytes in the repository have the digest that MLflow records.",
    )
    def entry_digest(
        triton_model_entry: PackagedVersion,
        model_repository: ModelRepository,
        mlflow: MlflowResource,
    ) -> dg.AssetCheckResult:
        """Read the entry back from disk and compare it with the registry."""
        entry = triton_model_entry
        with mlflow_failures("entry_digest"):
            recorded = mlflow.version_tags(entry.model_name, entry.version).get(ONNX_DIGEST_TAG, "")
        try:
            on_disk = model_repository.verify(entry.model_name, entry.version)
        except RepositoryError as error:
            return dg.AssetCheckResult(passed=False, description=str(error))
        return dg.AssetCheckResult(
            passed=on_disk.onnx_sha256 == recorded == entry.sha256
            and on_disk.run_id == entry.run_id,
            metadata={
                "repository_sha256": on_disk.onnx_sha256,
                "registry_sha256": recorded or "none",
                "run_id": on_disk.run_id,
            },
        )

    return entry_digest


def latest_equivalent_version(version: int, entries: Sequence[VersionEntry]) -> VersionEntry | None:
    """Return the newest other version with the same data and code whose graph is recorded."""
    own = next((entry for entry in entries if entry.version == version), None)
    if own is None or any(tag not in own.tags for tag in _MADE_OF):
        return None
    twins = [
        entry
        for entry in entries
        if entry.version < version
        and ONNX_DIGEST_TAG in entry.tags
        and all(entry.tags.get(tag) == own.tags[tag] for tag in _MADE_OF)
    ]
    return max(twins, key=lambda entry: entry.version, default=None)
