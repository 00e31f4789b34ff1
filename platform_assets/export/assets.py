"""onnx_model -> triton_model_entry."""

import os
from dataclasses import replace
from typing import Any

import dagster as dg
from pydantic import Field

from platform_assets.export.adoption import AdoptionError, adopt
from platform_assets.export.conversion import export
from platform_assets.export.foreign_graph import InvalidGraph
from platform_assets.export.inspection import ExportError, GraphSummary, inspect_graph, sha256
from platform_assets.export.records import OnnxModel, PackagedVersion
from platform_assets.export.triton_config import (
    ConfigError,
    ServingOptions,
    instances_on_gpu,
    model_config,
    to_text,
)
from platform_assets.model_spec import MAX_INSTANCES, ModelSpec
from platform_assets.resources.failures import as_failure, failure
from platform_assets.resources.metadata import table
from platform_assets.resources.mlflow import MlflowResource, RegistryError
from platform_assets.resources.model_repository import (
    ModelRepository,
    Provenance,
    RepositoryError,
    RepositoryNotWritable,
    VersionConflict,
)
from platform_assets.resources.records import RegisteredVersion, TrainedModel
from serving_gateway.contract import ONNX_DIGEST_TAG

ONNX_ARTIFACT = "onnx/model.onnx"
"""Where a run keeps its graph; publishing copies these bytes by digest."""
_MLFLOW_BACK = "bring MLflow back (`make status` tells), then retry this run from here."
_EVALUATED_ON = (
    "the rows that this pipeline held out last; a version that learned from them looks better than "
    "it is"
)


def export_assets(spec: ModelSpec) -> list[dg.AssetsDefinition]:
    """Build the assets `onnx_model` and `triton_model_entry` of one model."""
    return [_onnx_model(spec), _triton_model_entry(spec)]


class ExportConfig(dg.Config):
    """What is exported."""

    adopt_version: int = Field(
        default=0,
        ge=0,
        description="Version that another training job registered in MLflow with an ONNX graph; "
        "it enters the chain here. 0 exports the trained model.",
    )


def _onnx_model(spec: ModelSpec) -> dg.AssetsDefinition:
    trained, registered = (
        dg.AssetKey(spec.key(name)) for name in ("trained_model", "registered_model")
    )

    @dg.asset(
        **spec.asset("onnx_model"),
        kinds={"onnx", "scikitlearn"},
        # Loaded in the body: a version trained elsewhere has neither.
        deps=[trained, registered],
        description="The registered version as an ONNX graph, kept with its run under its digest.",
    )
    def onnx_model(
        context: dg.AssetExecutionContext, config: ExportConfig, mlflow: MlflowResource
    ) -> dg.MaterializeResult[OnnxModel]:
        if config.adopt_version:
            return _adopt(spec, config.adopt_version, mlflow)
        return _export(
            mlflow,
            context.load_asset_value(trained, python_type=TrainedModel),
            context.load_asset_value(registered, python_type=RegisteredVersion),
        )

    return onnx_model


def _adopt(
    spec: ModelSpec, version: int, mlflow: MlflowResource
) -> dg.MaterializeResult[OnnxModel]:
    what = f"version {version} was not taken"
    todo = "register a version whose graph is as that reason wants it, or change the model file."
    with (
        as_failure(what, todo, AdoptionError, InvalidGraph),
        as_failure(what, "mend what MLflow says, then run this again.", RegistryError),
    ):
        registered, graph = adopt(spec, version, mlflow, ONNX_ARTIFACT)
    return _graph_result(
        registered, graph, inspect_graph(graph), mlflow, evaluated_on=_EVALUATED_ON
    )


def _export(
    mlflow: MlflowResource, trained_model: TrainedModel, registered: RegisteredVersion
) -> dg.MaterializeResult[OnnxModel]:
    """Export the estimator and record the graph and its digest in MLflow."""
    if trained_model.run_id != registered.run_id:
        raise failure(
            f"trained_model is of run {trained_model.run_id}, but registered version "
            f"{registered.version} is of run {registered.run_id}",
            "materialize registered_model, then onnx_model.",
        )
    with as_failure("the model was not exported", "see the reason above.", ExportError):
        graph = export(trained_model.estimator, registered.signature, registered.model_name)
        summary = inspect_graph(graph)
    _record_graph(registered, graph, mlflow)
    return _graph_result(registered, graph, summary, mlflow)


def _graph_result(
    registered: RegisteredVersion,
    graph: bytes,
    summary: GraphSummary,
    mlflow: MlflowResource,
    **more: str,
) -> dg.MaterializeResult[OnnxModel]:
    digest = sha256(graph)
    return dg.MaterializeResult(
        value=OnnxModel(registered, digest),
        metadata={
            "version": registered.version,
            **more,
            **_graph_metadata(summary),
            "size_bytes": len(graph),
            "mlflow_run": dg.MetadataValue.url(mlflow.run_url(registered.run_id)),
            "origin": dg.MetadataValue.json(
                {
                    "run_id": registered.run_id,
                    "data_fingerprint": registered.data_fingerprint,
                    "onnx_sha256": digest,
                }
            ),
        },
    )


def _record_graph(registered: RegisteredVersion, graph: bytes, mlflow: MlflowResource) -> None:
    name, version, digest = registered.model_name, registered.version, sha256(graph)
    with as_failure(
        f"the graph of version {version} was not recorded", _MLFLOW_BACK, RegistryError
    ):
        recorded = mlflow.version_tags(name, version).get(ONNX_DIGEST_TAG)
        if recorded not in (None, digest):
            raise failure(
                f"version {version} was exported before as digest {recorded}; this environment "
                f"exports the same estimator as {digest}",
                "a version never changes: train and register a new one.",
            )
        # The bytes before the digest: a tag must never name bytes that are not there.
        mlflow.log_artifact_bytes(registered.run_id, ONNX_ARTIFACT, graph)
        mlflow.add_onnx_model(registered.run_id, graph)
        mlflow.set_version_tags(name, version, {ONNX_DIGEST_TAG: digest})


def _graph_metadata(summary: GraphSummary) -> dict[str, Any]:
    tensors = [("input", tensor) for tensor in summary.inputs]
    tensors += [("output", tensor) for tensor in summary.outputs]
    return {
        "tensors": table(
            {
                "role": role,
                "name": tensor.name,
                "dtype": tensor.dtype.value,
                "shape": str([-1 if size is None else size for size in tensor.shape]),
            }
            for role, tensor in tensors
        ),
        "format": f"opset {summary.opset}, ai.onnx.ml {summary.ml_opset}, IR {summary.ir_version}",
    }


def _triton_model_entry(spec: ModelSpec) -> dg.AssetsDefinition:
    serving = spec.serving

    class EntryConfig(dg.Config):
        """How Triton shall run the model; a change rebuilds every loaded version of it."""

        enable_dynamic_batching: bool = Field(
            default=serving.dynamic_batching,
            description="Let Triton combine requests.",
        )
        triton_instance_group_count: int = Field(
            default=serving.instances,
            ge=1,
            le=MAX_INSTANCES,
            description="Instances of the model on the CPU, or on each GPU where Triton has some.",
        )

    @dg.asset(
        **spec.asset("triton_model_entry"),
        kinds={"triton", "onnx"},
        ins={"onnx_model": dg.AssetIn(key=spec.key("onnx_model"))},
        description=(
            "The version as an entry of Triton's model repository: written once, as a whole, and "
            "not loaded. The configuration comes from the graph's own inputs and outputs."
        ),
    )
    def triton_model_entry(
        context: dg.AssetExecutionContext,
        config: EntryConfig,
        mlflow: MlflowResource,
        model_repository: ModelRepository,
        onnx_model: OnnxModel,
    ) -> dg.MaterializeResult[PackagedVersion]:
        options = ServingOptions(
            config.enable_dynamic_batching,
            config.triton_instance_group_count,
            serving.max_batch_size,
        )
        return _package(context, options, mlflow, model_repository, onnx_model)

    return triton_model_entry


def _package(
    context: dg.AssetExecutionContext,
    options: ServingOptions,
    mlflow: MlflowResource,
    model_repository: ModelRepository,
    onnx_model: OnnxModel,
) -> dg.MaterializeResult[PackagedVersion]:
    """Copy the graph by its digest from MLflow into a version directory."""
    registered = onnx_model.registered
    name, version, run_id = registered.model_name, registered.version, registered.run_id
    provenance = Provenance(
        model_name=name,
        version=version,
        run_id=run_id,
        onnx_sha256=onnx_model.sha256,
        data_fingerprint=registered.data_fingerprint,
        packaged_by=context.run.run_id,
        signature=registered.signature,
        split=registered.split,
        threshold=registered.threshold,
    )
    what, again = f"version {version} was not packaged", "then retry this run from here."
    room = f"make room there and let this user write to it, {again}"
    anew = "train a new version, or move that directory away if no Triton serves it."
    with (
        as_failure(what, f"mend the cause, {again}", ExportError, ConfigError, RepositoryError),
        as_failure(what, room, RepositoryNotWritable),
        as_failure(what, anew, VersionConflict),
        as_failure(what, _MLFLOW_BACK, RegistryError),
    ):
        options = replace(options, on_gpu=instances_on_gpu(os.environ))
        graph = mlflow.artifact_bytes(run_id, ONNX_ARTIFACT)
        summary = inspect_graph(graph)
        text = to_text(model_config(name, summary.inputs, summary.outputs, [version], options))
        created = model_repository.package(graph, provenance)
    return dg.MaterializeResult(
        value=PackagedVersion(name, version, run_id, onnx_model.sha256, text),
        metadata={
            "version": version,
            "config.pbtxt": dg.MetadataValue.md(f"```\n{text}\n```"),
            "directory": dg.MetadataValue.path(str(model_repository.path(name, version))),
            "created": created,
            "enable_dynamic_batching": options.dynamic_batching,
            "triton_instance_group_count": options.instance_count,
            "origin": dg.MetadataValue.json({"run_id": run_id, "onnx_sha256": onnx_model.sha256}),
        },
    )
