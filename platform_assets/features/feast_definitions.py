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
    """Return what a model or a feature table reads: entity, source, view, and a model's service.

    The data stands below `data_dir`, of which two stacks have one each. Its whole path is
    registered, for Feast would look for a part of one below the directory of the process.

    View and service of a model are named after the contract of the features, so that what an
    older version reads stays as it is beside them. A model of feature tables has no view.
    `external` are the registered views of others, by table: without them a model that reads such
    has nothing here, as has the table itself.
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
    views |= {one.name: _view(one, data_dir)[-1] for one in spec.tables if not one.is_external}
    read = {
        table.name: [one.name for one in spec.features if one.table == table.name]
        for table in spec.tables
    }
    return [_service(spec, [views[name][columns] for name, columns in read.items()])]


def _view(spec: SourceSpec, data_dir: Path) -> list[Any]:
    """Return entity, source and view, in this order."""
    from feast import Entity, FeatureView, Field, FileSource, ValueType
    from feast.types import from_value_type

    types = {dtype: ValueType[name] for dtype, name in VALUE_TYPES.items()}
    key = spec.join_key
    columns = [(key.name, key.dtype), *((one.name, one.dtype) for one in spec.features)]
    entity = Entity(
        # With the type in its name: a key that changes it is another entity, and the views
        # that know the old one go on.
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
