"""What a version reads and answers, and where it came from."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from enum import StrEnum

from serving_gateway.contract.names import LABEL_OUTPUT, MAX_BATCH_SIZE, PROBABILITIES_OUTPUT
from serving_gateway.contract.struct import Struct


class DType(StrEnum):
    """Tensor element types that the platform serves, by their Open Inference Protocol names."""

    FP32 = "FP32"
    FP64 = "FP64"
    INT64 = "INT64"
    BOOL = "BOOL"
    BYTES = "BYTES"
    """UTF-8 text; Triton's configuration calls it TYPE_STRING."""

    __hash__ = str.__hash__  # an enumeration's own costs a call in Python at each look-up


class Feature(Struct, frozen=True):
    """One column that a model reads."""

    name: str
    dtype: DType
    nullable: bool = False
    """Whether a value may be missing: null in JSON."""

    @property
    def tensor_dtype(self) -> DType:
        """Type of the column's tensor.

        A tensor has no null, so what may be missing travels as a type that has a value to say
        so: NaN among numbers (INT64 as FP64, BOOL as FP32), the empty text among texts.
        """
        if self.nullable and self.dtype is DType.INT64:
            return DType.FP64
        if self.nullable and self.dtype is DType.BOOL:
            return DType.FP32
        return self.dtype


def feature_contract(features: Sequence[Feature]) -> str:
    """Digest of what a model reads: names and types, in order; 64 hexadecimal digits.

    Whether a value may be missing is not part of it: a feature store does not know.
    """
    lines = "\n".join(f"{feature.name} {feature.dtype.value}" for feature in features)
    return hashlib.sha256(lines.encode()).hexdigest()


class Signature(Struct, frozen=True):
    """What a version reads and answers; kept as JSON with its run (`SIGNATURE_ARTIFACT`).

    `features` stand in the order in which the model was trained, which is the order of the
    columns of a row. `packed_input` names the single [-1, len(features)] tensor when all
    features share it; None means one [-1, 1] tensor per feature, named after the feature.
    `classes` are the class labels in the column order of the probabilities; empty for a
    regression, which has no probabilities.
    """

    features: tuple[Feature, ...]
    packed_input: str | None
    classes: tuple[int | str | bool, ...] = ()
    label_output: str = LABEL_OUTPUT
    probabilities_output: str | None = PROBABILITIES_OUTPUT
    feature_service: str | None = None
    """The Feast service that has the features by entity; None when there is none."""
    max_batch_rows: int = MAX_BATCH_SIZE
    """Rows that Triton takes in one inference."""


class Lineage(Struct, frozen=True):
    """Where a version came from, as the registry records it; None for what is not recorded."""

    data_fingerprint: str | None = None
    """SHA-256 of the source's content."""
    code_version: str | None = None
    """Digest of the model file and of the locked packages that trained the version."""
    dagster_run_id: str | None = None
    onnx_sha256: str | None = None
