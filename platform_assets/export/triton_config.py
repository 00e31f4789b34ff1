"""Triton's model configuration, generated from what the ONNX graph itself declares."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from serving_gateway.contract import MAX_BATCH_SIZE, MODEL_FILE, DType, check_model_name

if TYPE_CHECKING:
    from tritonclient.grpc.model_config_pb2 import ModelConfig

INSTANCE_KIND: Final = "TRITON_INSTANCE_KIND"
"""Environment variable: `gpu` where Triton runs on nodes with GPUs, else `cpu` or unset."""

_CONFIG_TYPES: Final = {DType.BYTES: "TYPE_STRING"} | {
    dtype: f"TYPE_{dtype}" for dtype in (DType.FP32, DType.FP64, DType.INT64, DType.BOOL)
}


class ConfigError(Exception):
    """A model configuration that Triton would not accept, or a graph it cannot describe."""


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """A named input or output of an ONNX graph.

    `shape` is the graph's own, the batch dimension first; None marks a dynamic dimension.
    """

    name: str
    dtype: DType
    shape: tuple[int | None, ...]


@dataclass(frozen=True, slots=True)
class ServingOptions:
    """How Triton runs a model, as far as a launch can choose.

    A change here makes Triton rebuild every version of the model at the next load; a change of
    the versions alone does not.
    """

    dynamic_batching: bool = False
    instance_count: int = 1
    max_batch_size: int = MAX_BATCH_SIZE
    """Maximum number of rows per inference."""
    on_gpu: bool = False
    """Whether the instances run on GPUs, on each one that Triton has."""


def instances_on_gpu(environ: Mapping[str, str]) -> bool:
    """Whether the environment asks for instances on GPUs; ConfigError for an unknown kind."""
    kind = environ.get(INSTANCE_KIND) or "cpu"
    if kind not in {"cpu", "gpu"}:
        raise ConfigError(f"{INSTANCE_KIND}={kind!r}: give cpu or gpu, or leave it unset")
    return kind == "gpu"


def model_config(
    model_name: str,
    inputs: Sequence[TensorSpec],
    outputs: Sequence[TensorSpec],
    versions: Iterable[int],
    options: ServingOptions,
) -> ModelConfig:
    """Build the configuration of a model that serves exactly `versions`.

    Raises:
        ConfigError: no version, a graph without a batch dimension, a fixed batch size, or
            fewer than one instance.
    """
    from tritonclient.grpc import model_config_pb2 as pb

    group = pb.ModelInstanceGroup
    kind = group.KIND_GPU if options.on_gpu else group.KIND_CPU
    served = sorted(set(versions))
    if not served or served[0] < 1:
        raise ConfigError(f"{model_name}: name at least one version, each from 1 up: {served}")
    if options.instance_count < 1:
        raise ConfigError(
            f"{model_name}: the instance count is {options.instance_count}; it must be at least 1"
        )
    config = pb.ModelConfig(
        name=check_model_name(model_name),
        backend="onnxruntime",
        max_batch_size=options.max_batch_size,
        default_model_filename=MODEL_FILE,
        input=[_tensor(pb.ModelInput, spec) for spec in inputs],
        output=[_tensor(pb.ModelOutput, spec) for spec in outputs],
        version_policy=pb.ModelVersionPolicy(
            specific=pb.ModelVersionPolicy.Specific(versions=served)
        ),
        instance_group=[group(kind=kind, count=options.instance_count)],
    )
    if options.dynamic_batching:
        # No preferred sizes: Triton refuses them beyond the maximum, and ONNX gains nothing.
        config.dynamic_batching.SetInParent()
    return config


def _tensor(message: Any, spec: TensorSpec) -> Any:  # generated protobuf classes
    if not spec.shape or spec.shape[0] is not None:
        raise ConfigError(
            f"{spec.name}: shape {spec.shape} has no dynamic batch dimension in front, so Triton "
            "cannot batch requests; export the model with a free first dimension"
        )
    dims = [-1 if size is None else size for size in spec.shape[1:]]
    tensor = message(name=spec.name, data_type=_CONFIG_TYPES[spec.dtype], dims=dims or [1])
    if not dims:
        # Triton requires a dimension beside the batch; the graph has none: one value per row.
        tensor.reshape.SetInParent()
    return tensor


def with_versions(config: ModelConfig, versions: Iterable[int]) -> ModelConfig:
    """Return a copy of `config` that serves exactly `versions` and differs in nothing else."""
    served = sorted(set(versions))
    if not served:
        raise ConfigError(f"{config.name}: a model serves at least one version")
    copy = type(config)()
    copy.CopyFrom(config)
    del copy.version_policy.specific.versions[:]
    copy.version_policy.specific.versions.extend(served)
    return copy


def served_versions(config: ModelConfig) -> tuple[int, ...]:
    """Versions that the configuration names, ascending; empty unless the policy is specific."""
    return tuple(sorted(config.version_policy.specific.versions))


def to_text(config: ModelConfig) -> str:
    """Render `config.pbtxt`."""
    from google.protobuf import text_format

    return text_format.MessageToString(config)


def from_text(text: str) -> ModelConfig:
    """Parse a `config.pbtxt`; ConfigError names line and column where it does not parse."""
    from google.protobuf import text_format
    from tritonclient.grpc import model_config_pb2 as pb

    try:
        return text_format.Parse(text, pb.ModelConfig())
    except text_format.ParseError as error:
        raise ConfigError(f"config.pbtxt does not parse: {error}") from error


def load_override(config: ModelConfig) -> dict[str, Any]:
    """Return the configuration as the JSON object that Triton's load call takes."""
    from google.protobuf.json_format import MessageToDict

    return MessageToDict(config, preserving_proto_field_name=True)
