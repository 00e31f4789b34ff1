"""Feast's objects of a model or a feature table, made from its specification."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from platform_assets.features.storage import FEATURES_FILE
from platform_assets.model_spec import FeatureTableSpec, ModelSpec, SourceSpec
from platform_assets.resources.feast import MODEL_TAG, VALUE_TYPES
from serving_gateway.contract import import_feast


def feast_definitions(
    spec: SourceSpec, data_dir: Path, external: Mapping[str, Any] | None = None
) -> list[Any]:
    """Return the Feast objects of a model or a table: entity, source, view, a model's service.

    The data lies below `data_dir`, which is separate for each stack. Its absolute path is
    registered, since Feast resolves a relative one against the working directory.

    View and service of a model are named after the contract of the features, so that those of
    older versions stay beside them. A model of feature tables has no view. `external` are the
    registered views of externally filled tables, by table: without them nothing is returned for
    a model that reads one, nor for such a table itself.
    """
    import_feast()
    if not isinstance(spec, ModelSpec):
        is_external = isinstance(spec, FeatureTableSpec) and spec.is_external
        return [] if is_external else _view(spec, data_dir)
    if spec.labels is None:
        objects = _view(spec, data_dir)
        return [*objects, _service(spec, [objects[-1]])]
    views = dict(external or {})
    if any(table.is_external and table.name not in views for table in spec.tables):
        return []
    views |= {
        table.name: _view(table, data_dir)[-1] for table in spec.tables if not table.is_external
    }
    read = {
        table.name: [feature.name for feature in spec.features if feature.table == table.name]
        for table in spec.tables
    }
    return [_service(spec, [views[name][columns] for name, columns in read.items()])]


def _view(spec: SourceSpec, data_dir: Path) -> list[Any]:
    """Return entity, source and view, in this order."""
    from feast import Entity, FeatureView, Field, FileSource, ValueType
    from feast.types import from_value_type

    types = {dtype: ValueType[name] for dtype, name in VALUE_TYPES.items()}
    key = spec.join_key
    columns = [(key.name, key.dtype), *((feature.name, feature.dtype) for feature in spec.features)]
    entity = Entity(
        # Named with its type: if the key's type changes, it is a new entity, and existing views
        # keep the old one.
        name=f"{spec.name}_{key.name}_{key.dtype.value.lower()}",
        join_keys=[key.name],
        value_type=types[key.dtype],
        description=f"The entity of a row of {spec.name}.",
    )
    source = FileSource(
        name=f"{spec.feature_view}_source",
        path=str(data_dir.absolute() / spec.name / FEATURES_FILE),
        timestamp_field=spec.event_timestamp,
    )
    view = FeatureView(
        name=spec.feature_view,
        entities=[entity],
        ttl=spec.expires_after,
        schema=[Field(name=name, dtype=from_value_type(types[dtype])) for name, dtype in columns],
        source=source,
        online=True,
        description=spec.description,
    )
    return [entity, source, view]


def _service(spec: ModelSpec, features: list[Any]) -> Any:
    from feast import FeatureService

    return FeatureService(
        name=spec.feature_service,
        features=features,
        description=f"The features of {spec.model_name}, in order: contract {spec.contract}.",
        tags={MODEL_TAG: spec.model_name, "feature_contract": spec.contract},
    )
