"""Versions that were made of the same things: pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from platform_assets.resources.mlflow_versions import VersionEntry
from serving_gateway.contract import CODE_VERSION_TAG, DATA_FINGERPRINT_TAG, ONNX_DIGEST_TAG

_MADE_OF: Final = (DATA_FINGERPRINT_TAG, CODE_VERSION_TAG)


def latest_equivalent_version(version: int, entries: Sequence[VersionEntry]) -> VersionEntry | None:
    """Return the newest other version with the same data and code whose graph is recorded."""
    own = next((entry for entry in entries if entry.version == version), None)
    if own is None or any(tag not in own.tags for tag in _MADE_OF):
        return None
    twins = [
        entry
        for entry in entries
        if entry.version < version
        and ONNX_DIGEST_TAG in entry.tags
        and all(entry.tags.get(tag) == own.tags[tag] for tag in _MADE_OF)
    ]
    return max(twins, key=lambda entry: entry.version, default=None)
