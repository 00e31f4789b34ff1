"""Read a model configuration, and check that an ONNX graph fits it. Pure functions.

Configurations are Triton's JSON form. All refusals are `BadEntry`, with the reason that Triton
shows to the client of the load.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

# NVIDIA's backend gives a batching model this size when its configuration gives none.
DEFAULT_MAX_BATCH_SIZE = 4
_TRITON_TYPES = {
    "tensor(bool)": "TYPE_BOOL",
    **{f"tensor(int{bits})": f"TYPE_INT{bits}" for bits in (8, 16, 32, 64)},
    **{f"tensor(uint{bits})": f"TYPE_UINT{bits}" for bits in (8, 16, 32, 64)},
    "tensor(float16)": "TYPE_FP16",
    "tensor(float)": "TYPE_FP32",
    "tensor(double)": "TYPE_FP64",
    "tensor(string)": "TYPE_STRING",
}
_UNSUPPORTED = ("sequence_batching", "batch_input", "batch_output")


class BadEntry(Exception):
    """The entry cannot be served here; the message says why."""


class GraphTensor:
    """An input or output of the graph; a dimension of any size is -1."""

    def __init__(self, node: Any) -> None:
        """Read an ONNX Runtime node argument; refuse what Triton has no type for."""
        self.name: str = node.name
        if node.type not in _TRITON_TYPES:
            raise BadEntry(
                f"'{node.name}' of the graph is a {node.type}: only tensors of numbers, booleans "
                "and text can be served (scikit-learn's export makes a map unless zipmap is off)"
            )
        self.data_type = _TRITON_TYPES[node.type]
        self.shape = [size if isinstance(size, int) and size >= 0 else -1 for size in node.shape]


def refuse_unsupported(config: Mapping[str, Any], instance_kind: str) -> None:
    """Raise BadEntry for a configuration that this backend does not support."""
    if instance_kind != "CPU":
        raise BadEntry(f"instance kind {instance_kind}: this backend runs on the CPU, use KIND_CPU")
    unsupported = [option for option in _UNSUPPORTED if config.get(option)]
    unsupported += [
        "allow_ragged_batch" for entry in config["input"] if entry.get("allow_ragged_batch")
    ]
    accelerators = config.get("optimization", {}).get("execution_accelerators", {})
    unsupported += [
        f"accelerator {entry.get('name')}"
        for entry in accelerators.get("cpu_execution_accelerator", [])
    ]
    if config.get("model_transaction_policy", {}).get("decoupled"):
        unsupported.append("decoupled transactions")
    if unsupported:
        raise BadEntry(
            f"{', '.join(unsupported)}: not supported by the embedded ONNX Runtime backend; "
            "serve this entry with NVIDIA's container"
        )


def parameter(config: Mapping[str, Any], name: str) -> str | None:
    """Return the text of a parameter; None if it is not set."""
    value = config.get("parameters", {}).get(name)
    return None if value is None else str(value["string_value"])


def integer(config: Mapping[str, Any], name: str) -> int:
    """Return a parameter that is a whole number; 0 if it is not set."""
    text = parameter(config, name)
    try:
        return int(text or 0)
    except ValueError:
        raise BadEntry(f"parameter {name} is {text!r}: give a whole number") from None


def boolean(config: Mapping[str, Any], name: str, *, default: bool) -> bool:
    """Return a parameter that is a switch; `default` if it is not set."""
    text = parameter(config, name)
    if text is None:
        return default
    known = {"1": True, "true": True, "0": False, "false": False}
    if text.lower() not in known:
        raise BadEntry(f"parameter {name} is {text!r}: give 1, 0, true or false")
    return known[text.lower()]


def check_inputs(
    config: Mapping[str, Any], inputs: Sequence[GraphTensor], overridable: Sequence[GraphTensor]
) -> None:
    """Raise unless each input of the graph is configured, with its type and a shape that fits."""
    batching = int(config.get("max_batch_size", 0)) > 0
    entries = config["input"]
    required = {entry["name"] for entry in entries if not entry.get("optional")}
    left_out = sorted({tensor.name for tensor in inputs} - required)
    if left_out:
        raise BadEntry(
            f"the graph needs the inputs {', '.join(left_out)}, which the configuration leaves "
            "out or calls optional"
        )
    known = {tensor.name: tensor for tensor in [*inputs, *overridable]}
    for entry in entries:
        if entry.get("optional") and batching:
            raise BadEntry(
                f"input '{entry['name']}' is optional, which a model that batches cannot have"
            )
        _check_tensor("input", entry, known, batching=batching, exact=False)


def check_outputs(config: Mapping[str, Any], outputs: Sequence[GraphTensor]) -> None:
    """Raise unless each configured output is one of the graph, with its type and exact shape."""
    batching = int(config.get("max_batch_size", 0)) > 0
    known = {tensor.name: tensor for tensor in outputs}
    for entry in config["output"]:
        _check_tensor("output", entry, known, batching=batching, exact=True)


def _check_tensor(
    kind: str,
    entry: Mapping[str, Any],
    known: Mapping[str, GraphTensor],
    *,
    batching: bool,
    exact: bool,
) -> None:
    name = entry["name"]
    tensor = known.get(name)
    if tensor is None:
        raise BadEntry(
            f"the configuration names the {kind} '{name}', the graph has {', '.join(known)}"
        )
    if entry["data_type"] != tensor.data_type:
        raise BadEntry(
            f"{kind} '{name}' is {entry['data_type']} in the configuration and "
            f"{tensor.data_type} in the graph"
        )
    configured = shape_of(entry)
    if not tensor.shape:
        fits = all(size == 1 for size in configured)
    elif batching and tensor.shape[0] != -1:
        raise BadEntry(
            f"{kind} '{name}' has shape {tensor.shape} in the graph: a model with max_batch_size "
            "above 0 needs a first dimension of any size"
        )
    else:
        configured = [-1, *configured] if batching else configured
        fits = len(configured) == len(tensor.shape) and all(
            size == theirs or (theirs == -1 and not exact)
            for size, theirs in zip(configured, tensor.shape, strict=True)
        )
    if not fits:
        raise BadEntry(
            f"{kind} '{name}' has shape {configured} by the configuration"
            f"{' (with the batch dimension)' if batching else ''} and {tensor.shape} in the graph"
        )


def shape_of(entry: Mapping[str, Any]) -> list[int]:
    """Return the shape that the graph receives: that of `reshape`, if there is one."""
    dims = entry["reshape"].get("shape", []) if "reshape" in entry else entry["dims"]
    return [int(size) for size in dims]


def complete(
    config: dict[str, Any], inputs: Sequence[GraphTensor], outputs: Sequence[GraphTensor]
) -> None:
    """Fill in what an entry omits: inputs or outputs, batch size, dynamic batching."""
    tensors = [*inputs, *outputs]
    batches = all(tensor.shape and tensor.shape[0] == -1 for tensor in tensors)
    size = int(config.get("max_batch_size", 0))
    if batches:
        size = config["max_batch_size"] = size or DEFAULT_MAX_BATCH_SIZE
        if size > 1 and not config.get("sequence_batching"):
            config.setdefault("dynamic_batching", {})
    elif size:
        raise BadEntry(
            f"max_batch_size is {size}, but the graph has tensors without a first dimension of "
            f"any size: {', '.join(f'{t.name} {t.shape}' for t in tensors)}"
        )
    for kind, group in (("input", inputs), ("output", outputs)):
        if not config.get(kind):
            config[kind] = [_entry(tensor, batching=size > 0) for tensor in group]


def _entry(tensor: GraphTensor, *, batching: bool) -> dict[str, Any]:
    dims = tensor.shape[1:] if batching else tensor.shape
    entry: dict[str, Any] = {
        "name": tensor.name,
        "data_type": tensor.data_type,
        "dims": dims or [1],
    }
    if batching and not dims:
        entry["reshape"] = {"shape": []}
    return entry
