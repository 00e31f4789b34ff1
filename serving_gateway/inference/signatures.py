"""The signature of a version without a recorded one, from Triton's own metadata; pure."""

from __future__ import annotations

import msgspec

from serving_gateway.contract import DType, Feature, ModelMetadata, Signature
from serving_gateway.errors import VariantUnavailable


def signature_from_metadata(metadata: ModelMetadata, version: int) -> Signature:
    """The signature that Triton's own metadata implies, for a version without a recorded one.

    One 2-D input is a packed row; several inputs of one column each are one feature each; other
    forms are refused by `VariantUnavailable`.
    """
    inputs = metadata.inputs
    for tensor in inputs:
        if tensor.datatype not in set(DType):
            raise VariantUnavailable(
                f"Version {version} reads {tensor.name} as {tensor.datatype}, to which rows in "
                "JSON cannot be converted.",
                code="unsupported_signature",
            )
    widths = [tensor.shape[1] if len(tensor.shape) == 2 else 0 for tensor in inputs]
    columns = [(tensor.name, DType(tensor.datatype)) for tensor in inputs]
    packed = None
    if len(widths) == 1 and widths[0] > 0:
        ((packed, dtype),) = columns
        columns = [(f"{packed}_{i}", dtype) for i in range(widths[0])]
    elif set(widths) != {1}:
        shapes = ", ".join(f"{tensor.name} {list(tensor.shape)}" for tensor in inputs)
        raise VariantUnavailable(
            f"Version {version} has no recorded signature, and its inputs ({shapes}) do not tell "
            "how a row maps to them. Register it with a signature.",
            code="unsupported_signature",
        )
    # Whether a text may be missing was not recorded, so an empty one is taken for a text.
    features = tuple(Feature(*column, nullable=column[1] is DType.BYTES) for column in columns)
    plain = Signature(features, packed)
    outputs = [tensor.name for tensor in metadata.outputs]
    label, scores = plain.label_output, plain.probabilities_output
    return msgspec.structs.replace(
        plain,
        label_output=label if label in outputs else outputs[0],
        probabilities_output=scores if scores in outputs else None,
    )
