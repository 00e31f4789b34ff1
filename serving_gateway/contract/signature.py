"""What a version reads and answers, and where it came from."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Sequence
from enum import StrEnum
from typing import Final

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

    __hash__ = str.__hash__  # an enumeration's own costs a Python call at each look-up


_NULLABLE: Final = {DType.INT64: DType.FP64, DType.BOOL: DType.FP32}


class Feature(Struct, frozen=True):
    """One column that a model reads."""

    name: str
    dtype: DType
    nullable: bool = False

    @property
    def tensor_dtype(self) -> DType:
        """Type of the column's tensor.

        A tensor has no null, so what may be missing travels as NaN among numbers (INT64 as FP64,
        BOOL as FP32) and as the empty text among texts.
        """
        return _NULLABLE.get(self.dtype, self.dtype) if self.nullable else self.dtype


def feature_contract(features: Sequence[Feature], request: Collection[str] = ()) -> str:
    """SHA-256 of what a model reads, in hexadecimal: names and types, in order.

    Those that callers send by name (`request`) are marked, since a feature that moves out of the
    store asks more of them. Whether a value may be missing is not part of it: a feature store does
    not know.
    """
    marked = frozenset(request)
    lines = [
        f"{'request ' if feature.name in marked else ''}{feature.name} {feature.dtype.value}"
        for feature in features
    ]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


class Signature(Struct, frozen=True, weakref=True):
    """What a version reads and answers; kept as JSON with its run (`SIGNATURE_ARTIFACT`).

    `features` are in the order of a row's columns. `packed_input` names the [-1, len(features)]
    tensor that all share; None means a [-1, 1] tensor per feature, named after it. `classes` are
    the labels in the column order of the probabilities; a regression has neither.
    """

    features: tuple[Feature, ...]
    packed_input: str | None
    classes: tuple[int | str | bool, ...] = ()
    label_output: str = LABEL_OUTPUT
    probabilities_output: str | None = PROBABILITIES_OUTPUT
    feature_service: str | None = None
    """The Feast service that has the features by entity."""
    max_batch_rows: int = MAX_BATCH_SIZE
    """Rows that Triton takes in one inference."""
    join_keys: tuple[str, ...] = ()
    """Names of the keys by which the service is read; () where that was not recorded, for a
    service with one key."""
    request: tuple[str, ...] = ()
    """Names of the features that only callers know; the service has the others."""


class Lineage(Struct, frozen=True):
    """Where a version came from; None for what the registry does not record."""

    data_fingerprint: str | None = None
    code_version: str | None = None
    """Digest of the model file and of the locked packages that trained the version."""
    dagster_run_id: str | None = None
    onnx_sha256: str | None = None
