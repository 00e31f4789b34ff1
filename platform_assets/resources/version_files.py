"""Verify a packaged version directory. Lightweight: does not import Dagster."""

from __future__ import annotations

import hashlib
from pathlib import Path

import msgspec

from platform_assets.resources.records import SplitRecord
from serving_gateway.contract import MODEL_FILE, PROVENANCE_FILE, Signature


class RepositoryError(Exception):
    """The repository is in a wrong state; nothing that serves was changed."""


class DigestMismatch(RepositoryError):
    """A version's bytes differ from the packaged ones."""


class Provenance(msgspec.Struct, frozen=True):
    """The origin of a version; stored beside the model as `provenance.json`."""

    model_name: str
    version: int
    run_id: str
    onnx_sha256: str
    data_fingerprint: str
    packaged_by: str
    """Dagster run that packaged it."""
    signature: Signature | None = None
    """Its inputs and outputs; None if an earlier release packaged it, as below."""
    split: SplitRecord | None = None
    """Which rows its training held out."""
    threshold: float | None = None
    """Probability from which it answers the second of two classes; None for the likeliest."""


def verify_version(directory: Path) -> Provenance:
    """Re-check a version's bytes against its provenance.

    Raises:
        RepositoryError: the version, its model or its provenance is missing or unreadable.
        DigestMismatch: `model.onnx` was changed or truncated after packaging.
    """
    try:
        provenance = msgspec.json.decode(
            (directory / PROVENANCE_FILE).read_bytes(), type=Provenance
        )
        with (directory / MODEL_FILE).open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except (OSError, msgspec.MsgspecError) as error:
        raise RepositoryError(f"{directory} is not a whole version: {error}") from error
    if digest != provenance.onnx_sha256:
        raise DigestMismatch(
            f"{directory / MODEL_FILE} has digest {digest}, packaged was "
            f"{provenance.onnx_sha256}: it was changed or truncated after packaging"
        )
    return provenance
