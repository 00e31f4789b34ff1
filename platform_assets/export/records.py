"""What the export assets hand on."""

from __future__ import annotations

from dataclasses import dataclass

from platform_assets.resources.records import SplitRecord
from serving_gateway.contract import Signature


@dataclass(frozen=True, slots=True)
class OnnxModel:
    """A registered version's graph, kept in MLflow under its digest."""

    model_name: str
    version: int
    run_id: str
    sha256: str
    size_bytes: int
    signature: Signature
    data_fingerprint: str
    split: SplitRecord | None = None
    """Which rows its training held out; None when it was not recorded."""


@dataclass(frozen=True, slots=True)
class PackagedVersion:
    """A version that stands in the Triton repository, not yet loaded."""

    model_name: str
    version: int
    run_id: str
    sha256: str
    config_text: str
    """`config.pbtxt` for this version alone; it reaches the disk when the version is READY."""
