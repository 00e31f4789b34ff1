"""The signature of a version without a recorded one, from Triton's own metadata: pure."""

from __future__ import annotations

from serving_gateway.contract import DType, Feature, Signature
from serving_gateway.errors import VariantUnavailable
from serving_gateway.triton.protocol import TritonModelMetadata


def signature_from_metadata(found: TritonModelMetadata, version: int) -> Signature:
    """The signature that Triton's own metadata imply, for a version without a recorded one.

    One 2-D input is a packed row; several inputs of one column each are one feature each.

    Raises:
        VariantUnavailable: the inputs are of neither form.
    """
    known = {dtype.value for dtype in DType}
    for tensor in found.inputs:
        if tensor.datatype not in known:
            raise VariantUnavailable(
                f"Version {version} reads {tensor.name} as {tensor.datatype}, which rows in JSON "
                "cannot be turned into here.",
                code="unsupported_signature",
            )
    widths = [tensor.shape[1] if len(tensor.shape) == 2 else 0 for tensor in found.inputs]
    if len(widths) == 1 and widths[0] > 0:
        (tensor,) = found.inputs
        dtype = DType(tensor.datatype)
        packed: str | None = tensor.name
        features = tuple(
            Feature(f"{tensor.name}_{i}", dtype, nullable=dtype is DType.BYTES)
            for i in range(widths[0])
        )
    elif found.inputs and all(width == 1 for width in widths):
        packed = None
        # Whether a text may be missing was not recorded, so an empty one is taken for a text.
        features = tuple(
            Feature(t.name, DType(t.datatype), nullable=t.datatype == DType.BYTES)
            for t in found.inputs
        )
    else:
        shapes = ", ".join(f"{t.name} {list(t.shape)}" for t in found.inputs)
        raise VariantUnavailable(
            f"Version {version} has no recorded signature, and its inputs ({shapes}) do not tell "
            "how a row maps to them. Register it with a signature.",
            code="unsupported_signature",
        )
    names = [tensor.name for tensor in found.outputs]
    plain = Signature(features=features, packed_input=packed)
    label = plain.label_output if plain.label_output in names else names[0]
    scores = plain.probabilities_output
    return Signature(
        features=features,
        packed_input=packed,
        label_output=label,
        probabilities_output=scores if scores in names else None,
    )
