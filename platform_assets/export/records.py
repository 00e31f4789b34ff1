"""Records that the export assets pass on."""

from __future__ import annotations

from dataclasses import dataclass

from platform_assets.resources.records import RegisteredVersion


@dataclass(frozen=True, slots=True)
class OnnxModel:
    """A registered version's graph, stored in MLflow under its digest."""

    registered: RegisteredVersion
    sha256: str


@dataclass(frozen=True, slots=True)
class PackagedVersion:
    """A version in the Triton repository, not yet loaded."""

    model_name: str
    version: int
    run_id: str
    sha256: str
    config_text: str
    """`config.pbtxt` for this version alone; written to disk once the version is READY."""
