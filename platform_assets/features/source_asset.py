"""The external asset `[name, source]`, identified by the digest of its content.

Dagster calls `features` out of date when the source version they were made from is not the newest
one recorded. Both are recorded here, because Dagster compares materializations only for external
assets, and reads the versions of a step's inputs before the step itself reads the inputs.
"""

from __future__ import annotations

from typing import Final

import dagster as dg

from platform_assets.model_spec import SourceSpec

_VERSION_TAG: Final = "dagster/data_version"
_INPUT_VERSION_TAG: Final = "dagster/input_data_version"


def source_asset(spec: SourceSpec) -> dg.AssetSpec:
    """Return `[name, source]`."""
    return dg.AssetSpec(
        **spec.asset("source"),
        kinds={spec.source.kind},
        description=f"What `{spec.name}` is read from. Its data version is the digest of its "
        "content when it was last read, so `features` made from other content are out of date.",
    )


def source_event(spec: SourceSpec, fingerprint: str) -> dg.AssetMaterialization:
    """Return the record that the source has this content."""
    return dg.AssetMaterialization(spec.key("source"), tags={_VERSION_TAG: fingerprint})


def record_source(instance: dg.DagsterInstance, spec: SourceSpec, fingerprint: str) -> None:
    """Record that the source has this content, unless that is its newest record.

    It belongs to no run, since no run materializes the source.
    """
    newest = instance.get_latest_materialization_event(dg.AssetKey(spec.key("source")))
    recorded = newest and newest.asset_materialization
    if not recorded or (recorded.tags or {}).get(_VERSION_TAG) != fingerprint:
        instance.report_runless_asset_event(source_event(spec, fingerprint))


def read_version_tags(spec: SourceSpec, fingerprint: str) -> dict[str, str]:
    """Return the tags of a materialization that was made from this content of the source."""
    source = dg.AssetKey(spec.key("source")).to_user_string()
    return {f"{_INPUT_VERSION_TAG}/{source}": fingerprint}
