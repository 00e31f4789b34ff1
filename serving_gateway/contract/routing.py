"""All that the pipeline and the gateway share: names, paths, signature, routing record.

Nothing here does I/O. The words are those of the README's glossary; a version is the same
integer in MLflow, in the Triton repository and in the routing record, never mapped.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from enum import StrEnum
from pathlib import PurePath
from typing import Final

import msgspec

DEFAULT_MODEL: Final = "best_model"
VARIANTS: Final = ("A", "B")
"""A is production, B is the shadow or the candidate."""

MODEL_FILE: Final = "model.onnx"
PROVENANCE_FILE: Final = "provenance.json"
CONFIG_FILE: Final = "config.pbtxt"

LABEL_OUTPUT: Final = "label"
PROBABILITIES_OUTPUT: Final = "probabilities"

RUN_ID_TAG: Final = "serving.run_id"
SIGNATURE_TAG: Final = "serving.signature"
ONNX_DIGEST_TAG: Final = "serving.onnx_sha256"
DATA_FINGERPRINT_TAG: Final = "serving.data_fingerprint"
CODE_VERSION_TAG: Final = "serving.code_version"
DAGSTER_RUN_TAG: Final = "serving.dagster_run_id"
"""Tags of a registered model version in MLflow."""

RECORD_SCHEMA: Final = 1

MAX_BATCH_SIZE: Final = 1024
"""Rows that one inference may carry: packaging writes it to config.pbtxt, the gateway keeps it."""

_MODEL_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,99}", re.ASCII)


def is_model_name(name: str) -> bool:
    """Whether `check_model_name` accepts `name`."""
    return _MODEL_NAME.fullmatch(name) is not None


def check_model_name(name: str) -> str:
    """Return `name` when it may name an MLflow model and a Triton directory alike.

    Raises:
        ValueError: for anything but an ASCII letter followed by up to 99 letters, digits,
            underscores and hyphens. That rules out path parts, leading digits (which Triton
            would read as a version) and look-alike letters.
    """
    if not is_model_name(name):
        raise ValueError(
            f"model name {name!r}: use an ASCII letter, then up to 99 ASCII letters, digits, "
            "underscores or hyphens"
        )
    return name


def version_directory(model_name: str, version: int) -> PurePath:
    """Path of a version inside a Triton repository, relative to its root.

    Raises:
        ValueError: for a bad model name or a version below 1.
    """
    if version < 1:
        raise ValueError(f"version {version}: MLflow versions start at 1")
    return PurePath(check_model_name(model_name)) / str(version)


class Mode(StrEnum):
    """How a variant got its version."""

    SSOT = "ssot"
    """By a reload that followed Triton, or by the pipeline's promotion."""
    PINNED = "pinned"
    """By an operator's explicit choice or a rollback; automation never overrides it silently."""


class Strategy(StrEnum):
    """What variant B gets of the traffic."""

    OFF = "off"
    SPLIT = "split"
    """B answers its share of the clients."""
    MIRROR = "mirror"
    """B gets a copy of its share; its answer is compared and dropped."""


class DType(StrEnum):
    """Tensor element types that the platform serves, by their Open Inference Protocol names."""

    FP32 = "FP32"
    FP64 = "FP64"
    INT64 = "INT64"
    BOOL = "BOOL"
    BYTES = "BYTES"
    """UTF-8 text; Triton's configuration calls it TYPE_STRING."""


class Feature(msgspec.Struct, frozen=True):
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


class Signature(msgspec.Struct, frozen=True):
    """What a version reads and answers; stored as JSON in the version's `SIGNATURE_TAG`.

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


class Lineage(msgspec.Struct, frozen=True):
    """Where a version came from, as the registry records it; None for what is not recorded."""

    data_fingerprint: str | None = None
    """SHA-256 of the source's content."""
    code_version: str | None = None
    """Digest of the model file and of the locked packages that trained the version."""
    dagster_run_id: str | None = None
    onnx_sha256: str | None = None


class Slot(msgspec.Struct, frozen=True):
    """The version that a variant routes to, and where that choice came from."""

    version: int
    run_id: str
    run_id_source: str
    """`registry`, `caller` or `record`: who vouched for `run_id` when the slot was taken."""
    mode: Mode
    signature: Signature | None = None
    """None when the registry could not be asked: rows are then checked against Triton's own
    metadata by width and type only."""
    model_name: str | None = None
    """Another Triton model than the record's, for a variant that lives beside it."""
    triton_url: str | None = None
    """Another Triton than the gateway's default one."""
    lineage: Lineage = Lineage()


class Traffic(msgspec.Struct, frozen=True):
    """The traffic policy between A and B."""

    strategy: Strategy = Strategy.OFF
    percent: float = 0.0
    """B's share of the clients, 0-100, in steps of 0.01."""
    salt: str | None = None
    """Makes a cohort independent of others; None keeps the documented plain rule."""


class Switch(msgspec.Struct, frozen=True):
    """One move of a variant onto another version."""

    generation: int
    """The one that the move made."""
    version: int
    run_id: str
    mode: Mode
    previous_version: int | None
    after: int
    """Generation of the variant's switch before this one; 0 for the first. Where that one was
    not written down (by a release that kept no switches), the last generation that may hide it."""
    at: str
    """RFC 3339 time in UTC."""
    by: str
    reason: str | None


class RoutingRecord(msgspec.Struct, frozen=True):
    """The revisioned document that all replicas route by.

    `generation` grows by one with each accepted change (0: nothing was ever routed).
    `previous` holds, per variant, the slots it routed to before, newest first: where a
    rollback goes, which takes them away. `switches` holds, per variant, its last switches,
    newest first, whatever way they went: for those who look only from time to time.
    """

    model_name: str
    generation: int = 0
    variants: dict[str, Slot] = msgspec.field(default_factory=dict)
    traffic: Traffic = msgspec.field(default_factory=Traffic)
    previous: dict[str, tuple[Slot, ...]] = msgspec.field(default_factory=dict)
    changed_at: str | None = None
    """RFC 3339 time in UTC of the change that made this generation."""
    changed_by: str | None = None
    reason: str | None = None
    schema: int = RECORD_SCHEMA
    switches: dict[str, tuple[Switch, ...]] = msgspec.field(default_factory=dict)


class ReloadRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Body of `POST /variant/{alias}/reload`; every field is optional.

    A named `version` without a `mode` is an operator's choice and pins the variant. The
    pipeline names `mode: ssot`; it is refused (409) while the variant is pinned, unless
    `unpin` says that this is meant.
    """

    version: int | None = None
    run_id: str | None = None
    mode: Mode | None = None
    unpin: bool = False
    reason: str | None = None
    """Why, for the record; shown by `GET /models`."""
    feature_contract: str | None = None
    """Refuse (409) a version whose recorded signature has another digest than this one."""


class ReloadAnswer(msgspec.Struct, frozen=True):
    """Body of a reload that was carried out."""

    status: str
    """Always `success`: anything else is an error answer."""
    variant: str
    version: int
    run_id: str
    run_id_source: str
    mode: Mode
    generation: int
    previous_version: int | None
    changed: bool
    """False when the variant already routed to exactly this version in this mode."""
    other_ready_versions: tuple[int, ...] = ()
    """READY in Triton beside the chosen one; listed, never taken."""


class TrafficRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Body of `PUT /traffic`."""

    strategy: Strategy
    percent: float = 0.0
    """B's share of the clients, 0-100, in steps of 0.01."""
    salt: str | None = None
    expected_generation: int | None = None
    """Refuse (409) unless the record still has this generation."""
    reason: str | None = None


class RollbackRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Body of `POST /variant/{alias}/rollback`; every field is optional."""

    version: int | None = None
    """Where to go: any registered version that is READY; None is the version before."""
    reason: str | None = None
